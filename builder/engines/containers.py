"""What every container engine does: build a Dockerfile over a folder, look at the image, push it, leave nothing.

An engine is given a folder that holds nothing but a key's inputs, and a text to build it by; it reads no ignore file
(the rules were applied while staging) and keeps credentials in a private file, never in an argument, a variable or a
layer. It promises that a failure carries the failing step and its lines, that "the registry refuses", "cannot be
asked" and "the disk is full" are told apart, and that an interrupt leaves no process, container, mount or folder.
It must not know Git, keys or tags.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from builder.errors import (
    BuilderError,
    BuildFailedError,
    FullError,
    RefusedError,
    UnauthorizedError,
    UnavailableError,
    capped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.oci import Credentials

TAIL_LINES = 60
KEPT_LINES = 400  # of what an engine says, for finding out why it failed
BUILD_SECONDS = 6 * 3600.0  # a job's own time limit comes first; this is for a laptop that was left alone
CALL_SECONDS = 3600.0
CACHE_SUFFIX = "slipway-cache"  # the repository of layers, below the project's own
NO_IGNORE = "# Empty on purpose: ignore rules were applied before the engine saw anything.\n"
_HIDDEN = ("CI_REGISTRY_PASSWORD", "CI_JOB_TOKEN", "CI_JOB_JWT", "DOCKER_AUTH_CONFIG")
_FROM = re.compile(
    r"^[ \t]*FROM[ \t]+(?:--\S+[ \t]+)*(?P<name>\S+)(?:[ \t]+AS[ \t]+(?P<stage>\S+))?", re.IGNORECASE | re.MULTILINE
)
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_REFUSED = re.compile(
    r"denied|unauthorized|authentication required|no basic auth|\b40[13]\b|insufficient_scope", re.IGNORECASE
)
_AWAY = re.compile(
    r"connection refused|no such host|i/o timeout|TLS handshake|connection reset|\b50[0-9]\b|"
    r"Cannot connect to the Docker daemon",
    re.IGNORECASE,
)


class Network(StrEnum):
    """What the steps of a build may reach: the engine's default, all that this machine reaches, or nothing."""

    DEFAULT = "default"
    HOST = "host"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to build: a Dockerfile's text over a folder.

    `secrets` are files by id, for `RUN --mount=type=secret`; `cache` names the repository of layers (None: none);
    `is_fresh` uses no layer of an earlier build; `output` receives the files of the result, which is then no image.
    """

    dockerfile: str
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    cache: str | None = None
    is_fresh: bool = False
    is_local: bool = False
    network: Network = Network.DEFAULT
    output: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An image that an engine holds: its local name, and the digest of the image it lies on, where known."""

    name: str
    base_digest: str = ""


class Engine(Protocol):
    """Builds, shows and pushes images. One per build, not to be shared between threads; `close` forgets everything.

    BuildFailedError, FullError, UnauthorizedError, RefusedError or UnavailableError may come of every method.
    """

    @property
    def name(self) -> str:
        """What `--engine` calls it."""
        ...

    def build(self, order: Order) -> Built:
        """Build an image, or write files where the order says so."""
        ...

    def user(self, image: str) -> str:
        """Say which user an image runs as, as its configuration has it; empty: root."""
        ...

    def push(self, image: str, reference: str) -> str:
        """Push an image under a reference; its digest in the registry."""
        ...

    def close(self) -> None:
        """End what runs and remove what is left; safe to call twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where an engine works: a private folder, the registry's credentials, and who hears what it says."""

    folder: Path
    registry: str
    credentials: Credentials | None
    say: Callable[[str], None]


def write_authentication(path: Path, place: Workplace) -> None:
    """Write the private file that engines take credentials from: this machine's own, and the job's for its registry.

    Source: `auths` of containers-auth.json(5), which is Docker's `config.json` too.
    """
    document = _own_authentication()
    if place.credentials is not None:
        login = f"{place.credentials.username}:{place.credentials.password}".encode()
        auths = document.get("auths")
        document["auths"] = {
            **(auths if isinstance(auths, dict) else {}), place.registry: {"auth": base64.b64encode(login).decode()},
        }  # fmt: skip
        document.pop("credsStore", None)  # it would be asked instead of the file
    path.touch(mode=0o600)
    path.write_text(json.dumps(document), encoding="utf-8")


