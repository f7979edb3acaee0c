"""The memory of bearers stays small and short. Left out: who may do what with a bearer (test_service)."""

from datetime import UTC, datetime, timedelta

import pytest

from spawner.errors import RateLimited
from spawner.users.bearers import AttemptLimit, BearerMemory, Known

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = Known(caller=None, refusal="no")


def test_the_oldest_of_too_many_tokens_is_forgotten() -> None:
    """Five thousand tokens do not stay; the newest do."""
    memory = BearerMemory()
    for number in range(5000):
        memory.keep(f"token-{number}", REFUSED, NOW)
    found = [memory.recall(f"token-{number}", NOW) is not None for number in (0, 5000 - 4097, 5000 - 4096, 4999)]
    assert found == [False, False, True, True]


def test_the_oldest_of_too_many_addresses_is_forgotten() -> None:
    """A flood of addresses costs bounded memory; a counted one among the newest stays counted."""
    limit = AttemptLimit(most=1)
    limit.count("first", NOW)
    for number in range(4096):
        limit.count(f"address-{number}", NOW)
    limit.check("first", NOW)
    with pytest.raises(RateLimited):
        limit.check("address-4095", NOW)
    limit.check("address-4095", NOW + timedelta(seconds=60))
