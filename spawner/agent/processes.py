"""Processes as Linux shows them in `/proc`: who is alive, who descends from whom, how they are ended.

For: the agent, which ends every descendant, and the standalone runtime, which adopts by pid, start time and boot.
Promises: a pid alone is never trusted; a zombie counts as gone; nothing here waits longer than it was told.
Must not know: sessions, plans, the network.
Source: proc(5) and prctl(2), Linux 5.3 or newer.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_STATE, _PARENT, _START_TIME = 0, 1, 19  # fields of /proc/<pid>/stat after the command's closing bracket
_LOOK_AGAIN_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process of one boot: `start_ticks` are clock ticks since boot, so that a reused pid is noticed."""

    pid: int
    start_ticks: int
    boot_id: str


def boot_id() -> str:
    """Return the id of this boot of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def identity(pid: int) -> ProcessIdentity | None:
    """Return who `pid` is now, or None when it is gone or a zombie."""
    fields = _stat(pid)
    if fields is None or fields[_STATE] in {"Z", "X"}:
        return None
    return ProcessIdentity(pid=pid, start_ticks=int(fields[_START_TIME]), boot_id=boot_id())


def is_alive(process: ProcessIdentity) -> bool:
    """Say whether this very process still runs."""
    return identity(process.pid) == process


def send(process: ProcessIdentity, number: int) -> bool:
    """Send a signal to this very process, never to a later one with its pid; say whether it was there."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def pids() -> Iterator[int]:
    """Yield every pid that can be seen."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def descendants(ancestor: int) -> set[int]:
    """Return the pids of everything below `ancestor`, zombies excepted."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        fields = _stat(pid)
        if fields is not None and fields[_STATE] not in {"Z", "X"}:
            children.setdefault(int(fields[_PARENT]), []).append(pid)
    found: set[int] = set()
    pending = [ancestor]
    while pending:
        below = [pid for pid in children.get(pending.pop(), []) if pid not in found]
        found.update(below)
        pending.extend(below)
    return found


def marked(marker: str) -> set[int]:
    """Return the pids whose environment holds exactly `marker` (`NAME=value`), as far as it may be read."""
    wanted = marker.encode()
    found = set()
    for pid in pids():
        with suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                fields = _stat(pid)
                if fields is not None and fields[_STATE] not in {"Z", "X"}:
                    found.add(pid)
    return found


def owned_by(uid: int) -> set[int]:
    """Return the pids that run under a user id, zombies excepted."""
    found = set()
    for pid in pids():
        with suppress(OSError):
            if Path(f"/proc/{pid}").stat().st_uid == uid and identity(pid) is not None:
                found.add(pid)
    return found


def resident_bytes(of: Iterable[int]) -> int:
    """Return the memory that these processes hold, shared pages counted once per process."""
    page_bytes = os.sysconf("SC_PAGESIZE")
    total = 0
    for pid in of:
        with suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
            total += (int(fields[1]) - int(fields[2])) * page_bytes
    return total


def end_all(ancestor: int, *, within_seconds: float) -> bool:
    """Kill everything below `ancestor` until nothing is left; say whether that came true in time.

    The caller reaps: it is the ancestor, and a zombie counts as gone here.
    """
    deadline = time.monotonic() + within_seconds
    while found := descendants(ancestor):
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN_SECONDS)
    return True


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process, daemons included. Source: prctl(2)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends. A change of user id afterwards undoes it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command may hold spaces and brackets; the fields begin after its last bracket.
    return text[text.rindex(")") + 2 :].split()
