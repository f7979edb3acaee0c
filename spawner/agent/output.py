"""Logs of bounded size, one per container.

For: what Git, the environment and the server say, kept for the person also after the end.
Promises: a log never grows past twice `PART_BYTES`; its newest part is never lost; lines stay whole.
Where somebody else keeps what the agent prints (a container's log), every line bears its log's name there.
Must not know: what is said.
"""

import os
import sys
from pathlib import Path
from typing import Protocol

PART_BYTES = 1 << 20
LAST_WORD = "last"  # the name of the line that says, as JSON, how a container ended
_LONGEST_LINE_BYTES = 1 << 16


class Log(Protocol):
    """Where one container's words go."""

    def write(self, data: bytes) -> None:
        """Add bytes."""
        ...

    def say(self, line: str) -> None:
        """Add a line of our own."""
        ...


class BoundedLog:
    """A log in two parts: `<name>.log`, and `<name>.log.1` when there was more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._written_bytes = self._file.tell()

    def write(self, data: bytes) -> None:
        """Add bytes; the oldest go when there are too many."""
        self._file.write(data)
        self._written_bytes += len(data)
        if self._written_bytes > PART_BYTES and data.endswith(b"\n"):
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)
            self._written_bytes = 0

    def say(self, line: str) -> None:
        """Add a line of our own."""
        self.write(line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PrintedLog:
    """A log among others in the agent's own output: `<name>`, a tab, the line."""

    def __init__(self, name: str) -> None:
        self._prefix = f"{name}\t".encode()
        self._begun = b""

    def write(self, data: bytes) -> None:
        """Print the lines that are whole, and a beginning that has grown too long to be kept."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > _LONGEST_LINE_BYTES:
            lines, self._begun = [*lines, self._begun], b""
        printed = b"".join(self._prefix + line + b"\n" for line in lines)
        while printed:
            printed = printed[os.write(sys.stdout.fileno(), printed) :]

    def say(self, line: str) -> None:
        """Add a line of our own, on a line of its own."""
        self.write((b"\n" if self._begun else b"") + line.encode() + b"\n")


def last_lines(path: Path, *, max_lines: int) -> list[str]:
    """Return the last lines of a log, oldest first; empty when there is none."""
    text = b""
    for part in (path.with_name(path.name + ".1"), path):
        try:
            text += part.read_bytes()
        except FileNotFoundError:
            continue
    return text.decode("utf-8", errors="replace").splitlines()[-max_lines:]
