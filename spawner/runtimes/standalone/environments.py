"""Environments: a commit's locked Python packages, installed once, shared by everyone, changed by no one.

For: the runtime, which asks for the environment of an image before it starts a session on it.
Promises: what stands under a digest is whole (built beside, renamed into place); one process at a time installs a
digest; nothing is removed while a session uses it; the folder stays below its size, the longest unused goes first;
sessions may read everything and write nothing; no source is ever built here.
Must not know: sessions, registries' protocols (it is handed a way to fetch).
Source: `uv venv --relocatable` and `uv pip install`, uv 0.8 or newer.
"""

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spawner.agent.files import read_json, write_json
from spawner.errors import LaunchRefused, RuntimeUnavailable, foreign
from spawner.runtimes.standalone import locks
from spawner.runtimes.standalone.interpreters import Interpreters

INSTALL_SECONDS = 270.0  # less than a task may take; what was downloaded by then is kept for the next try
_RECORD = "slipway-environment.json"
_HEADER = b'#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")"/\'python'
_OLDER_THAN_SECONDS = 3600.0  # a draft that nobody locks and that is this old was left by a crash


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
class Installed:
    """An environment that is there, held by `lock_descriptor` for as long as that is open."""

    path: Path
    python: str
    version: str
    site_packages: str
    project: str | None
    lock_descriptor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """One's turn to install: the lock that is held, until when (monotonic seconds), and how far others go first."""

    lock_descriptor: int
    deadline: float
    niceness: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Environments:
    """The cache of environments below one folder."""

    folder: Path
    interpreters: Interpreters
    uv: Path
    variables: Mapping[str, str]
    limit_bytes: int

    def has(self, digest: str) -> bool:
        """Say whether the environment of an image's digest is installed."""
        return (self._place(digest) / _RECORD).is_file()

    def hold(self, digest: str, unpack: Unpack, *, within_seconds: float = INSTALL_SECONDS) -> Installed:
        """Return the environment of a digest, installed if it is not there yet; the caller closes its lock.

        Raises LaunchRefused for an image that cannot be installed, RuntimeUnavailable when it takes too long.
        """
        place = self._place(digest)
        deadline = time.monotonic() + within_seconds
        while True:
            held = self._take(place, is_shared=True, deadline=deadline)
            if self.has(digest):
                os.utime(place / _RECORD)
                return _read(place, held)
            os.close(held)
            with self._alone(place, deadline) as alone:
                if not self.has(digest):
                    self._make_room()
                    self._install(place, unpack, _Turn(lock_descriptor=alone, deadline=deadline))

    def prepare(self, digest: str, unpack: Unpack) -> None:
        """Install a digest unless it is there or somebody is at it; others' work goes first. Raises as `hold` does."""
        alone = None if self.has(digest) else locks.take(self._lock(self._place(digest)))
        if alone is None:
            return
        try:
            if not self.has(digest):
                self._make_room()
                deadline = time.monotonic() + INSTALL_SECONDS
                self._install(self._place(digest), unpack, _Turn(lock_descriptor=alone, deadline=deadline, niceness=10))
        finally:
            os.close(alone)

    def installed(self) -> Mapping[str, int]:
        """Return the digests (hex) that are installed and their sizes in bytes."""
        found = {}
        for record in self.folder.glob(f"*/{_RECORD}"):
            value = read_json(record)
            if value is not None:
                found[record.parent.name] = int(value["size_bytes"])
        return found

    # ------------------------------------------------------------ installing

    def _install(self, place: Path, unpack: Unpack, turn: _Turn) -> None:
        draft = place.with_name(f".{place.name}")
        _remove(draft)
        source = place.with_name(f".{place.name}.source")
        _remove(source)
        try:
            source.mkdir(mode=0o700)
            image = unpack(source)
            found = self.interpreters.find(image.python)
            self._run(["venv", "--relocatable", "--no-project", "--python", str(found.program), str(draft)], turn)
            self._run(_install_command(draft, image), turn)
            _use_callers_python(draft / "bin")
            relative = f"lib/python{image.python}/site-packages"
            record = {
                "python": str(found.program),
                "version": found.version,
                "site_packages": relative,
                "project": image.project,
                "size_bytes": _close_to_writers(draft),
            }
            draft.chmod(0o755)
            write_json(draft / _RECORD, record)
            draft.rename(place)
        finally:
            _remove(source)
            _remove(draft)

    def _run(self, command: list[str], turn: _Turn) -> None:
        left_seconds = turn.deadline - time.monotonic()
        try:
            done = subprocess.run(
                [*_nice(turn.niceness), str(self.uv), *command, "--quiet", "--no-config"],
                env=dict(self.variables),
                capture_output=True,
                text=True,
                timeout=max(1.0, left_seconds),
                check=False,
                cwd=self.folder,
                umask=0o022,
                pass_fds=(turn.lock_descriptor,),  # were we killed, uv would still hold the lock while it writes
            )
        except subprocess.TimeoutExpired as exc:
            raise RuntimeUnavailable("Installing the environment takes too long.", remedy="Try again later.") from exc
        except OSError as exc:
            raise RuntimeUnavailable(f"uv cannot be run: {foreign(exc)}") from exc
        if done.returncode != 0:
            message = foreign(done.stderr.strip())
            if _is_passing(done.stderr):
                raise RuntimeUnavailable(
                    f"The environment could not be installed yet: {message}",
                    remedy="Launch again later; who runs this machine may look at its disk and its package index.",
                )
            raise LaunchRefused(
                f"The environment of this commit could not be installed: {message}", remedy="Build its image again."
            )

    # ------------------------------------------------------------ room

    def _make_room(self) -> None:
        """Remove what was used longest ago until the folder is within its limit; never what is in use."""
        for draft in self.folder.glob(".*.source"):
            self._remove_abandoned(draft)
        sizes = self.installed()
        total = sum(sizes.values())
        by_age = sorted(sizes, key=lambda name: (self.folder / name / _RECORD).stat().st_mtime)
        for name in by_age:
            if total <= self.limit_bytes:
                return
            descriptor = locks.take(self._lock(self.folder / name))
            if descriptor is None:
                continue
            try:
                doomed = self.folder / f".{name}"
                (self.folder / name).rename(doomed)  # gone in one step for everyone who looks
                _remove(doomed)
                total -= sizes[name]
            finally:
                os.close(descriptor)

    def _remove_abandoned(self, source: Path) -> None:
        if time.time() - source.stat().st_mtime < _OLDER_THAN_SECONDS:
            return
        name = source.name.removeprefix(".").removesuffix(".source")
        descriptor = locks.take(self._lock(self.folder / name))
        if descriptor is not None:
            _remove(source)
            _remove(self.folder / f".{name}")
            os.close(descriptor)

    # ------------------------------------------------------------ places and locks

    def _place(self, digest: str) -> Path:
        return self.folder / digest.removeprefix("sha256:")

    @staticmethod
    def _lock(place: Path) -> Path:
        return place.with_name(f"{place.name}.lock")

    def _take(self, place: Path, *, is_shared: bool, deadline: float) -> int:
        left_seconds = max(0.0, deadline - time.monotonic())
        held = locks.take(self._lock(place), is_shared=is_shared, within_seconds=left_seconds)
        if held is None:
            raise RuntimeUnavailable("Another launch is still installing this environment.")
        return held

    @contextmanager
    def _alone(self, place: Path, deadline: float) -> Iterator[int]:
        held = self._take(place, is_shared=False, deadline=deadline)
        try:
            yield held
        finally:
            os.close(held)


