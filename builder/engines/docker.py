"""The docker engine: BuildKit in a Docker daemon, which must be reached by `DOCKER_HOST` or its usual socket.

Layers are cached by the daemon, and in the registry inside the image itself (`BUILDKIT_INLINE_CACHE`). It promises
that names it gave to images in the daemon go when it closes; the daemon's build cache is the daemon's own to bound.
Needs Docker 20.10 or newer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING

from builder.engines.containers import (
    BUILD_SECONDS,
    CALL_SECONDS,
    NO_IGNORE,
    Built,
    Network,
    Order,
    Ran,
    Workplace,
    base_digest,
    build_failure,
    own_environment,
    push_failure,
    run,
    silent,
    write_authentication,
)
from builder.errors import BuildFailedError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

CACHE_TAG = "slipway-cache"
FIRST_WITHOUT_BUILDKIT = 23  # from here on, buildx is a plugin that may be missing
LOOK_SECONDS = 20
_BASE = re.compile(r"\] FROM (?P<name>\S+?)@(?P<digest>sha256:[0-9a-f]{64})")
_STEP = re.compile(r"^ > \[(?:.* )?\d+/\d+\] (?P<step>.*):\s*$")
_DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64}) size")


def find_docker() -> str | None:
    """Find a Docker client that can ask for BuildKit: one with buildx, or one older than 23, which has it built in."""
    for folder in os.get_exec_path():
        path = shutil.which("docker", path=folder)
        if path is None:
            continue
        said = [_said(path, "buildx", "version"), _said(path, "--version")]
        version = re.search(r"version (\d+)\.", said[1] or "")
        if said[0] is not None or (version is not None and int(version.group(1)) < FIRST_WITHOUT_BUILDKIT):
            return path
    return None


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LOOK_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


class Docker:
    """A Docker daemon's builder."""

    name = "docker"

    def __init__(self, place: Workplace) -> None:
        found = find_docker()
        if found is None:
            raise UnavailableError("No Docker client here can build with BuildKit: install docker-buildx.")
        self._program = found
        self._say = place.say
        self._folder = place.folder
        self._names: list[str] = []
        for name in ("config", "recipe"):
            (place.folder / name).mkdir()
        write_authentication(place.folder / "config" / "config.json", place)
        self._environment = own_environment(DOCKER_CONFIG=str(place.folder / "config"), DOCKER_BUILDKIT="1")

    def build(self, order: Order) -> Built:
        """Build an image, or write files where the order says so."""
        name = f"slipway-build:{uuid.uuid4().hex}"
        recipe = self._folder / "recipe"
        (recipe / "Dockerfile").write_text(order.dockerfile, encoding="utf-8")
        (recipe / "Dockerfile.dockerignore").write_text(NO_IGNORE, encoding="utf-8")  # comes before the context's own
        command = ["build", "--progress", "plain", "--file", str(recipe / "Dockerfile")]
        command += [] if order.is_local else ["--pull"]
        command += ["--no-cache"] if order.is_fresh else []
        if order.cache is not None:
            command += ["--build-arg", "BUILDKIT_INLINE_CACHE=1"]
            command += [] if order.is_fresh else ["--cache-from", f"{order.cache}:{CACHE_TAG}"]
        command += [] if order.network is Network.DEFAULT else ["--network", order.network]
        command += [part for id_, file in order.secrets.items() for part in ("--secret", f"id={id_},src={file}")]
        command += [part for each in order.arguments.items() for part in ("--build-arg", "=".join(each))]
        if order.output is not None:
            command += ["--output", f"type=local,dest={order.output}"]
        else:
            command += ["--tag", name]
            self._names.append(name)
        ran = self._run([*command, str(order.context)], say=silent if order.is_local else self._say)
        if ran.code != 0:
            raise _failure(ran, is_shown=not order.is_local)
        if order.cache is not None and order.output is None:
            self._push_cache(name, f"{order.cache}:{CACHE_TAG}")
        pulled = {found.group("name"): found.group("digest") for line in ran.lines for found in _BASE.finditer(line)}
        return Built(name=name, base_digest=base_digest(pulled, order.dockerfile))

    def user(self, image: str) -> str:
        """Say which user an image runs as."""
        ran = self._run(["image", "inspect", "--format", "{{json .Config.User}}", image], say=silent)
        if ran.code != 0:
            raise BuildFailedError("Docker lost the image that it built.", tail="\n".join(ran.lines))
        return str(json.loads(ran.lines[-1]))

    def push(self, image: str, reference: str) -> str:
        """Push an image under a reference; its digest."""
        self._names.append(reference)
        ran = self._run(["tag", image, reference], say=silent)
        if ran.code == 0:
            ran = self._run(["push", reference], say=silent)
        if ran.code != 0:
            raise push_failure(ran, reference)
        found = _DIGEST.search("\n".join(ran.lines))
        if found is None:
            raise RefusedError(f"Docker pushed {reference} and did not say which digest it has now.")
        return found.group(1)

    def close(self) -> None:
        """Forget the names that were given in the daemon, and the folder."""
        if self._names:
            command = [self._program, "image", "rm", *self._names]
            subprocess.run(
                command, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=CALL_SECONDS,
                env=self._environment,
            )  # fmt: skip
            self._names.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _push_cache(self, image: str, reference: str) -> None:
        """Keep the layers for later builds; where the registry would not, the image itself will say so."""
        self._names.append(reference)
        self._run(["tag", image, reference], say=silent)
        self._run(["push", reference], say=silent)

    def _run(self, arguments: list[str], *, say: Callable[[str], None]) -> Ran:
        return run([self._program, *arguments], self._environment, say, seconds=BUILD_SECONDS)


def _failure(ran: Ran, *, is_shown: bool) -> Exception:
    step = next((found.group("step") for line in reversed(ran.lines) if (found := _STEP.match(line))), None)
    said = next((line for line in reversed(ran.lines) if "failed to" in line or "rror" in line), "")
    words = said or (ran.lines[-1] if ran.lines else "Docker said nothing")
    return build_failure(ran, step=step, last_words=words, is_shown=is_shown)
