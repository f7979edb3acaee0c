"""Runs a command of a job in a cage, its output going into the log as it comes, until it ends or must not go on.

Promises: when `run_caged` returns or raises, no process of the command is left.
Must not know: the protocol, what the command is for.
"""

import enum
import os
import selectors
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from spawner.testing.gitlab.runner.trace import Trace

_CAGE = Path(__file__).with_name("cage.py")
_GRACE_SECONDS = 2.0
_LAST_SECONDS = 20.0
_LOOK_SECONDS = 0.1
_PIECE_BYTES = 1 << 16
_GREEN, _PLAIN = "\x1b[32;1m", "\x1b[0;m"


class Halt(enum.Enum):
    """Why a job must not go on."""

    CANCELING = "canceled"
    GONE = "gone"
    TIMEOUT = "timeout"
    STOPPING = "stopping"


class HaltedError(Exception):
    """The job must not go on; its processes have been ended."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.value)
        self.halt = halt


def run_caged(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    trace: Trace,
    halted: Callable[[], Halt | None],
) -> int:
    """Run a command and return its exit code; `halted` is asked ten times a second whether to end it.

    Raises:
        HaltedError: `halted` gave a reason.
        OSError: the command could not be started.
    """
    caged = [sys.executable, "-I", "-S", str(_CAGE), str(os.getpid()), str(_GRACE_SECONDS), "--", *command]
    process = subprocess.Popen(
        caged, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            _copy(process, trace, halted)
        except BaseException:
            _end(process, trace)
            raise
        return process.wait(timeout=_LAST_SECONDS)


def script_of(commands: Sequence[str], *, folder: Path) -> str:
    """Return a bash script that runs the commands, each shown before it runs; the first that fails ends it."""
    lines = ["set -eo pipefail", "set +o noclobber", f"cd {shlex.quote(str(folder))}"]
    for command in commands:
        first, _, rest = command.strip("\n").partition("\n")
        shown = f"{first} # collapsed multi-line command" if rest else first
        lines += ["printf '%s\\n' " + shlex.quote(_GREEN + "$ " + shown + _PLAIN), command]
    return "\n".join(lines) + "\n"


def _copy(process: subprocess.Popen[bytes], trace: Trace, halted: Callable[[], Halt | None]) -> None:
    output = process.stdout
    if output is None:
        raise AssertionError("the output is a pipe")
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if selector.select(_LOOK_SECONDS):
                piece = os.read(output.fileno(), _PIECE_BYTES)
                if not piece:
                    return
                trace.feed(piece)
            if (halt := halted()) is not None:
                raise HaltedError(halt)


def _end(process: subprocess.Popen[bytes], trace: Trace) -> None:
    process.terminate()
    deadline = time.monotonic() + _LAST_SECONDS
    try:
        _copy(process, trace, lambda: Halt.TIMEOUT if time.monotonic() > deadline else None)
        process.wait(timeout=_LAST_SECONDS)
    except (HaltedError, subprocess.TimeoutExpired):
        process.kill()
