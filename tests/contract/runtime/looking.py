"""Waiting in tests: look again and again, never longer than said."""

import time
from collections.abc import Callable
from typing import TypeVar

_PAUSE_SECONDS = 0.02
Found = TypeVar("Found")


def until(look: Callable[[], Found | None], *, what: str, within_seconds: float) -> Found:
    """Return the first thing that `look` finds; fails with `what` when time is up."""
    deadline = time.monotonic() + within_seconds
    while True:
        found = look()
        if found is not None:
            return found
        assert time.monotonic() < deadline, f"not within {within_seconds} s: {what}"
        time.sleep(_PAUSE_SECONDS)
