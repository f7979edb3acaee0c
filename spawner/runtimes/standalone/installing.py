"""Installing: an image's lock becomes a folder of packages, with uv.

For: `environments`, which says where and when. Promises: nothing stands in the wanted place until it is whole; no
source is ever built and nothing of a package is run; sessions may read everything and write nothing; who gives up ends
uv. Modules are compiled later (`compiling`): that takes four times as long as all the rest.
Must not know: who else installs, what is kept.
Source: `uv venv --relocatable` and `uv pip install`, uv 0.8 or newer.
"""

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from spawner.agent.files import write_json
from spawner.errors import LaunchRefused, RuntimeUnavailable, foreign
from spawner.runtimes.standalone import compiling
from spawner.runtimes.standalone.interpreters import Interpreters

_LOOK_SECONDS = 0.5
_HEADER = b'#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")"/\'python'


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What an image says: its Python (`3.11`), the lock's file, a folder of wheels, the project to install."""

    python: str
    lock: Path
    wheels: Path | None
    project: str | None


Unpack = Callable[[Path], Unpacked]
"""Write an image's lock and wheels into an existing, empty folder, and say what they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One's turn to install: the lock that is held, until when (monotonic seconds), and how far others go first."""

    lock_descriptor: int
    deadline: float
    niceness: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """uv, and the Pythons that environments stand on."""

    interpreters: Interpreters
    uv: Path
    variables: Mapping[str, str]

    def install(self, place: Path, unpack: Unpack, turn: Turn) -> Iterator[None]:
        """Install an image in `place`; yields about twice a second, and cleans up when it is closed.

        Raises LaunchRefused for what can never be installed, RuntimeUnavailable for what may be tried again.
        """
        draft = place.with_name(f".{place.name}")
        remove(draft)
        source = place.with_name(f".{place.name}.source")
        remove(source)
        try:
            source.mkdir(mode=0o700)
            image = unpack(source)
            found = self.interpreters.find(image.python)
            make = ["venv", "--relocatable", "--no-project", "--python", str(found.program), str(draft)]
            for command in (make, _install_command(draft, image)):
                yield from self._run(command, turn)
            _use_callers_python(draft / "bin")
            record = {
                "python": str(found.program),
                "version": found.version,
                "site_packages": f"lib/python{image.python}/site-packages",
                "project": image.project,
                "size_bytes": _close_to_writers(draft),
            }
            draft.chmod(0o755)
            write_json(draft / compiling.RECORD, record)
            draft.rename(place)
        finally:
            remove(source)
            remove(draft)

    def _run(self, command: list[str], turn: Turn) -> Iterator[None]:
        with tempfile.TemporaryFile() as complaints:
            try:
                uv = subprocess.Popen(
                    [*_nice(turn.niceness), str(self.uv), *command, "--quiet", "--no-config"],
                    env=dict(self.variables),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    umask=0o022,
                    pass_fds=(turn.lock_descriptor,),  # were we killed, uv would still hold the lock while it writes
                )
            except OSError as exc:
                raise RuntimeUnavailable(f"uv cannot be run: {foreign(exc)}") from exc
            try:
                yield from _until_ended(uv, turn.deadline)
            finally:
                uv.kill()
                uv.wait()
            complaints.seek(0)
            _explain(uv.returncode, complaints.read().decode(errors="replace").strip())


def remove(folder: Path) -> None:
    """Remove a folder of ours, read-only parts included; a no-op when it is gone."""
    if not os.path.lexists(folder):
        return
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o700)
    shutil.rmtree(folder)


def _until_ended(uv: subprocess.Popen[bytes], deadline: float) -> Iterator[None]:
    while True:
        try:
            uv.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise RuntimeUnavailable(
                    "Installing the environment takes too long.",
                    remedy="Launch it again: what was fetched by now is kept.",
                ) from None
            yield
        else:
            return


def _explain(code: int, text: str) -> None:
    """Raise what uv's failure means; nothing when it succeeded."""
    if code == 0:
        return
    message = foreign(text)
    if _is_passing(text):
        raise RuntimeUnavailable(
            f"The environment could not be installed yet: {message}",
            remedy="Launch again later; who runs this machine may look at its disk and its package index.",
        )
    raise LaunchRefused(
        f"The environment of this commit could not be installed: {message}", remedy="Build its image again."
    )


def _nice(niceness: int) -> list[str]:
    return ["nice", "-n", str(niceness)] if niceness else []


def _install_command(draft: Path, image: Unpacked) -> list[str]:
    """Return uv's command; files are shared with its cache, and so between environments: nobody writes to either."""
    command = ["pip", "install", "--python", str(draft / "bin" / "python"), "--no-build", "--require-hashes"]
    command += ["--no-deps", "--link-mode", "hardlink", "--requirement", str(image.lock)]
    if image.wheels is not None:
        command += ["--find-links", str(image.wheels)]
    return command


def _use_callers_python(folder: Path) -> None:
    """Have programs such as `ipython` run on the Python that comes first on PATH: the session's own."""
    for program in folder.iterdir():
        if program.is_symlink() or not program.is_file():
            continue
        content = program.read_bytes()
        if content.startswith(_HEADER):
            rest = content.split(b"\n' '''\n", 1)[1]
            program.write_bytes(b"#!/usr/bin/env python\n" + rest)


def _close_to_writers(draft: Path) -> int:
    """Let everyone read every file and nobody write it; return the size in bytes. Folders are closed once compiled."""
    total = 0
    for folder, _, files in os.walk(draft):
        for name in files:
            path = Path(folder) / name
            if path.is_symlink():
                continue
            status = path.stat()
            total += status.st_size
            may_run = status.st_mode & stat.S_IXUSR
            path.chmod(0o555 if may_run else 0o444)
        Path(folder).chmod(0o755)
    return total


def _is_passing(text: str) -> bool:
    """Say whether uv's failure may pass by itself."""
    lowered = text.lower()
    return any(word in lowered for word in ("failed to fetch", "dns error", "connect", "timed out", "no space left"))
