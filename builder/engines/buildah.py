"""The buildah engine: no daemon; all that it keeps lies in the build's own folder and goes with it.

Steps run in a chroot (`BUILDAH_ISOLATION` may say otherwise), which needs no more than a container job has. Layers
come from and go to the registry, because the folder starts empty. It promises to leave no process and no mount, also
when it is ended in the middle. Needs buildah 1.28 or newer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from builder.engines.containers import (
    BUILD_SECONDS,
    CACHE_SUFFIX,
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
from builder.errors import BuildFailedError
from builder.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = "buildah"
_STEP = re.compile(r'building at STEP "(?P<step>.*?)": ')
_SYSTEM_REGISTRIES = Path("/etc/containers/registries.conf")


class Buildah:
    """Buildah with a storage of its own."""

    name = "buildah"

    def __init__(self, place: Workplace) -> None:
        self._say = place.say
        self._folder = place.folder
        self._root = place.folder / "storage"
        for name in ("storage", "run", "tmp", "recipe"):
            (place.folder / name).mkdir()
        self._authentication = place.folder / "auth.json"
        write_authentication(self._authentication, place)
        registries = place.folder / "registries.conf"
        registries.write_text(_registries(place.registry), encoding="utf-8")
        self._environment = own_environment(
            TMPDIR=str(place.folder / "tmp"), CONTAINERS_REGISTRIES_CONF=str(registries),
            BUILDAH_ISOLATION=os.environ.get("BUILDAH_ISOLATION") or "chroot",
        )  # fmt: skip

    def build(self, order: Order) -> Built:
        """Build an image, or write files where the order says so."""
        name = f"localhost/slipway-build:{uuid.uuid4().hex}"
        recipe = self._folder / "recipe"
        (recipe / "Dockerfile").write_text(order.dockerfile, encoding="utf-8")
        (recipe / "ignore").write_text(NO_IGNORE, encoding="utf-8")
        command = ["bud", "--layers", "--format", "oci", "--authfile", str(self._authentication)]
        command += ["--file", str(recipe / "Dockerfile"), "--ignorefile", str(recipe / "ignore")]
        command += ["--pull=never"] if order.is_local else []
        if order.cache is not None:
            command += [*([] if order.is_fresh else ["--cache-from", order.cache]), "--cache-to", order.cache]
        command += [] if order.network is Network.DEFAULT else ["--network", order.network]
        command += [part for id_, file in order.secrets.items() for part in ("--secret", f"id={id_},src={file}")]
        command += [part for each in order.arguments.items() for part in ("--build-arg", "=".join(each))]
        command += ["--output", f"type=local,dest={order.output}"] if order.output is not None else ["--tag", name]
        ran = self._run([*command, str(order.context)], say=silent if order.is_local else self._say)
        if ran.code != 0:
            raise _failure(ran, is_shown=not order.is_local)
        return Built(name=name, base_digest="" if order.is_local else base_digest(self._pulled(), order.dockerfile))

    def user(self, image: str) -> str:
        """Say which user an image runs as."""
        return self._inspect(image, "{{.OCIv1.Config.User}}")

    def push(self, image: str, reference: str) -> str:
        """Push an image under a reference; its digest."""
        digest = self._folder / "digest"
        command = ["push", "--authfile", str(self._authentication), "--digestfile", str(digest), image]
        ran = self._run([*command, f"docker://{reference}"], say=silent)
        if ran.code != 0:
            raise push_failure(ran, reference)
        return digest.read_text(encoding="ascii").strip()

    def close(self) -> None:
        """End what runs in the storage, unmount what is mounted there, remove it."""
        for pid in _inhabitants(self._folder):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for mount in _mounts(self._folder):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True, timeout=60)
        if os.geteuid() != 0 and self._root.exists():  # files of other users of the same person's namespace
            command = [PROGRAM, "unshare", "rm", "-rf", str(self._root)]
            subprocess.run(command, check=False, capture_output=True, timeout=CALL_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _pulled(self) -> dict[str, str]:
        """List the images that came from registries, by name, with their digests; ours have names of this machine."""
        ran = self._run(["images", "--json"], say=silent)
        try:
            listed = json.loads("\n".join(ran.lines))
        except ValueError:
            return {}
        return {
            str(name): str(image.get("digest", "")) for image in listed for name in image.get("names") or ()
            if not str(name).startswith("localhost/") and f"/{CACHE_SUFFIX}:" not in str(name)
        }  # fmt: skip

    def _inspect(self, image: str, template: str) -> str:
        ran = self._run(["inspect", "--type", "image", "--format", template, image], say=silent)
        if ran.code != 0:
            raise BuildFailedError("buildah lost the image that it built.", tail="\n".join(ran.lines))
        return "\n".join(ran.lines).strip()

    def _run(self, arguments: list[str], *, say: Callable[[str], None]) -> Ran:
        command = [PROGRAM, "--root", str(self._root), "--runroot", str(self._folder / "run"), *arguments]
        return run(command, self._environment, say, seconds=BUILD_SECONDS)


def _failure(ran: Ran, *, is_shown: bool) -> Exception:
    said = next((line for line in reversed(ran.lines) if line.lower().startswith("error")), "")
    found = _STEP.search(said)
    step = found.group("step") if found is not None else None
    words = said or (ran.lines[-1] if ran.lines else "buildah said nothing")
    return build_failure(ran, step=step, last_words=words, is_shown=is_shown)


def _registries(registry: str) -> str:
    """Write this machine's registry settings, with plain http for a registry on loopback and Docker Hub's names."""
    named = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    text = ""
    with contextlib.suppress(OSError):
        text = (Path(named) if named else _SYSTEM_REGISTRIES).read_text(encoding="utf-8")
    if not re.search(r"^\s*unqualified-search-registries", text, re.MULTILINE):
        text = f'unqualified-search-registries = ["docker.io"]\n{text}'
    if is_loopback(registry) and registry not in text:
        text += f'\n[[registry]]\nlocation = "{registry}"\ninsecure = true\n'
    return text


def _mounts(folder: Path) -> list[str]:
    """List what is mounted below a folder, the deepest first."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        return sorted({line.split()[4] for line in lines if line.split()[4].startswith(f"{folder}/")}, reverse=True)
    return []


def _inhabitants(folder: Path) -> Iterator[int]:
    """Yield the processes whose root is below a folder."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "root").readlink().is_relative_to(folder):
                yield int(place.name)
