"""What GitLab still lets each token ask, as its answers say.

For: `Transport`, which asks here before each call and tells what came back. Promises: after a 429 that says when to
come back, and after an answer that says that nothing remains, that token asks nothing until then, whatever asks with
it; other tokens go on, since GitLab counts each person's calls apart (decision 0021). Bounded, and safe for threads;
holds no token.
Must not know: what is asked, or how.
Source: https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/ (18.x): `Retry-After` on a 429,
`RateLimit-Remaining` and `RateLimit-Reset` on every answer while a limit is on.
"""

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from spawner.errors import RateLimited

DEFAULT_PATIENCE_SECONDS = 30.0  # a guess, for a 429 that does not say how long
LONGEST_PATIENCE_SECONDS = 3600.0
_MOST_TOKENS = 4096
_TOO_MANY = 429


class Allowances:
    """The tokens that have nothing left, and until when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: OrderedDict[str, float] = OrderedDict()

    def check(self, token: str) -> None:
        """Raise RateLimited, with the seconds that are left, where GitLab would refuse this token's call."""
        with self._lock:
            left = self._until.get(_mark(token), 0.0) - self._clock()
        if left > 0:
            raise RateLimited("GitLab asks for patience: too many requests.", retry_after_seconds=max(left, 1.0))

    def learn(self, token: str, status: int, headers: Mapping[str, str]) -> None:
        """Take in what an answer says of the token's limit."""
        seconds = _spent_seconds(status, headers)
        if seconds <= 0:
            return
        with self._lock:
            self._until[_mark(token)] = self._clock() + seconds
            self._until.move_to_end(_mark(token))
            if len(self._until) > _MOST_TOKENS:
                self._until.popitem(last=False)


def patience_seconds(header: str) -> float:
    """Return how long a `Retry-After` asks to wait, whether it counts seconds or names a date; 30 s if it is none."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError):
            return DEFAULT_PATIENCE_SECONDS
    if not math.isfinite(seconds):
        return DEFAULT_PATIENCE_SECONDS
    return min(max(seconds, 1.0), LONGEST_PATIENCE_SECONDS)


def _spent_seconds(status: int, headers: Mapping[str, str]) -> float:
    """Return how long nothing may be asked; an application limit says nothing, and holds for one address only."""
    if status == _TOO_MANY:
        return patience_seconds(headers["Retry-After"]) if "Retry-After" in headers else 0.0
    reset = headers.get("RateLimit-Reset", "")
    if headers.get("RateLimit-Remaining") != "0" or not reset.isdecimal() or len(reset) > 12:  # noqa: PLR2004 - to year 33658
        return 0.0
    return min(int(reset) - _server_time(headers), LONGEST_PATIENCE_SECONDS)


def _server_time(headers: Mapping[str, str]) -> float:
    """Return the time by the clock that set the reset: the server's own, where it says it."""
    try:
        return parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except (ValueError, TypeError):
        return time.time()


def _mark(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
