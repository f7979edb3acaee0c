"""Locks between processes, by open files.

For: one installation at a time per environment, one launch at a time per workload, "in use" as a fact.
Promises: a lock ends with the last process that holds its descriptor, however that process ends.
Must not know: what is locked.
Source: flock(2): locks belong to an open file, are shared by its duplicates, and end with the last of them.
"""

import fcntl
import os
import time
from pathlib import Path

_LOOK_AGAIN_SECONDS = 0.05


def take(path: Path, *, is_shared: bool = False, within_seconds: float = 0.0) -> int | None:
    """Return a descriptor that holds the lock, or None when somebody else held it all that time.

    The caller closes it. The descriptor is not inherited unless it is passed on.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    wanted = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            fcntl.flock(descriptor, wanted | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(_LOOK_AGAIN_SECONDS)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return descriptor


def share(descriptor: int) -> None:
    """Let others in, beside us: an exclusive lock becomes a shared one."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)
