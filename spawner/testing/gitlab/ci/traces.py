"""Job logs, one file each.

Promises: bytes appear in the order they were sent; an erased or absent log is empty.
Must not know: who may read them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Job


def size_bytes(instance: Instance, job: Job) -> int:
    """Return the bytes there are."""
    path = _path(instance, job)
    return path.stat().st_size if path.exists() else 0


def append(instance: Instance, job: Job, piece: bytes) -> int:
    """Add bytes at the end; return how many there are then."""
    with _path(instance, job).open("ab") as file:
        file.write(piece)
        return file.tell()


def read(instance: Instance, job: Job) -> bytes:
    """Return the whole log."""
    path = _path(instance, job)
    return path.read_bytes() if path.exists() else b""


def reset(instance: Instance, job: Job) -> None:
    """Empty a log; emptying it twice is no error."""
    _path(instance, job).unlink(missing_ok=True)


def _path(instance: Instance, job: Job) -> Path:
    return instance.data / "traces" / f"{job.id}.log"
