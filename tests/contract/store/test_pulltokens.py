"""The pull tokens' store on both databases.

Covered: round trips, two processes at once, replacing, forgetting, sealing, keys that rotate or are lost.
"""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from spawner.ports import PullToken
from spawner.store.pulltokens import PullTokenRows
from tests.contract.store.conftest import KEY
from tests.contract.store.values import at

NEW_KEY = b"0123456789abcdefghijklmnopqrstuvwxyz-second"
TOKEN = PullToken(id=7, username="gitlab+deploy-token-7", token="gldt-canary", expires_at=at(3600))


@pytest.fixture
def tokens(engine: Engine) -> PullTokenRows:
    """The store."""
    return PullTokenRows(engine, [KEY])


def test_round_trip(tokens: PullTokenRows) -> None:
    """A token comes back as it went in, for its project alone."""
    assert tokens.get("default", 1) is None
    assert tokens.put("default", 1, TOKEN, instead_of=None)
    assert tokens.get("default", 1) == TOKEN
    assert (tokens.get("default", 2), tokens.get("other", 1)) == (None, None)


def test_the_faster_of_two_is_kept(tokens: PullTokenRows) -> None:
    """Who comes second, to an empty place or to the place of one that is no longer there, is told."""
    second, third = replace(TOKEN, id=8), replace(TOKEN, id=9)
    assert tokens.put("default", 1, TOKEN, instead_of=None)
    assert not tokens.put("default", 1, second, instead_of=None)
    assert tokens.put("default", 1, second, instead_of=7)
    assert not tokens.put("default", 1, third, instead_of=7)
    assert tokens.get("default", 1) == second


def test_only_the_token_that_is_meant_is_forgotten(tokens: PullTokenRows) -> None:
    """Forgetting an old one leaves the new one in its place."""
    tokens.put("default", 1, TOKEN, instead_of=None)
    tokens.remove("default", 1, 6)
    assert tokens.get("default", 1) == TOKEN
    tokens.remove("default", 1, 7)
    assert tokens.get("default", 1) is None


def test_it_is_sealed_for_its_row(tokens: PullTokenRows, engine: Engine) -> None:
    """The database holds no secret in clear, and a row that is copied to another project opens nothing there."""
    tokens.put("default", 1, TOKEN, instead_of=None)
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT * FROM pull_tokens")).all()
        assert "canary" not in str(rows)
        connection.execute(text("UPDATE pull_tokens SET project_id = 2"))
    assert tokens.get("default", 2) is None


def test_keys_rotate(tokens: PullTokenRows, engine: Engine) -> None:
    """An older key still opens; one that is gone makes place for a new token."""
    tokens.put("default", 1, TOKEN, instead_of=None)
    assert PullTokenRows(engine, [NEW_KEY, KEY]).get("default", 1) == TOKEN
    lost = PullTokenRows(engine, [NEW_KEY])
    assert lost.get("default", 1) is None
    assert lost.put("default", 1, replace(TOKEN, id=8), instead_of=None)
    assert lost.get("default", 1) == replace(TOKEN, id=8)
