"""Answers kept for as long as they are true: a list's bytes by its ETag.

For: `servers`; pages and older clients ask for the same list every few seconds, without an ETag.
Promises: bounded in number and bytes; safe for threads; an answer is found only by the stamp it was made under, so
whatever an answer shows must be in its stamp.
Must not know: what the bytes are.
"""

import threading
from collections import OrderedDict

ANSWERS_LIMIT = 128
BYTES_LIMIT = 16 << 20  # a list of 100 sessions is 225 kB


class KeptAnswers:
    """The newest answers of one process; the longest unused go first."""

    def __init__(self, *, answers_limit: int = ANSWERS_LIMIT, bytes_limit: int = BYTES_LIMIT) -> None:
        self._answers_limit = answers_limit
        self._bytes_limit = bytes_limit
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._size_bytes = 0

    def find(self, owner: str, stamp: str) -> bytes | None:
        """Return what was kept for that owner under that stamp, or None."""
        with self._lock:
            found = self._answers.get((owner, stamp))
            if found is not None:
                self._answers.move_to_end((owner, stamp))
            return found

    def keep(self, owner: str, stamp: str, answer: bytes) -> None:
        """Keep an answer; the longest unused make room."""
        with self._lock:
            self._size_bytes += len(answer) - len(self._answers.pop((owner, stamp), b""))
            self._answers[owner, stamp] = answer
            while self._answers and (len(self._answers) > self._answers_limit or self._size_bytes > self._bytes_limit):
                _, dropped = self._answers.popitem(last=False)
                self._size_bytes -= len(dropped)
