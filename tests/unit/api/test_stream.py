"""Cursors, frames and ends of event streams.

Covered: what resumes, what is cut, what ends a stream. Left out: streams over HTTP (tests/functional/api).
"""

from datetime import UTC, datetime

import pytest

from spawner.api.stream import LOG_PIECE_BYTES, Cursor, frame, last_of, parse_cursors, pieces
from spawner.names import SessionName
from spawner.sessions.model import Event, EventKind, Phase, since_launch


def _event(number: int, kind: EventKind, phase: Phase) -> Event:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Event(session=SessionName("s"), id=number, at=at, phase=phase, kind=kind, message="", data={})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12-300", Cursor(event=12, log=300)),
        ("12", Cursor(event=12)),
        ("0-0", Cursor()),
        ("12-x", Cursor(event=12)),
        (None, None),
        ("", None),
        ("x-1", None),
        ("-1", None),
        ("1" * 30, None),
        ("\u0661-0", None),
    ],
)
def test_cursor(text: str | None, expected: Cursor | None) -> None:
    """A cursor is two numbers; what is none begins anew."""
    assert expected == Cursor.parse(text)


def test_cursor_text() -> None:
    """A cursor reads back what it writes."""
    assert Cursor.parse(str(Cursor(event=3, log=4))) == Cursor(event=3, log=4)


@pytest.mark.parametrize(
    ("text", "expected"), [("a-1:3,b-2:0", {"a-1": 3, "b-2": 0}), ("", None), (None, None), ("a", None), ("a:x", None)]
)
def test_cursors(text: str | None, expected: dict[str, int] | None) -> None:
    """A person's cursor holds a number per session."""
    assert expected == parse_cursors(text)


def test_frame() -> None:
    """A frame is id, event and one line of JSON; a line break in a text cannot end it."""
    assert frame("log", {"text": "a\nb"}, "1-2") == b'id: 1-2\nevent: log\ndata: {"text":"a\\nb"}\n\n'


def test_pieces_keep_characters_whole() -> None:
    """A long log is cut between characters, and nothing of it is lost."""
    text = ("x" + "é" * LOG_PIECE_BYTES).encode()
    found = list(pieces(text, 0))
    assert text == b"".join(piece for _, piece in found)
    assert all(piece.decode() for _, piece in found)
    assert [0, *(offset + len(piece) for offset, piece in found)][:-1] == [offset for offset, _ in found]


STARTED = _event(1, EventKind.PHASE, Phase.NEW)
FAILED = _event(2, EventKind.FAILED, Phase.FAILED)
AGAIN = _event(3, EventKind.PHASE, Phase.NEW)
READY = _event(4, EventKind.READY, Phase.RUNNING)
RESTARTING = _event(5, EventKind.PHASE, Phase.STARTING)
GONE = _event(6, EventKind.GONE, Phase.GONE)
READY_ENDS = frozenset({EventKind.READY, EventKind.FAILED, EventKind.GONE})


@pytest.mark.parametrize(
    ("events", "ends", "expected"),
    [
        ([STARTED], READY_ENDS, None),
        ([STARTED, FAILED], READY_ENDS, 2),
        ([STARTED, FAILED, AGAIN], READY_ENDS, None),
        ([AGAIN, READY], READY_ENDS, 4),
        ([AGAIN, READY, RESTARTING], READY_ENDS, None),
        ([AGAIN, READY], frozenset({EventKind.GONE}), None),
        ([READY, GONE], frozenset({EventKind.GONE}), 6),
        ([], READY_ENDS, None),
    ],
)
def test_end(events: list[Event], ends: frozenset[EventKind], expected: int | None) -> None:
    """A stream ends with the last event of its kind, unless the session went on starting."""
    assert expected == last_of(events, ends)


def test_generation() -> None:
    """A new viewer sees the last launch, not the failure before it."""
    assert since_launch([STARTED, FAILED, AGAIN, READY]) == [AGAIN, READY]
