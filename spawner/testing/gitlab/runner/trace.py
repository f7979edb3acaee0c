"""A job's log on this side: masked as it comes in, kept whole until the job has ended.

Promises: bytes that were given out once never change; a masked value never appears, however it was cut into
pieces; thread-safe.
Must not know: HTTP, processes.
"""

import re
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LARGEST_BYTES = 4 << 20
_MASK = b"[MASKED]"
_LONGEST_WORD_BYTES = 512
_LIMIT_REACHED = b"\n\x1b[33;1mThe log exceeded its limit of 4 MiB; the job goes on, but no more is kept.\x1b[0;m\n"
_WORD = rb"[0-9A-Za-z_.=-]"
_TRAILING_WORD = re.compile(rb"[0-9A-Za-z_.=-]{1,512}\Z")
# What may still come after the limit: the last words of the runner itself.
_ENDING_BYTES = 4096


class Trace:
    """One job's log."""

    def __init__(self, *, secrets: Sequence[str] = (), prefixes: Sequence[str] = (), has_sections: bool = True) -> None:
        values = sorted({secret.encode() for secret in secrets if secret}, key=len, reverse=True)
        parts = [re.escape(value) for value in values]
        parts += [rb"(?<![0-9A-Za-z])" + re.escape(prefix.encode()) + _WORD + rb"{8,}" for prefix in prefixes if prefix]
        self._secret = re.compile(b"|".join(parts)) if parts else None
        self._longest = max(map(len, values), default=0)
        self._has_sections = has_sections
        self._whole = bytearray()
        self._pending = bytearray()
        self._lock = threading.Lock()
        self._is_full = False

    def write(self, text: str) -> None:
        """Add a text of the runner's own; it ends what was pending."""
        with self._lock:
            self._give_out(everything=True)
            self._pending += text.encode(errors="replace")
            self._give_out(everything=True, is_own=True)

    def feed(self, output: bytes) -> None:
        """Add what the job printed; the last part of a line may wait, in case it becomes a masked value."""
        with self._lock:
            self._pending += output
            self._give_out(everything=False)

    def finish(self) -> None:
        """Give out what was still waiting."""
        with self._lock:
            self._give_out(everything=True)

    def after(self, start: int, *, most_bytes: int) -> bytes:
        """Return the bytes from `start` on, at most `most_bytes`."""
        with self._lock:
            return bytes(self._whole[start : start + most_bytes])

    def size_and_checksum(self) -> tuple[int, str]:
        """Return the size in bytes and the checksum in the protocol's form (`crc32:<8 hex digits>`)."""
        with self._lock:
            return len(self._whole), f"crc32:{zlib.crc32(self._whole):08x}"

    @contextmanager
    def section(self, name: str, title: str) -> Iterator[None]:
        """Put a collapsible section around what is written inside.

        Format: https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections
        """
        mark = f"section_start:{int(time.time())}:{name}\r\x1b[0K" if self._has_sections else ""
        self.write(f"{mark}\x1b[0K\x1b[36;1m{title}\x1b[0;m\n")
        try:
            yield
        finally:
            if self._has_sections:
                self.write(f"section_end:{int(time.time())}:{name}\r\x1b[0K")

    def _give_out(self, *, everything: bool, is_own: bool = False) -> None:
        if not self._pending:
            return
        if self._secret is None:
            self._append(bytes(self._pending), is_own=is_own)
            self._pending.clear()
            return
        masked = self._masked(bytes(self._pending), everything=everything)
        keep = 0 if everything else self._held_bytes(masked)
        cut = len(masked) - keep
        self._append(masked[:cut], is_own=is_own)
        self._pending[:] = masked[cut:]

    def _masked(self, text: bytes, *, everything: bool) -> bytes:
        if self._secret is None:
            return text
        if everything:
            return self._secret.sub(_MASK, text)
        # A match that reaches the very end may go on in the next piece: it waits.
        return self._secret.sub(lambda found: found[0] if found.end() == len(text) else _MASK, text)

    def _held_bytes(self, text: bytes) -> int:
        newline = text.rfind(b"\n") + 1
        word = _TRAILING_WORD.search(text, newline)
        held = max(self._longest, len(word[0]) if word else 0)
        return min(held, len(text) - newline, max(self._longest, _LONGEST_WORD_BYTES))

    def _append(self, piece: bytes, *, is_own: bool) -> None:
        room = LARGEST_BYTES - _ENDING_BYTES - len(self._whole)
        if is_own and len(self._whole) + len(piece) <= LARGEST_BYTES:
            self._whole += piece
        elif self._is_full:
            return
        elif len(piece) <= room:
            self._whole += piece
        else:
            self._is_full = True
            self._whole += piece[: max(room, 0)] + _LIMIT_REACHED