def _own_authentication() -> dict[str, object]:
    """Read what this machine or job has logged in to: DOCKER_AUTH_CONFIG, else a file where tools keep it."""
    text = os.environ.get("DOCKER_AUTH_CONFIG", "")
    config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    for path in (Path(os.environ.get("REGISTRY_AUTH_FILE") or config), config):
        with contextlib.suppress(OSError):
            text = text or path.read_text(encoding="utf-8")
    try:
        document = json.loads(text or "{}")
    except ValueError:
        return {}
    kept = ("auths", "credHelpers", "credsStore", "proxies", "HttpHeaders")
    return {name: document[name] for name in kept if name in document} if isinstance(document, dict) else {}


def base_digest(pulled: Mapping[str, str], dockerfile: str) -> str:
    """Find the digest of the image that the last stage lies on, among those that were pulled; empty if unknown."""
    if len(set(pulled.values())) == 1:
        return next(iter(pulled.values()))
    stages: dict[str, str] = {}
    last = ""
    for found in _FROM.finditer(dockerfile):
        last = stages.get(found.group("name").lower(), found.group("name"))
        if found.group("stage"):
            stages[found.group("stage").lower()] = last
    return next((digest for name, digest in pulled.items() if last and name.endswith(last)), "")


# ---------------------------------------------------------------- running an engine's program


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program ended: its exit code and the last lines it said."""

    code: int
    lines: tuple[str, ...]


def run(command: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None], *, seconds: float) -> Ran:
    """Run a program, passing on each line as it comes; its end, a time limit or an interrupt ends all it started."""
    process = subprocess.Popen(
        list(command), env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    limit = threading.Timer(seconds, _end, [process])
    limit.daemon = True
    limit.start()
    try:
        assert process.stdout is not None  # noqa: S101 - asked for above
        with process.stdout as lines:
            for line in lines:
                kept.append(line.rstrip("\n"))
                say(kept[-1])
        return Ran(code=process.wait(), lines=tuple(kept))
    except BaseException:
        _end(process)
        process.wait()
        raise
    finally:
        limit.cancel()


def _end(process: subprocess.Popen[str]) -> None:
    """End a program and everything in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def own_environment(**more: str) -> dict[str, str]:
    """Return this process' environment without its secrets, and with more."""
    return {name: value for name, value in os.environ.items() if name not in _HIDDEN} | more


def silent(_line: str) -> None:
    """Pass nothing on."""


def build_failure(ran: Ran, *, step: str | None, last_words: str, is_shown: bool) -> BuilderError:
    """Say why a build failed: `step` is the instruction that failed, `last_words` the engine's own sentence."""
    tail = "\n".join(ran.lines[-TAIL_LINES:])
    if _FULL.search(tail):
        return FullError(
            "The disk of the machine that builds is full: no space was left for this image.", tail=tail, is_shown=True
        )
    if step is None and _REFUSED.search(last_words):
        return UnauthorizedError(f"A base image could not be pulled: {capped(last_words)}")
    if step is None and _AWAY.search(last_words):
        return UnavailableError(f"The engine could not build: {capped(last_words)}")
    what = f"The step “{capped(step)}” failed." if step else f"The build failed: {capped(last_words)}"
    return BuildFailedError(what, tail=tail, step=step or "", is_shown=is_shown)


def push_failure(ran: Ran, reference: str) -> BuilderError:
    """Say why a push failed."""
    tail = "\n".join(ran.lines[-TAIL_LINES:])
    said = capped(ran.lines[-1] if ran.lines else "it said nothing")
    if _FULL.search(tail):
        return FullError("The disk of the machine that builds is full: the image could not be packed.", tail=tail)
    if _REFUSED.search(tail):
        return UnauthorizedError(f"The registry refuses {reference}: {said}")
    if _AWAY.search(tail):
        return UnavailableError(f"The registry could not be asked to take {reference}: {said}")
    return RefusedError(f"The registry did not take {reference}: {said}")
