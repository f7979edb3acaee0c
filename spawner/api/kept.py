"""Members of a list's answer, kept for as long as they are true: a session's bytes by its stamp.

For: `servers`; pages and older clients ask for the same list every few seconds, of which one session has changed.
Promises: bounded in bytes; safe for threads; bytes are found only by the stamp they were made under, so whatever they
show must be in the stamp.
Must not know: what the bytes are.
"""

import threading
from collections import OrderedDict

from spawner.sessions.store import Stamp

BYTES_LIMIT = 16 << 20  # 7,000 sessions of 2.3 kB


class KeptMembers:
    """The newest members of one process; the longest unused go first."""

    def __init__(self, *, bytes_limit: int = BYTES_LIMIT) -> None:
        self._bytes_limit = bytes_limit
        self._lock = threading.Lock()
        self._members: OrderedDict[Stamp, bytes] = OrderedDict()
        self._size_bytes = 0

    def find(self, stamp: Stamp) -> bytes | None:
        """Return what was kept under that stamp, or None."""
        with self._lock:
            found = self._members.get(stamp)
            if found is not None:
                self._members.move_to_end(stamp)
            return found

    def keep(self, stamp: Stamp, member: bytes) -> None:
        """Keep a member; the longest unused make room."""
        with self._lock:
            self._size_bytes += len(member) - len(self._members.pop(stamp, b""))
            self._members[stamp] = member
            while self._members and self._size_bytes > self._bytes_limit:
                _, dropped = self._members.popitem(last=False)
                self._size_bytes -= len(dropped)
