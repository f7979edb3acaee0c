"""Announcements within one process: who has a new event, and threads that wait to hear it.

For: event streams wait here; the in-process dispatcher announces here, and so does the listener of the
distributed one.
Promises: what is announced between two waits of one thread makes the second return at once; a wait ends at its
timeout whatever happens, so that a lost announcement costs one look at the log.
Must not know: how an announcement came, what an event is.
"""

import threading
from collections.abc import Collection

from spawner.names import SessionName

REMEMBERED = 10_000  # sessions; of more, the longest silent are forgotten


class LocalAnnouncements:
    """The announcements of one process; safe for any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._newest: dict[SessionName, int] = {}  # in the order of their numbers
        self._heard = threading.local()

    def announce(self, session: SessionName) -> None:
        """Wake whoever waits for this session."""
        with self._changed:
            self._count += 1
            self._newest.pop(session, None)
            self._newest[session] = self._count
            if len(self._newest) > REMEMBERED:
                del self._newest[next(iter(self._newest))]
            self._changed.notify_all()

    def wait(self, names: Collection[SessionName], timeout_seconds: float) -> bool:
        """Return True when one of the sessions was announced since this thread last returned, False at the timeout."""
        heard: int = getattr(self._heard, "count", 0)
        with self._changed:
            is_announced = self._changed.wait_for(
                lambda: any(self._newest.get(name, 0) > heard for name in names), timeout_seconds
            )
            self._heard.count = self._count
        return is_announced
