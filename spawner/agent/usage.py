"""What a session uses: memory and processor time of everything below its agent.

For: the agent writes it beside its health, so that who asks reads a file. Promises: reads only the session's own
processes; what cannot be read counts as nothing.
Must not know: who asks, how often.
Source: proc_pid_stat(5), proc_pid_statm(5), proc_tid_children(5).
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from spawner.agent import processes

_UTIME, _CSTIME = 11, 15  # of the fields that follow the name: utime, stime, cutime, cstime


class Usage:
    """Measures from one look to the next."""

    def __init__(self, ancestor: int) -> None:
        self._ancestor = ancestor
        self._looked_at = time.monotonic()
        self._seconds = 0.0

    def look(self) -> dict[str, float]:
        """Return {"memory_bytes", "cpu_cores"}: what is held now, and the average since the last look."""
        pids = _below(self._ancestor)
        now, seconds = time.monotonic(), sum(_seconds_of(pid) for pid in pids)
        passed = max(now - self._looked_at, 0.001)
        cores = max(0.0, seconds - self._seconds) / passed
        self._looked_at, self._seconds = now, seconds
        return {"memory_bytes": processes.resident_bytes(pids), "cpu_cores": round(cores, 3)}


def _below(ancestor: int) -> set[int]:
    """Return the pids below a process, by the kernel's own lists; by the whole table where it keeps none."""
    if not Path(f"/proc/{ancestor}/task/{ancestor}/children").exists():
        return processes.descendants(ancestor)
    found: set[int] = set()
    pending = [ancestor]
    while pending:
        for listed in Path(f"/proc/{pending.pop()}/task").glob("*/children"):
            with suppress(OSError):
                below = {int(pid) for pid in listed.read_text(encoding="ascii").split()} - found
                found |= below
                pending.extend(below)
    return found


def _seconds_of(pid: int) -> float:
    """Return the processor time of a process and of its children that have ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return sum(int(field) for field in fields[_UTIME:_CSTIME]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0
