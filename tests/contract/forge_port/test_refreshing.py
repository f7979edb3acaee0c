"""Two processes that need one person's token at the same moment, when it is due: never is the person signed out.

GitLab's refresh tokens are good once and a second use is `invalid_grant`, so of a hundred races each must end in one
refresh and one token for both. On both databases. Left out: many threads of one process (`test_people`).
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spawner.names import UserId
from spawner.store.engine import open_engine
from spawner.store.migrations import migrate
from tests.contract.forge_port.refreshing import MovableClock, Told, users_of
from tests.contract.forge_port.test_oauth import REDIRECT, SCOPES, signed_in

if TYPE_CHECKING:
    from spawner.testing.gitlab import StandIn
    from tests.contract.forge_port.conftest import World

RACES = 100
LIFE_SECONDS = 7200  # of an access token, as GitLab has it: within the last ten minutes of it it is due
KEY = "a line of the key file, 32 or more characters long"


@contextmanager
def racing(told: Told, person: UserId) -> Iterator[subprocess.Popen[str]]:
    """Run a process that answers each line with what it got."""
    program = [sys.executable, "-m", "tests.contract.forge_port.refreshing"]
    root = Path(__file__).parents[3]
    with subprocess.Popen(program, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(told.line() + f"{person}\n")
            process.stdin.flush()
            assert _said(process) == "ready"
            yield process
        finally:
            process.stdin.close()
            process.wait(30)


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _refreshes(standin: "StandIn") -> int:
    return standin.requests().get("POST /oauth/token", 0)


def _sign_in(told: Told) -> UserId:
    engine = open_engine(told.database_url)
    migrate(engine)
    users, _ = users_of(told, MovableClock(), engine)
    url, sign_in = users.begin_sign_in(redirect_uri=REDIRECT, return_to="/")
    back = signed_in(url)
    user, _ = users.finish_sign_in(code=back["code"][0], state=back["state"][0], sign_in=sign_in)
    engine.dispose()
    return user.id


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_processes_never_sign_a_person_out(
    world: "World", request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    """A hundred times two processes find one person's token due at once: one refresh, one living token for both."""
    database_url: str = request.getfixturevalue(f"{database}_url")
    client_id, secret = world.standin.add_application(REDIRECT, scopes=SCOPES, trusted=True)
    told = Told(
        gitlab_url=world.standin.url,
        client_id=client_id,
        client_secret=secret,
        redirect_uri=REDIRECT,
        scopes=SCOPES,
        database_url=database_url,
        keys=(KEY,),
        key_cache=str(tmp_path / "keys"),
    )
    person = _sign_in(told)

    before, seen, ends = _refreshes(world.standin), [], set()
    with racing(told, person) as one, racing(told, person) as other:
        for race in range(1, RACES + 1):
            for process in (one, other):
                assert process.stdin is not None
                process.stdin.write(f"{race * LIFE_SECONDS}\n")
                process.stdin.flush()
            answers = [json.loads(_said(process)) for process in (one, other)]
            assert answers[0] == answers[1]
            ends.add(answers[0].get("is") or answers[0]["error"])
            seen.append(answers[0].get("token"))

    assert ends == {"ada"}
    assert len(set(seen)) == RACES
    assert _refreshes(world.standin) - before == RACES
