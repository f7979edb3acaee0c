"""What viewers ask together.

Covered: one question per period whoever asks, news and none, fresh answers, failures, whose session is looked at.
Left out: streams (tests/functional/api).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from spawner.errors import StoreUnavailable
from spawner.names import SessionName
from spawner.sessions.looks import Looks
from spawner.sessions.model import Event, EventKind, Phase

ONE, TWO = SessionName("one"), SessionName("two")


class Log:
    """An event log that notes how it is asked."""

    def __init__(self) -> None:
        self.heads: dict[SessionName, int] = {}
        self.asked: list[dict[SessionName, int]] = []
        self.is_away = False

    def events_of(self, cursors: Mapping[SessionName, int]) -> Sequence[Event]:
        self.asked.append(dict(cursors))
        if self.is_away:
            raise StoreUnavailable("The database is away.")
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return [
            Event(session=name, id=number, at=at, phase=Phase.NEW, kind=EventKind.STEP, message="", data={})
            for name, after in cursors.items()
            for number in range(after + 1, self.heads.get(name, 0) + 1)
        ]


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def moment() -> Time:
    """The time."""
    return Time()


@pytest.fixture
def looks(moment: Time) -> Looks:
    """Looks of 2 s each."""
    return Looks(monotonic=moment)


def test_one_look_serves_everybody(looks: Looks, moment: Time) -> None:
    """In a period the log is asked once for all that is watched, and everybody learns of their own news."""
    log = Log()
    log.heads = {ONE: 3, TWO: 5}
    with looks.watching(ONE, 3), looks.watching(ONE, 1), looks.watching(TWO, 4):
        assert [looks.has_news(name, seen, log.events_of) for name, seen in ((ONE, 3), (ONE, 1), (TWO, 4))] == [
            False,
            True,
            True,
        ]
        assert log.asked == [{ONE: 3, TWO: 4}]
        log.heads[ONE] = 4
        assert not looks.has_news(ONE, 3, log.events_of)
        moment.now += 2
        assert looks.has_news(ONE, 3, log.events_of)
    assert log.asked[1:] == [{ONE: 3, TWO: 5}]


def test_nobody_watches_what_was_left(looks: Looks, moment: Time) -> None:
    """A session is looked at as long as somebody watches it."""
    log = Log()
    with looks.watching(TWO, 0):
        with looks.watching(ONE, 0), looks.watching(ONE, 0):
            pass
        moment.now += 2
        assert not looks.has_news(TWO, 0, log.events_of)
    assert log.asked == [{TWO: 0}]


def test_a_failure_is_asked_again_in_the_next_period(looks: Looks, moment: Time) -> None:
    """Who asked hears of it, the others of no news; then all is as before."""
    log = Log()
    log.heads, log.is_away = {ONE: 1}, True
    with looks.watching(ONE, 0):
        with pytest.raises(StoreUnavailable):
            looks.has_news(ONE, 0, log.events_of)
        log.is_away = False
        assert not looks.has_news(ONE, 0, log.events_of)
        moment.now += 2
        assert looks.has_news(ONE, 0, log.events_of)


def test_answers_are_shared_for_a_period(looks: Looks, moment: Time) -> None:
    """A question has one answer per period, unless a fresh one is wanted, which is everybody's then."""
    answers = iter(range(10))

    def ask() -> int:
        return next(answers)

    assert [looks.once("a", ask), looks.once("a", ask), looks.once("b", ask)] == [0, 0, 1]
    assert [looks.once("a", ask, is_fresh=True), looks.once("a", ask)] == [2, 2]
    moment.now += 2
    assert looks.once("a", ask) == 3


@pytest.mark.parametrize(("now", "left"), [(100.0, 2.0), (100.5, 1.5), (101.75, 0.25)])
def test_periods_end_together(looks: Looks, moment: Time, now: float, left: float) -> None:
    """Whoever waits for the period's end wakes with the others."""
    moment.now = now
    assert looks.seconds_left() == left
