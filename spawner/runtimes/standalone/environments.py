"""Environments: a commit's locked Python packages, installed once, shared by everyone, changed by no one.

For: the runtime, which asks for the environment of an image before it starts a session on it.
Promises: what stands under a digest is whole (built beside, renamed into place); one process at a time installs a
digest, and nobody waits for another's installation; no more than a few install at once on a machine; nothing is removed
while a session uses it; the folder stays below its size, the longest unused goes first.
Must not know: sessions, registries' protocols (it is handed a way to fetch), how packages are installed.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spawner.agent.files import read_json
from spawner.errors import RuntimeUnavailable
from spawner.runtimes.standalone import compiling, locks
from spawner.runtimes.standalone.installing import Installer, Turn, Unpack, remove

INSTALL_SECONDS = 270.0  # less than a task may take; what was downloaded by then is kept for the next try
AT_ONCE = 2  # installations of one machine; more would take each other's disk and processors
LOOK_AGAIN_SECONDS = 0.5
_RECORD = compiling.RECORD
_TAKEN = "Another launch is installing this environment."
_OLDER_THAN_SECONDS = 3600.0  # a draft that nobody locks and that is this old was left by a crash


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
class Environments:
    """The cache of environments below one folder."""

    folder: Path
    installer: Installer
    limit_bytes: int

    def has(self, digest: str) -> bool:
        """Say whether the environment of an image's digest is installed."""
        return (self._place(digest) / _RECORD).is_file()

    def ensure(self, digest: str, unpack: Unpack, *, within_seconds: float = INSTALL_SECONDS) -> Generator[None]:
        """Install the environment of a digest unless it is there; yields now and then, and gives up when closed.

        Raises LaunchRefused for an image that cannot be installed, RuntimeUnavailable at once while somebody else is
        at it or too many others are being installed, and when it takes too long.
        """
        try:
            yield from self._ensure(digest, unpack, within_seconds=within_seconds, niceness=0)
        except _Busy as busy:
            raise RuntimeUnavailable(str(busy), retry_after_seconds=LOOK_AGAIN_SECONDS) from None

    def _ensure(self, digest: str, unpack: Unpack, *, within_seconds: float, niceness: int) -> Generator[None]:
        if self.has(digest):
            return
        place = self._place(digest)
        with self._alone(place) as alone, self._slot():
            if not self.has(digest):
                self._make_room()
                deadline = time.monotonic() + within_seconds
                turn = Turn(lock_descriptor=alone, deadline=deadline, niceness=niceness)
                yield from self.installer.install(place, unpack, turn)

    def prepare(self, digest: str, unpack: Unpack) -> None:
        """Install a digest, others' work first, unless it is there or somebody is at it. Raises as `ensure` does."""
        with suppress(_Busy):
            for _ in self._ensure(digest, unpack, within_seconds=INSTALL_SECONDS, niceness=10):
                pass
            os.close(self.hold(digest).lock_descriptor)

    def hold(self, digest: str) -> Installed:
        """Return an environment that is installed; the caller closes its lock. RuntimeUnavailable when it is not."""
        place = self._place(digest)
        held = locks.take(self._lock(place), is_shared=True)
        if held is None:
            raise RuntimeUnavailable(_TAKEN, retry_after_seconds=LOOK_AGAIN_SECONDS)
        value = read_json(place / _RECORD)
        if value is None:
            os.close(held)
            raise RuntimeUnavailable("An environment was removed while it was asked for.", retry_after_seconds=0.5)
        os.utime(place / _RECORD)
        if not value.get("is_compiled"):
            self._compile(place, str(value["python"]), held)
        return Installed(
            path=place,
            python=str(value["python"]),
            version=str(value["version"]),
            site_packages=str(place / value["site_packages"]),
            project=value["project"],
            lock_descriptor=held,
        )

    def installed(self) -> Mapping[str, int]:
        """Return the digests (hex) that are installed and their sizes in bytes."""
        found = {}
        for record in self.folder.glob(f"*/{_RECORD}"):
            value = read_json(record)
            if value is not None:
                found[record.parent.name] = int(value["size_bytes"])
        return found

    def _compile(self, place: Path, python: str, held: int) -> None:
        """Have the modules compiled beside the sessions that run already; a no-op while somebody is at it.

        The base Python, isolated and without `site`: nothing that the environment brought is run.
        """
        alone = locks.take(place.with_name(f"{place.name}.compiling.lock"))
        if alone is None:
            return
        try:
            child = subprocess.Popen(
                [python, "-I", "-S", compiling.__file__, str(place)],
                env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self.folder,
                umask=0o022,
                pass_fds=(alone, held),  # while it writes nobody else compiles, and nobody removes
            )
        except OSError as error:
            sys.stderr.write(f"{place.name} cannot be compiled: {error.strerror}.\n")
        else:
            threading.Thread(target=child.wait, name="compiling", daemon=True).start()
        finally:
            os.close(alone)

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
                remove(doomed)
                total -= sizes[name]
            finally:
                os.close(descriptor)

    def _remove_abandoned(self, source: Path) -> None:
        if time.time() - source.stat().st_mtime < _OLDER_THAN_SECONDS:
            return
        name = source.name.removeprefix(".").removesuffix(".source")
        descriptor = locks.take(self._lock(self.folder / name))
        if descriptor is not None:
            remove(source)
            remove(self.folder / f".{name}")
            os.close(descriptor)

    # ------------------------------------------------------------ places and locks

    def _place(self, digest: str) -> Path:
        return self.folder / digest.removeprefix("sha256:")

    @staticmethod
    def _lock(place: Path) -> Path:
        return place.with_name(f"{place.name}.lock")

    @contextmanager
    def _alone(self, place: Path) -> Iterator[int]:
        held = locks.take(self._lock(place))
        if held is None:
            raise _Busy(_TAKEN)
        try:
            yield held
        finally:
            os.close(held)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        taken = (locks.take(self.folder / f"installing-{number}.lock") for number in range(AT_ONCE))
        held = next((descriptor for descriptor in taken if descriptor is not None), None)
        if held is None:
            raise _Busy("Other environments are being installed; this one is next.")
        try:
            yield
        finally:
            os.close(held)


class _Busy(Exception):
    """Somebody else is at it, or at too much else."""
