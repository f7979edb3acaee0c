"""A session's memory limit, by whatever this machine offers.

For: the agent, which puts the server under it before anything of the session runs; a runtime, which ends what a killed
agent has left in its control group.
Promises: the agent itself is never under the limit; `was_exceeded` says whether the kernel (or we) ended something.
A control group (v2, else v1) limits the session as a whole, where we may make one. Elsewhere RLIMIT_DATA limits each
process (an allocation fails with MemoryError, which a notebook shows) and the agent watches the sum.
RLIMIT_AS would break whatever maps more than it uses.
Must not know: who asked for the limit.
Source: Linux `cgroup-v2.rst`, `cgroup-v1/memory.rst`, getrlimit(2).
"""

import os
import resource
from contextlib import suppress
from pathlib import Path

from spawner.agent import processes

_MOUNT = Path("/sys/fs/cgroup")


class MemoryLimit:
    """A limit in bytes for one workload; zero means none."""

    def __init__(self, name: str, limit_bytes: int, *, group: Path | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._group = group or _make_group(name, limit_bytes)
        self._is_exceeded = False

    def apply(self, pid: int) -> None:
        """Put a process, and all it will start, under the limit."""
        if not self._limit_bytes:
            return
        if self._group is not None:
            with suppress(OSError):
                (self._group / "cgroup.procs").write_text(str(pid), encoding="ascii")
                return
        with suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (self._limit_bytes, self._limit_bytes))

    @property
    def must_be_watched(self) -> bool:
        """Say whether only watching keeps the sum below the limit."""
        return bool(self._limit_bytes) and self._group is None

    def look(self) -> bool:
        """Say whether everything below this process now holds more than the limit, and remember it."""
        if processes.resident_bytes(processes.descendants(os.getpid())) > self._limit_bytes:
            self._is_exceeded = True
        return self._is_exceeded

    def was_exceeded(self) -> bool:
        """Say whether something was ended for want of memory."""
        if self._group is None:
            return self._is_exceeded
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError):
                for line in (self._group / name).read_text(encoding="ascii").splitlines():
                    word, _, count = line.partition(" ")
                    if word == "oom_kill" and int(count) > 0:
                        return True
        return False

    def close(self) -> None:
        """Remove the control group, once it is empty."""
        if self._group is not None and self._limit_bytes:
            with suppress(OSError):
                self._group.rmdir()


def members(name: str) -> set[int]:
    """Return the pids in a workload's control group, whoever made it; empty where it has none."""
    found: set[int] = set()
    for parent, _ in _places():
        with suppress(OSError):
            found |= {int(pid) for pid in (parent / _group_name(name) / "cgroup.procs").read_text("ascii").split()}
    return found


def forget(name: str) -> None:
    """Remove the control group that an agent has left behind; a no-op where there is none, or where it is not empty."""
    for parent, _ in _places():
        with suppress(OSError):
            (parent / _group_name(name)).rmdir()


def _group_name(name: str) -> str:
    return f"slipway-{name}"


def container_group() -> Path:
    """Return the group of the container around this process, whose limit others have set: for `was_exceeded` alone."""
    older = _MOUNT / "memory"
    return older if older.is_dir() else _MOUNT


def _make_group(name: str, limit_bytes: int) -> Path | None:
    if not limit_bytes or os.geteuid() != 0:
        return None
    for parent, file in _places():
        group = parent / _group_name(name)
        try:
            group.mkdir(exist_ok=True)
            (group / file).write_text(str(limit_bytes), encoding="ascii")
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        return group
    return None


def _places() -> list[tuple[Path, str]]:
    """Return where a group may be made, and the file that takes the limit."""
    places = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            # A v2 group with processes in it gives its children no controllers: the new one stands beside ours.
            places.append(((_MOUNT / path.lstrip("/")).parent, "memory.max"))
        elif "memory" in controllers.split(","):
            places.append((_MOUNT / "memory" / path.lstrip("/"), "memory.limit_in_bytes"))
    return places
