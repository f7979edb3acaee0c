"""A short memory of bearer tokens, and patience with addresses that try unknown ones.

For: `spawner.users.service`, so that a program's every request is not a question to the forge.
Promises: tokens are kept by SHA-256 only; an accepted one for a minute, a refused one for half; both tables are
bounded; safe for threads. Each process has its own: revoking at the forge takes effect within the minute.
Must not know: HTTP, the database, any clock but the times it is given.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from spawner.errors import RateLimited
from spawner.users.model import Caller

ACCEPTED_SECONDS = 60.0
REFUSED_SECONDS = 30.0
_MOST_TOKENS = 4096
_MOST_ADDRESSES = 4096


def token_hash(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What was found out about a bearer: who it is and its scopes, or (no caller) why it was refused."""

    caller: Caller | None
    scopes: frozenset[str] | None = None
    refusal: str = ""


class BearerMemory:
    """What the forge said about tokens a moment ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[datetime, Known]] = OrderedDict()

    def recall(self, token: str, now: datetime) -> Known | None:
        """Return what is known of a token, or None when it must be asked."""
        name = token_hash(token)
        with self._lock:
            found = self._known.get(name)
            if found is None:
                return None
            until, known = found
            if until <= now:
                del self._known[name]
                return None
            return known

    def keep(self, token: str, known: Known, now: datetime) -> None:
        """Remember an answer; the oldest goes when there are too many."""
        seconds = REFUSED_SECONDS if known.caller is None else ACCEPTED_SECONDS
        name = token_hash(token)
        with self._lock:
            self._known[name] = (now + timedelta(seconds=seconds), known)
            self._known.move_to_end(name)
            while len(self._known) > _MOST_TOKENS:
                self._known.popitem(last=False)


class AttemptLimit:
    """Counts refused tokens per address in windows of a minute."""

    WINDOW = timedelta(seconds=60)

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._windows: OrderedDict[str, tuple[datetime, int]] = OrderedDict()

    def check(self, address: str, now: datetime) -> None:
        """Raise RateLimited when the address has shown too many unknown tokens within the minute."""
        with self._lock:
            began, count = self._windows.get(address, (now, 0))
            left = (began + self.WINDOW - now).total_seconds()
        if count >= self._most and left > 0:
            raise RateLimited(
                "Too many unknown tokens came from your address.",
                remedy="Wait a minute, then use a valid token.",
                retry_after_seconds=left,
            )

    def count(self, address: str, now: datetime) -> None:
        """Count one refused token."""
        with self._lock:
            began, count = self._windows.get(address, (now, 0))
            if now - began >= self.WINDOW:
                began, count = now, 0
            self._windows[address] = (began, count + 1)
            self._windows.move_to_end(address)
            while len(self._windows) > _MOST_ADDRESSES:
                self._windows.popitem(last=False)
