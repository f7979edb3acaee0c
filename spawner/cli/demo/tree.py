"""The demo's processes: started, watched, started again when killed, and all of them gone at the end.

Promises: whatever a child starts, even in a session of its own, comes back to this process when its parent dies
(child subreaper), so that `end` finds it in the process table; `end` returns what could not be ended, by name. A part
that cannot stay up is given up, with the end of its log.
Must not know: what the processes do.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spawner.errors import LaunchRefused, RuntimeUnavailable

_PR_SET_PDEATHSIG = 1  # source: linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36  # as above
_LIBC = "libc.so.6"
_LOOK_SECONDS = 0.05
_LOG_TAIL_LINES = 15
_MOST_RESTARTS = 5  # of one part within _RESTARTS_SECONDS
_RESTARTS_SECONDS = 60.0
# A process that asks to end this way was told to by a person: the demo ends with it. Any other end is a crash.
_POLITE = frozenset({0, -signal.SIGINT, -signal.SIGTERM})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process of the demo."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    is_ready: Callable[[], bool]
    restarts: bool = False


class PartEnded(Exception):
    """A part was asked to end from outside, or cannot stay up: the demo should end; the message says which and why."""


class ProcessTree:
    """The processes of a demo; used by one thread."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(_LIBC, use_errno=True)
        self._running: dict[str, tuple[Part, subprocess.Popen[bytes]]] = {}
        self._restarted_at: dict[str, list[float]] = {}  # monotonic seconds, of the last while
        self._helpers: list[subprocess.Popen[bytes]] = []
        if self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise LaunchRefused("This system has no child subreaper, which the demo needs.", remedy="Use Linux 3.4+.")

    def start(self, part: Part, *, within_seconds: float) -> None:
        """Start a part and return when it is ready; raises RuntimeUnavailable with the end of its log."""
        part.log.unlink(missing_ok=True)  # of an earlier demo on the same folder
        self._spawn(part)
        deadline = time.monotonic() + within_seconds
        while not part.is_ready():
            self.reap()
            code = self._running[part.name][1].poll()
            if code is not None:
                raise RuntimeUnavailable(f"The {part.name} ended with code {code}:\n{_tail(part.log)}")
            if time.monotonic() > deadline:
                raise RuntimeUnavailable(
                    f"The {part.name} was not ready within {within_seconds:.0f} s:\n{_tail(part.log)}"
                )
            time.sleep(_LOOK_SECONDS)

    def _spawn(self, part: Part) -> None:
        part.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # sessions of other users have no business here
        with part.log.open("ab") as log:
            process = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(part.environment),
                start_new_session=True,  # Ctrl-C on the terminal is for this process alone
                preexec_fn=self._die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        self._running[part.name] = (part, process)

    def _die_with_parent(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    def pid(self, name: str) -> int:
        """Return a part's present process id."""
        return self._running[name][1].pid

    def pids(self) -> dict[str, int]:
        """Return every part's present process id."""
        return {name: process.pid for name, (_, process) in self._running.items()}

    def tail(self, name: str) -> str:
        """Return the end of a part's log."""
        return _tail(self._running[name][0].log)

    def helper(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a process with this one's own output; the caller waits for it, `end` ends it."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self._helpers.append(process)
        return process

    def tend(self) -> tuple[str, ...]:
        """Reap what ended, start again what was killed, and return the names of those; raises PartEnded."""
        self.reap()
        again = []
        for name, (part, process) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            if code in _POLITE or not part.restarts or not self._may_restart(name):
                raise PartEnded(f"The {name} ended with code {code}; its log ends:\n{_tail(part.log)}")
            self._spawn(part)
            again.append(name)
        return tuple(again)

    def _may_restart(self, name: str) -> bool:
        """Count a restart; False when there were too many lately."""
        moment = time.monotonic()
        recent = [at for at in self._restarted_at.get(name, []) if moment - at < _RESTARTS_SECONDS]
        self._restarted_at[name] = [*recent, moment]
        return len(recent) < _MOST_RESTARTS

    def reap(self) -> None:
        """Collect orphans that ended: they are this process's children now, and nobody else waits for them."""
        known = {process.pid for _, process in self._running.values()} | {each.pid for each in self._helpers}
        for pid, (_, state) in _table(os.getpid()).items():
            if state == "Z" and pid not in known:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue

    def end(self, *, grace_seconds: float) -> list[str]:
        """End every part, then all that they left; return what is still there, for a sentence."""
        parts = [*self._helpers, *(process for _, process in self._running.values())]
        for process in parts:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + grace_seconds
        for process in parts:
            _wait_for(process, max(0.0, deadline - time.monotonic()))
        self._running.clear()
        self._helpers.clear()
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, grace_seconds)):
            if not self._signal_all(number, seconds):
                break
        self._reap_all()
        return [f"{pid} ({_name(pid)})" for pid in descendants(os.getpid())]

    def _reap_all(self) -> None:
        """Collect every child that has ended, so that none is left to a PID 1 that may not."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return

    def _signal_all(self, number: signal.Signals, grace_seconds: float) -> list[int]:
        deadline = time.monotonic() + grace_seconds
        told: set[int] = set()
        while left := descendants(os.getpid()):
            for pid in set(left) - told:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            told.update(left)
            self.reap()
            if time.monotonic() > deadline:
                return left
            time.sleep(_LOOK_SECONDS)
        return []


def _wait_for(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def descendants(root: int) -> list[int]:
    """Return the live processes below `root`, children before grandchildren; zombies are gone already."""
    children: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for pid, (parent, state) in _table().items():
        children.setdefault(parent, []).append(pid)
        states[pid] = state
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found.extend(below)
        queue.extend(below)
    return [pid for pid in found if states[pid] != "Z"]


def _table(parent_pid: int | None = None) -> dict[int, tuple[int, str]]:
    """Return {pid: (parent, state)} of the process table, or of one process's children."""
    found: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # After the name in brackets, which may contain anything: state, parent, … (proc_pid_stat(5)).
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if parent_pid is None or int(parent) == parent_pid:
            found[int(folder.name)] = (int(parent), state)
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(f"    {line[:300]}" for line in lines[-_LOG_TAIL_LINES:])
