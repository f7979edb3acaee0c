"""Masking and limits of the runner's log, piece by piece.

Covered: every way to cut a secret in two, tokens by prefix, the limit. Left out: sending, which test_runner.py does.
"""

import zlib

import pytest

from spawner.testing.gitlab.runner.trace import LARGEST_BYTES, Trace


def whole(trace: Trace) -> bytes:
    return trace.after(0, most_bytes=LARGEST_BYTES)


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_secret_is_hidden_however_it_is_cut(cut: int) -> None:
    """A secret that arrives in two pieces is masked, and at no moment is a part of it given out."""
    text = b"before se/cret+token after"
    trace = Trace(secrets=["se/cret+token"], prefixes=["glpat-"])
    trace.feed(text[:cut])
    assert b"se/cret" not in whole(trace)
    trace.feed(text[cut:])
    trace.finish()
    assert whole(trace) == b"before [MASKED] after"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_tokens_are_known_by_their_prefix(size: int) -> None:
    """A token with a known prefix is masked to its very end; a word that only looks like one is not."""
    text = b"a glpat-abcdefghij0123456789 b\nmyglpat-abcdefghij glpat-x\n"
    trace = Trace(prefixes=["glpat-"])
    for start in range(0, len(text), size):
        trace.feed(text[start : start + size])
    trace.finish()
    assert whole(trace) == b"a [MASKED] b\nmyglpat-abcdefghij glpat-x\n"


def test_a_part_of_a_line_does_not_wait() -> None:
    """A prompt without a line's end is given out, apart from what may become a secret."""
    trace = Trace(secrets=["longsecret"])
    trace.feed(b"downloading 10 % .................... ")
    assert whole(trace).startswith(b"downloading 10 % ......")


def test_the_log_has_a_limit() -> None:
    """Beyond 4 MiB nothing more of the job is kept, the reason is said, and the runner's last words still fit."""
    trace = Trace()
    for _ in range(5):
        trace.feed(b"x" * (1 << 20))
    trace.write("Job succeeded\n")
    size, checksum = trace.size_and_checksum()
    content = whole(trace)
    assert len(content) == size <= LARGEST_BYTES
    assert checksum == f"crc32:{zlib.crc32(content):08x}"
    assert content.endswith(b"no more is kept.\x1b[0;m\nJob succeeded\n")
