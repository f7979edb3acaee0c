"""What all who watch in one process ask together: whether sessions have news, and what is known of a build.

For: event streams. Promises: in each period every question is asked once, by whoever comes first, for everybody; news
are at most one period old; a failed question is asked again in the next period.
Must not know: HTTP, who watches.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from spawner.names import SessionName
from spawner.sessions.model import Event

T = TypeVar("T")
PERIOD_SECONDS: Final = 2.0
EventsOf = Callable[[Mapping[SessionName, int]], Sequence[Event]]


class Looks:
    """The shared looks of one process; safe for any number of threads."""

    def __init__(
        self, *, period_seconds: float = PERIOD_SECONDS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._period_seconds = period_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._period = -1
        self._asked: set[Hashable] = set()
        self._answers: dict[Hashable, Any] = {}
        self._watchers: Counter[SessionName] = Counter()
        self._heads: dict[SessionName, int] = {}  # the newest event id seen of each watched session

    def seconds_left(self) -> float:
        """Return how long the present period lasts: watchers look when it is over, all at once."""
        return self._period_seconds - self._monotonic() % self._period_seconds

    @contextmanager
    def watching(self, name: SessionName, seen: int) -> Iterator[None]:
        """Have a session looked at with the others, from the event `seen` on."""
        with self._lock:
            self._watchers[name] += 1
            self._heads.setdefault(name, seen)
        try:
            yield
        finally:
            with self._lock:
                self._watchers[name] -= 1
                if not self._watchers[name]:
                    del self._watchers[name], self._heads[name]

    def has_news(self, name: SessionName, seen: int, events_of: EventsOf) -> bool:
        """Say whether a watched session has events after `seen`; what `events_of` raises comes through."""
        with self._lock:
            if self._is_first("events"):
                for event in events_of(dict(self._heads)):
                    self._heads[event.session] = max(event.id, self._heads[event.session])
            return self._heads[name] > seen

    def once(self, question: Hashable, ask: Callable[[], T], *, is_fresh: bool = False) -> T | None:
        """Return the period's answer to a question, asked anew where it has to be fresh; None where asking failed."""
        with self._lock:
            if self._is_first(question) or is_fresh:
                self._answers[question] = ask()
            found: T | None = self._answers.get(question)
            return found

    def _is_first(self, question: Hashable) -> bool:
        """Say whether nobody has asked this in the present period, and note that somebody does now."""
        period = int(self._monotonic() / self._period_seconds)
        if period != self._period:
            self._period = period
            self._asked.clear()
            self._answers.clear()
        is_first = question not in self._asked
        self._asked.add(question)
        return is_first
