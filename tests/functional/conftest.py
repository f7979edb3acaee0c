"""A stand-in and a whole spawner as processes, on both databases and both dispatchers.

A test that takes `installation` runs twice: SQLite with tasks in the web process, and PostgreSQL with Redis,
worker and beat. Caches of environments are shared by all tests of a run; nothing else is.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.installation import Client, Installation, install
from tests.surroundings import Folder

if TYPE_CHECKING:
    from tests.servers import PostgreSQLServer, RedisServer

WAYS = ("sqlite-inprocess", "postgresql-celery")


def grouped(name: str) -> list[Any]:
    """Return the ways as parameters, each way's tests on one worker: what they share is made once."""
    return [pytest.param(way, marks=pytest.mark.xdist_group(f"{name}-{way}")) for way in WAYS]


_numbers = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave a scenario that is to be played once out of every way but the first; it is not skipped, it is not there."""
    kept = [item for item in items if not _is_repeated(item)]
    config.hook.pytest_deselected(items=[item for item in items if _is_repeated(item)])
    items[:] = kept


def _is_repeated(item: pytest.Item) -> bool:
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return given.get("installation") != WAYS[0] and getattr(given.get("scenario"), "is_once", False)


class Maker(Protocol):
    """Prepares, not starts, a spawner of one of the `WAYS`."""

    def __call__(
        self, way: str, *, root: Path, settings: Mapping[str, str], stand_in: StandIn | None = None
    ) -> Installation:
        """Return it; environments and workspaces go below `root`; beside the run's own stand-in if none is given."""
        ...


@pytest.fixture(scope="module")
def make(request: pytest.FixtureRequest, folder: Folder) -> Maker:
    """Prepares a spawner; whoever starts it stops it."""

    def prepare(way: str, *, root: Path, settings: Mapping[str, str], stand_in: StandIn | None = None) -> Installation:
        data = folder("spawner")
        redis: RedisServer | None = None
        database_url = f"sqlite:///{data}/slipway.db"
        if way == "postgresql-celery":
            postgresql: PostgreSQLServer = request.getfixturevalue("postgresql_server")
            database = f"functional_{next(_numbers)}"
            postgresql.execute(f"CREATE DATABASE {database}")
            database_url = postgresql.url(database)
            redis = request.getfixturevalue("_redis")
        return install(
            data=data,
            stand_in=stand_in or request.getfixturevalue("stand_in"),
            database_url=database_url,
            root=root,
            redis=redis,
            settings=settings,
        )

    return prepare


@pytest.fixture(scope="module", params=WAYS)
def installation(request: pytest.FixtureRequest, make: Maker, standalone_root: Path) -> Iterator[Installation]:
    """A running spawner; each module gets one of each way."""
    settings = {"IMAGES__GRACE_SECONDS": "2", "IMAGES__QUEUE_BUDGET_SECONDS": "20"}
    made = make(request.param, root=standalone_root, settings=settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def alice(stand_in: StandIn) -> UserHandle:
    """A person who owns projects."""
    return stand_in.add_user("alice")


@pytest.fixture(scope="session")
def bob(stand_in: StandIn) -> UserHandle:
    """A person who owns none of them."""
    return stand_in.add_user("bob")


@pytest.fixture
def project(stand_in: StandIn, alice: UserHandle) -> ProjectHandle:
    """A private project of Alice's, without CI."""
    return stand_in.add_project(f"alice/project-{next(_numbers)}", owner=alice)


@pytest.fixture
def at_alice(installation: Installation, alice: UserHandle) -> Client:
    """Alice's client."""
    return installation.client(alice)


@pytest.fixture
def at_bob(installation: Installation, bob: UserHandle) -> Client:
    """Bob's client."""
    return installation.client(bob)
