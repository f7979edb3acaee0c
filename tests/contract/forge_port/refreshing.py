"""A process that needs one person's token again and again, each time when it is due.

For: `test_refreshing`. `python -m tests.contract.forge_port.refreshing`: reads what it must know as one line of JSON,
says `ready`, and for each further line (seconds to be ahead of the time) prints what it got, as one line of JSON.
"""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from spawner.errors import SpawnerError
from spawner.gitlab.client import GitLabForge
from spawner.gitlab.oauth import GitLabOAuth
from spawner.names import UserId
from spawner.store.engine import open_engine
from spawner.store.users import UserRows
from spawner.users.service import UserRules, UserService


@dataclass
class MovableClock:
    """The machine's clock, ahead by some seconds."""

    ahead_seconds: float = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a process must know."""

    gitlab_url: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    scopes: tuple[str, ...]
    database_url: str
    keys: tuple[str, ...] = field(repr=False)
    key_cache: str

    def line(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self)) + "\n"


def users_of(told: Told, clock: MovableClock, engine: Engine) -> tuple[UserService, GitLabForge]:
    """Return the services of one process."""
    keys = [key.encode() for key in told.keys]
    forge = GitLabForge(told.gitlab_url, key_cache=Path(told.key_cache), application_ids=frozenset({told.client_id}))
    oauth = GitLabOAuth(
        told.gitlab_url,
        client_id=told.client_id,
        client_secret=told.client_secret,
        redirect_uri=told.redirect_uri,
        scopes=tuple(told.scopes),
    )
    rules = UserRules(forge="default", forge_url=told.gitlab_url)
    store = UserRows(engine, clock, keys)
    return UserService(store=store, forge=forge, oauth=oauth, clock=clock, keys=keys, rules=rules), forge


def main() -> None:
    """Answer each line."""
    told = Told(**json.loads(sys.stdin.readline()))
    clock = MovableClock()
    users, forge = users_of(told, clock, open_engine(told.database_url))
    person = UserId(sys.stdin.readline().strip())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        clock.ahead_seconds = float(line)
        try:
            credential = users.credential(person)
            said = {
                "token": hashlib.sha256(credential.token.encode()).hexdigest(),
                "is": forge.user(credential).username,
            }
        except SpawnerError as error:
            said = {"error": f"{type(error).__name__}: {error.message}"}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
