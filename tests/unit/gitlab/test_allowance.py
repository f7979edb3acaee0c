"""What GitLab still lets a token ask.

Covered: both kinds of 429, an answer with nothing left, clocks that differ, other tokens, how many are kept.
Left out: that no call is made meanwhile (contract/forge_port/test_patience).
"""

import time
from email.utils import formatdate

import pytest

from spawner.errors import RateLimited
from spawner.gitlab import allowance
from spawner.gitlab.allowance import Allowances


class Watch:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def left(of: Allowances, who: str = "ada") -> float:
    """Return the seconds that a token has to wait; 0 when it may ask."""
    try:
        of.check(who)
    except RateLimited as error:
        return error.retry_after_seconds
    return 0.0


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        pytest.param(200, {"RateLimit-Remaining": "1", "RateLimit-Reset": "2000000000"}, 0.0, id="one is left"),
        pytest.param(429, {"Retry-After": "42"}, 42.0, id="told to wait"),
        pytest.param(429, {}, 0.0, id="an application limit holds for one address"),
        pytest.param(429, {"Retry-After": "soon"}, 30.0, id="not said how long"),
        pytest.param(429, {"Retry-After": "999999"}, 3600.0, id="never longer than an hour"),
        pytest.param(
            200,
            {
                "RateLimit-Remaining": "0",
                "RateLimit-Reset": "1000000060",
                "Date": formatdate(1_000_000_000, usegmt=True),
            },
            60.0,
            id="nothing left, by the clock of the server",
        ),
        pytest.param(200, {"RateLimit-Remaining": "0", "RateLimit-Reset": "1"}, 0.0, id="the window is over"),
        pytest.param(200, {"RateLimit-Remaining": "0", "RateLimit-Reset": "x"}, 0.0, id="no time"),
        pytest.param(0, {}, 0.0, id="no answer"),
    ],
)
def test_an_answer_says_how_long_to_wait(status: int, headers: dict[str, str], expected: float) -> None:
    """Only an answer that says so holds a token back, for the time it says."""
    watch = Watch()
    of = Allowances(watch)
    of.learn("ada", status, headers)
    assert left(of) == pytest.approx(expected, abs=1.0)
    assert left(of, "another") == 0.0
    watch.now += expected
    assert left(of) == 0.0


def test_without_a_date_our_own_clock_counts() -> None:
    """A server that does not tell its time is taken to have ours."""
    of = Allowances()
    of.learn("ada", 200, {"RateLimit-Remaining": "0", "RateLimit-Reset": str(int(time.time()) + 50)})
    assert 40 < left(of) <= 50


def test_as_many_tokens_as_fit_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten first; forgetting costs one refused call."""
    monkeypatch.setattr(allowance, "_MOST_TOKENS", 2)
    of = Allowances(Watch())
    for token in ("a", "b", "c"):
        of.learn(token, 429, {"Retry-After": "10"})
    assert [left(of, who) for who in ("a", "b", "c")] == [0.0, 10.0, 10.0]
