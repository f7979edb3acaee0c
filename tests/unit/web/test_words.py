"""Words and times as the pages show them.

Covered: every phase and source has words, times passed. Left out: templates (tests/functional).
"""

from datetime import UTC, datetime, timedelta

import pytest

from spawner.images.model import ImageSource
from spawner.sessions.model import Phase
from spawner.web.words import SOURCE_WORDS, STATUS_WORDS, passed, stages

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (-5, "0 s"), (59, "59 s"), (65, "1 min 5 s"), (7260, "2 h 1 min"), (200_000, "2 d")],
)
def test_passed(seconds: int, expected: str) -> None:
    """Time passed is told in the two largest units."""
    assert expected == passed(AT, AT + timedelta(seconds=seconds))


def test_every_phase_has_words() -> None:
    """No state rests on colour alone."""
    assert set(Phase) == set(STATUS_WORDS)


def test_every_source_has_words() -> None:
    """Every rung of the ladder is said aloud."""
    assert set(ImageSource) == set(SOURCE_WORDS)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [(Phase.NEW, "c..."), (Phase.WAITING, "dc.."), (Phase.STARTING, "ddc."), (Phase.RUNNING, "dddc")],
)
def test_stages(phase: Phase, expected: str) -> None:
    """The stages show how far a launch has come."""
    assert expected == "".join("d" if each.is_done else "c" if each.is_current else "." for each in stages(phase))
