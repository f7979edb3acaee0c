"""The option of the kill matrix, and an installation whose parts tell their writes and die when told to."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spawner.testing.gitlab.client import UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.functional.conftest import WAYS
from tests.functional.kill.house import House
from tests.installation import install
from tests.surroundings import Folder

if TYPE_CHECKING:
    from tests.servers import PostgreSQLServer, RedisServer

SETTINGS = {
    "IMAGES__GRACE_SECONDS": "5",
    "IMAGES__QUEUE_BUDGET_SECONDS": "15",
    "IMAGES__BUILD_BUDGET_SECONDS": "15",
    "IMAGES__REGISTRY_BUDGET_SECONDS": "10",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run ask for every cell."""
    parser.addoption(
        "--kill-matrix",
        choices=("sample", "full", "again"),
        default="sample",
        help="`full`: every victim at every step, and docs/development/kill-matrix.md written anew (half an hour); "
        "`again`: the cells of the last full run that were not held",
    )


@pytest.fixture(scope="module", params=WAYS)
def house(request: pytest.FixtureRequest, folder: Folder, stand_in: StandIn, standalone_root: Path) -> Iterator[House]:
    """A running spawner that can be killed at each of its writes."""
    data, orders = folder("spawner"), folder("orders")
    redis: RedisServer | None = None
    database_url = f"sqlite:///{data}/slipway.db"
    if request.param == "postgresql-celery":
        postgresql: PostgreSQLServer = request.getfixturevalue("postgresql_server")
        postgresql.execute("CREATE DATABASE kill_matrix")
        database_url = postgresql.url("kill_matrix")
        redis = request.getfixturevalue("_redis")
    installation = install(
        data=data, stand_in=stand_in, database_url=database_url, root=standalone_root, redis=redis, settings=SETTINGS
    )
    installation.program = (sys.executable, "-m", "tests.functional.kill.process")
    installation.environment = {
        **installation.environment,
        "SLIPWAY_KILL_FOLDER": str(orders),
        "SLIPWAY_KILL_RUNNER": str(stand_in.data / "runner.pid"),
    }
    with House(way=request.param, installation=installation, stand_in=stand_in, folder=orders, redis=redis) as opened:
        yield opened


@pytest.fixture(scope="session")
def owner(stand_in: StandIn) -> UserHandle:
    """The person whose sessions are killed."""
    return stand_in.add_user("kay")
