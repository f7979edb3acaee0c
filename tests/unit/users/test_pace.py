"""How fast one person may launch: the sliding minute, and who is counted. Left out: HTTP, which the API's tests do."""

from datetime import UTC, datetime, timedelta

import pytest

from spawner.errors import RateLimited
from spawner.names import UserId
from spawner.users.pace import LaunchPace

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ADA, BOB = UserId("ada"), UserId("bob")


@pytest.mark.parametrize(
    ("most", "asked_at_seconds", "let_in"),
    [
        (2, [0, 1, 2], [True, True, False]),
        (2, [0, 30, 59.9, 60], [True, True, False, True]),
        (2, [0, 30, 60, 61, 90], [True, True, True, False, True]),  # it slides: no fresh minute begins at 60
        (2, [0, 0, 1, 2, 3, 60.5], [True, True, False, False, False, True]),  # what is refused is not counted
        (0, [0] * 200, [True] * 200),
    ],
    ids=["too many", "a minute later", "sliding", "refused", "no limit"],
)
def test_launches_of_one_person(most: int, asked_at_seconds: list[float], let_in: list[bool]) -> None:
    """Within any sixty seconds a person is let in so many times."""
    pace = LaunchPace(most=most)

    def is_let_in(seconds: float) -> bool:
        try:
            pace.admit(ADA, NOON + timedelta(seconds=seconds))
        except RateLimited:
            return False
        return True

    assert [is_let_in(seconds) for seconds in asked_at_seconds] == let_in


def test_one_person_does_not_slow_another() -> None:
    """Each person is counted alone, and told how long to wait."""
    pace = LaunchPace(most=1)
    pace.admit(ADA, NOON)
    pace.admit(BOB, NOON)
    with pytest.raises(RateLimited) as refused:
        pace.admit(ADA, NOON + timedelta(seconds=45))
    assert refused.value.retry_after_seconds == 15


def test_nobody_is_remembered_for_long() -> None:
    """What is kept grows with the people of the last minute, not with all of them."""
    pace = LaunchPace(most=3)
    for number in range(100):
        pace.admit(UserId(f"person-{number}"), NOON + timedelta(seconds=number * 6))
    assert len(pace._launches) <= 11
