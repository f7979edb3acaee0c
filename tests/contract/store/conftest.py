"""Both databases, as parameters: every test of this folder runs on SQLite and on PostgreSQL."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from spawner.store.builds import BuildRows
from spawner.store.engine import open_engine
from spawner.store.sessions import SessionRows
from spawner.store.users import UserRows
from tests.contract.store.values import FixedClock

KEY = b"0123456789abcdefghijklmnopqrstuvwxyz-first"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine over a migrated database of each kind."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> FixedClock:
    """A clock that stands still."""
    return FixedClock()


@pytest.fixture
def sessions(engine: Engine, clock: FixedClock) -> SessionRows:
    """The session store."""
    return SessionRows(engine, clock)


@pytest.fixture
def builds(engine: Engine) -> BuildRows:
    """The build store."""
    return BuildRows(engine)


@pytest.fixture
def users(engine: Engine, clock: FixedClock) -> UserRows:
    """The user store."""
    return UserRows(engine, clock, [KEY])
