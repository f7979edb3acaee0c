"""The memory of bearers stays small and short. Left out: who may do what with a bearer (test_service)."""

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest

from spawner.errors import RateLimited, TokenRejected
from spawner.users.bearers import AttemptLimit, BearerMemory, Known

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = Known(caller=None, refusal=TokenRejected("no"))


def test_the_oldest_of_too_many_tokens_is_forgotten() -> None:
    """Five thousand tokens do not stay; the newest do."""
    memory = BearerMemory()
    for number in range(5000):
        memory.keep(f"token-{number}", REFUSED, NOW)
    found = [memory.recall(f"token-{number}", NOW) is not None for number in (0, 5000 - 4097, 5000 - 4096, 4999)]
    assert found == [False, False, True, True]


def test_the_oldest_of_too_many_addresses_is_forgotten() -> None:
    """A flood of addresses costs bounded memory; a counted one among the newest stays counted."""
    limit = AttemptLimit(most=1, most_in_all=10_000)
    limit.admit("first", NOW)
    for number in range(4096):
        limit.admit(f"address-{number}", NOW)
    limit.admit("first", NOW)
    with pytest.raises(RateLimited):
        limit.admit("address-4095", NOW)
    limit.admit("address-4095", NOW + timedelta(seconds=60))


def test_an_attempt_counts_before_its_answer() -> None:
    """Of many at once no more are let through than one after the other; one that was good is given back."""
    limit = AttemptLimit(most=2, most_in_all=100)
    limit.admit("a", NOW)
    limit.admit("a", NOW)
    with pytest.raises(RateLimited):
        limit.admit("a", NOW)
    limit.forgive("a")
    limit.admit("a", NOW)
    with pytest.raises(RateLimited):
        limit.admit("a", NOW)
    limit.forgive("never seen")


def test_all_addresses_together_have_a_limit() -> None:
    """Who has many addresses cannot have the forge asked without end; the next minute begins anew."""
    limit = AttemptLimit(most=20, most_in_all=3)
    for number in range(3):
        limit.admit(f"10.0.0.{number}", NOW)
    with pytest.raises(RateLimited) as caught:
        limit.admit("10.0.0.9", NOW + timedelta(seconds=20))
    assert caught.value.retry_after_seconds == 40
    limit.admit("10.0.0.9", NOW + timedelta(seconds=60))


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("", "unix", False),
    ],
)
def test_what_counts_as_one_address(first: str, second: str, *, is_one: bool) -> None:
    """A subscriber's IPv6 network is one address."""
    limit = AttemptLimit(most=1, most_in_all=100)
    limit.admit(first, NOW)
    with pytest.raises(RateLimited) if is_one else nullcontext():
        limit.admit(second, NOW)
