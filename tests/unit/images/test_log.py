"""A job's log as it is kept.

Covered: what is cleaned, growth while a job runs, the end of a long log, the lines that say why. Left out: where logs
come from (the forge's contract), how they travel (the stream's tests).
"""

import itertools

import pytest

from spawner.images.log import HEAD_BYTES, TAIL_BYTES, clean, failing_lines

RAW = (
    b"section_start:1700000000:prepare[collapsed=true]\r\x1b[0K\x1b[0;32mPreparing\x1b[0m\n"
    b"10%\r50%\r100%\r\nsection_end:1700000001:prepare\r\x1b[0K\xc3\xbcber\x07all\nunfinished"
)


def test_a_log_is_readable() -> None:
    """Sections, colours, bells and overwritten progress are gone; the last line is there once the job has ended."""
    assert clean(RAW, is_over=True) == "Preparing\n100%\nüberall\nunfinished"
    assert clean(RAW, is_over=False) == "Preparing\n100%\nüberall\n"


def test_no_line_yet_is_no_text() -> None:
    """A running job that has not finished its first line has no text."""
    assert clean(b"Prepar", is_over=False) == ""


def long(lines: int) -> bytes:
    return b"".join(b"\x1b[0;33m%07d \xc3\xbc compiling the world\x1b[0m\r\n" % number for number in range(lines))


LONG = (
    long(60_000)
    + b"ERROR: No matching distribution found\nCleaning up project directory\nERROR: Job failed: exit code 1\n"
)


@pytest.mark.parametrize("whole", [RAW, long(10_000), LONG], ids=["short", "middling", "long"])
def test_a_growing_log_begins_with_what_it_was(whole: bytes) -> None:
    """However a running job's log was cut, what was kept is the beginning of what is kept later, and at the end."""
    step = max(1, len(whole) // 61)
    texts = [clean(whole[:end], is_over=False) for end in range(0, len(whole), step)]
    texts += [clean(whole, is_over=False), clean(whole, is_over=True)]

    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    assert "�" not in texts[-1]


def test_a_long_log_is_bounded_and_ends_with_its_end() -> None:
    """Of a log of several megabytes the beginning and the end are kept, and the lines that failed are the job's own."""
    text = clean(LONG, is_over=True)

    assert len(LONG) > 2 * (HEAD_BYTES + TAIL_BYTES)
    assert len(text.encode()) < HEAD_BYTES + TAIL_BYTES + 256
    assert text.startswith("0000000 ü compiling the world\n")
    assert text.count(" bytes are left out]\n") == 1
    assert failing_lines(text, count=1) == ("ERROR: No matching distribution found",)
