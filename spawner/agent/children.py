"""The agent's children, and the one place where it waits.

For: the supervisor; starting a child with its log, learning that it ended, reaping orphans.
Promises: one thread, no busy waiting; a signal or a word from another thread wakes `wait`; output is read as it
comes, into a bounded log, so that no child ever blocks on a full pipe.
Must not know: what the children are for.
"""

import os
import selectors
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from spawner.agent.output import Log
from spawner.agent.person import started_as
from spawner.agent.plan import Person

_PIECE_BYTES = 1 << 16


@dataclass(slots=True, kw_only=True)
class Child:
    """One running child."""

    name: str
    process: subprocess.Popen[bytes]
    log: Log
    last_line: bytes = field(default=b"")


class Children:
    """Every child that the agent started itself."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._waker = socket.socketpair()
        for end in (self._wakeup, self._waker):
            end.settimeout(0)
        self._selector.register(self._wakeup, selectors.EVENT_READ, None)
        self._running: list[Child] = []
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def start(  # noqa: PLR0913 - what a process needs
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        person: Person | None,
        log: Log,
        descriptors: Iterable[int] = (),
    ) -> Child:
        """Start a child whose output goes to `log`."""
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(descriptors),
            **started_as(person),
        )
        child = Child(name=name, process=process, log=log)
        self._running.append(child)
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            self._selector.register(process.stdout, selectors.EVENT_READ, child)
        return child

    def wake(self) -> None:
        """Make `wait` return; to be called from any thread."""
        with suppress(BlockingIOError):
            self._waker.send(b"\0")

    def wait(self, timeout_seconds: float | None) -> list[Child]:
        """Wait for anything to happen, at most so long, and return the children that have ended."""
        for key, _ in self._selector.select(timeout_seconds):
            if isinstance(key.data, Child):
                self._read(key.data)
            else:
                with suppress(BlockingIOError):
                    self._wakeup.recv(_PIECE_BYTES)
        ended = [child for child in self._running if child.process.poll() is not None]
        for child in ended:
            self._running.remove(child)
            self._read(child)
            self._forget_output(child)
        self._reap_orphans()
        return ended

    def _read(self, child: Child) -> None:
        stdout = child.process.stdout
        if stdout is None or stdout.closed:
            return
        while True:
            try:
                piece = os.read(stdout.fileno(), _PIECE_BYTES)
            except BlockingIOError:
                return
            if not piece:
                self._forget_output(child)
                return
            child.log.write(piece)
            child.last_line = next((line for line in reversed(piece.splitlines()) if line.strip()), child.last_line)

    def _forget_output(self, child: Child) -> None:
        stdout = child.process.stdout
        if stdout is not None and not stdout.closed:
            self._selector.unregister(stdout)
            stdout.close()

    def _reap_orphans(self) -> None:
        own = {child.process.pid for child in self._running}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in own:
                return  # our own are left to their `Popen`, at the next turn
            with suppress(ChildProcessError):
                os.waitpid(found.si_pid, os.WNOHANG)
