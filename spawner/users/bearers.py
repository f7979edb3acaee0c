"""A short memory of bearer tokens, and patience with addresses that try unknown ones.

For: `spawner.users.service`, so that a program's every request is not a question to the forge, and so that strangers
cannot have the forge ban this service: GitLab.com bans an address after 300 failed sign-ins within a minute.
Promises: tokens are kept by SHA-256 only; an accepted one for a minute, a refused one for half; the forge is asked
about no more unknown tokens within a minute than one address, and all together, are allowed; both tables are bounded;
safe for threads. Each process has its own: revoking at the forge takes effect within the minute.
Must not know: HTTP, the database, any clock but the times it is given.
"""

import hashlib
import ipaddress
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from spawner.errors import PermanentError, RateLimited
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
    refusal: PermanentError | None = None


class BearerMemory:
    """What the forge said about tokens a moment ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[datetime, Known]] = OrderedDict()

    def recall(self, token: str, now: datetime) -> Known | None:
        """Return what is known of a token, or None when it must be asked."""
        with self._lock:
            until, known = self._known.get(token_hash(token), (now, None))
        return known if until > now else None

    def was_good(self, token: str) -> bool:
        """Say whether a token was accepted the last time it was asked about, however long ago."""
        with self._lock:
            found = self._known.get(token_hash(token))
        return found is not None and found[1].caller is not None

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
    """Counts the tokens that the forge is asked about and does not know, in windows of a minute.

    `most` of one address, `most_in_all` of all addresses together. An attempt is counted before the question, so that
    many at once are not let through together, and given back when the token turns out to be good.
    """

    WINDOW = timedelta(seconds=60)

    def __init__(self, *, most: int, most_in_all: int) -> None:
        self._most = most
        self._most_in_all = most_in_all
        self._lock = threading.Lock()
        self._windows: OrderedDict[str, tuple[datetime, int]] = OrderedDict()
        self._all: tuple[datetime, int] | None = None

    def admit(self, address: str, now: datetime) -> None:
        """Count one attempt; raises RateLimited, and counts nothing, for one too many."""
        place = _place(address)
        with self._lock:
            began, count = self._window(self._windows.get(place), now)
            all_began, all_count = self._window(self._all, now)
            if count >= self._most:
                raise self._too_many("Too many unknown tokens came from your address.", began, now)
            if all_count >= self._most_in_all:
                raise self._too_many("Too many unknown tokens are being tried just now.", all_began, now)
            self._windows[place] = (began, count + 1)
            self._windows.move_to_end(place)
            self._all = (all_began, all_count + 1)
            while len(self._windows) > _MOST_ADDRESSES:
                self._windows.popitem(last=False)

    def forgive(self, address: str) -> None:
        """Take back one attempt: the token was good, or the forge could not be asked."""
        place = _place(address)
        with self._lock:
            if place in self._windows:
                began, count = self._windows[place]
                self._windows[place] = (began, max(0, count - 1))
            if self._all is not None:
                self._all = (self._all[0], max(0, self._all[1] - 1))

    def _window(self, window: tuple[datetime, int] | None, now: datetime) -> tuple[datetime, int]:
        return window if window is not None and now - window[0] < self.WINDOW else (now, 0)

    def _too_many(self, message: str, began: datetime, now: datetime) -> RateLimited:
        return RateLimited(
            message,
            remedy="Wait a minute, then use a valid token.",
            retry_after_seconds=(began + self.WINDOW - now).total_seconds(),
        )


def _place(address: str) -> str:
    """Return what is counted as one address: an IPv6 subscriber has 2^64 of them (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return address
