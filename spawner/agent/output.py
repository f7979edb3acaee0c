"""Logs of bounded size, one per container.

For: what Git, the environment and the server say, kept for the person also after the end.
Promises: a log never grows past twice `PART_BYTES`; its newest part is never lost; lines stay whole.
Must not know: what is said.
"""

from pathlib import Path

PART_BYTES = 1 << 20


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


def last_lines(path: Path, *, max_lines: int) -> list[str]:
    """Return the last lines of a log, oldest first; empty when there is none."""
    text = b""
    for part in (path.with_name(path.name + ".1"), path):
        try:
            text += part.read_bytes()
        except FileNotFoundError:
            continue
    return text.decode("utf-8", errors="replace").splitlines()[-max_lines:]
