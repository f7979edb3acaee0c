"""How fast one person may launch.

For: the edges, before a launch is asked for.
Promises: at most so many launches of a person within any sixty seconds, counted by this process alone: several web
processes each count their own; one that is refused is not counted; what is kept of a person goes after a minute.
Must not know: HTTP, sessions, the database.
"""

import threading
from collections import OrderedDict, deque
from datetime import datetime, timedelta

from spawner.errors import RateLimited
from spawner.names import UserId

_WINDOW = timedelta(seconds=60)


class LaunchPace:
    """Counts each person's launches of the last minute. `most` 0: no limit. For threads."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._launches: OrderedDict[UserId, deque[datetime]] = OrderedDict()  # who launched last stands last

    def admit(self, person: UserId, now: datetime) -> None:
        """Count one launch; raises RateLimited, with the seconds until the next one is let in."""
        if self._most == 0:
            return
        with self._lock:
            self._forget(now - _WINDOW)
            launches = self._launches.setdefault(person, deque())
            while launches and launches[0] <= now - _WINDOW:
                launches.popleft()
            if len(launches) >= self._most:
                raise RateLimited(
                    f"You have launched {self._most} times within a minute; this service lets in no more.",
                    remedy="Wait a moment, then launch again.",
                    retry_after_seconds=(launches[0] + _WINDOW - now).total_seconds(),
                )
            launches.append(now)
            self._launches.move_to_end(person)

    def _forget(self, before: datetime) -> None:
        while self._launches and next(iter(self._launches.values()))[-1] <= before:
            self._launches.popitem(last=False)
