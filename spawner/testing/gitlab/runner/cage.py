"""Runs one command so that nothing of it survives: `python -I -S cage.py <parent pid> <grace seconds> -- command …`.

It is started as a process of its own for every script of a job. It is a child subreaper: whatever the command
leaves behind, in whatever process group or session, becomes its child and is killed when the command has ended,
when SIGTERM comes, or when its own parent dies. It ends with the command's exit code; 143 after SIGTERM.

Promises: when this process has ended, so has every process that the command started.
Must not know: jobs; standard library only, nothing of ours, because it starts with `-I -S`.
Source: prctl(2), PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LAST_SECONDS = 10.0
_PAUSE_SECONDS = 0.01
_SIGNALLED = 128


class _Stopped(BaseException):
    """SIGTERM or SIGINT came."""


def main(arguments: list[str]) -> int:
    """Run the command after `--` and return its exit code in the shell's way.

    Raises:
        OSError: the kernel refuses to make this process a subreaper, or the command cannot be started.
    """
    parent, grace_seconds, command = int(arguments[0]), float(arguments[1]), arguments[3:]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl failed")
    code = _SIGNALLED + signal.SIGTERM
    try:
        if os.getppid() == parent:
            code = _run(command)
    except _Stopped:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        _signal_all(signal.SIGTERM)
        _reap_until(time.monotonic() + grace_seconds)
    deadline = time.monotonic() + _LAST_SECONDS
    while _reap_available() and time.monotonic() < deadline:
        _signal_all(signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)
    return code


def _run(command: list[str]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, restore_signals=True)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode if process.returncode >= 0 else _SIGNALLED - process.returncode


def _stop(number: int, _frame: object) -> None:
    raise _Stopped(number)


def _reap_until(deadline: float) -> None:
    while _reap_available() and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)


def _reap_available() -> bool:
    """Reap every child that has ended; say whether any is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _signal_all(number: int) -> None:
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - starts in 15 ms without pathlib
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                # The command's name, in brackets, may hold anything; the parent is the second field after it.
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                    fields = file.read().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
