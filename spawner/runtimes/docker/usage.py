"""What a container uses, from two looks at the kernel's counters.

Promises: pure but for the looks it remembers; pages of files that the kernel would drop at once are not counted.
Must not know: the daemon, sessions.
Source: Docker Engine API 1.41, `GET /containers/{id}/stats`; control groups 1 and 2 name the same things differently.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Memory now, and processors since the look before; None at the first."""

    memory_bytes: int | None
    cpu_cores: float | None


class Usage:
    """Remembers the last look at each container that was ready once."""

    def __init__(self) -> None:
        self._looks: dict[str, tuple[float, int] | None] = {}

    def __contains__(self, identity: str) -> bool:
        return identity in self._looks

    def begin(self, identity: str) -> None:
        """Begin to remember a container."""
        self._looks[identity] = None

    def end(self, identity: str) -> None:
        """Forget a container."""
        self._looks.pop(identity, None)

    def look(self, identity: str, told: Mapping[str, Any]) -> Used:
        """Return what a container uses, from what the daemon has just told of it."""
        cpu = (told.get("cpu_stats") or {}).get("cpu_usage") or {}
        now, nanos = time.monotonic(), int(cpu.get("total_usage") or 0)
        before = self._looks.get(identity)
        self._looks[identity] = (now, nanos)
        cores = None
        if before is not None and now > before[0]:
            cores = round(max(0, nanos - before[1]) / _NANOS / (now - before[0]), 3)
        return Used(memory_bytes=memory_bytes(told), cpu_cores=cores)


def memory_bytes(told: Mapping[str, Any]) -> int | None:
    """Return the memory in use without the pages of files that nobody reads; None when it was not told."""
    memory = told.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    more = memory.get("stats") or {}
    dropped = more.get("inactive_file", more.get("total_inactive_file", 0))
    return max(0, int(memory["usage"]) - int(dropped))