def _nice(niceness: int) -> list[str]:
    return ["nice", "-n", str(niceness)] if niceness else []


def _install_command(draft: Path, image: Unpacked) -> list[str]:
    command = ["pip", "install", "--python", str(draft / "bin" / "python"), "--no-build", "--require-hashes"]
    command += ["--no-deps", "--link-mode", "copy", "--compile-bytecode", "--requirement", str(image.lock)]
    if image.wheels is not None:
        command += ["--find-links", str(image.wheels)]
    return command


def _read(place: Path, held: int) -> Installed:
    value = read_json(place / _RECORD)
    if value is None:
        os.close(held)
        raise RuntimeUnavailable("An environment was removed while it was asked for.", retry_after_seconds=0.5)
    return Installed(
        path=place,
        python=str(value["python"]),
        version=str(value["version"]),
        site_packages=str(place / value["site_packages"]),
        project=value["project"],
        lock_descriptor=held,
    )


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
    """Let everyone read and nobody write; return the size in bytes."""
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
        if Path(folder) != draft:
            Path(folder).chmod(0o755 if os.geteuid() == 0 else 0o555)
    return total


def _is_passing(text: str) -> bool:
    """Say whether uv's failure may pass by itself."""
    lowered = text.lower()
    return any(word in lowered for word in ("failed to fetch", "dns error", "connect", "timed out", "no space left"))


def _remove(folder: Path) -> None:
    """Remove a folder of ours, read-only parts included; a no-op when it is gone."""
    if not os.path.lexists(folder):
        return
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o700)
    shutil.rmtree(folder)
