"""The user service whole: real store, real sign-in, real tokens, two processes' worth of services at once.

Left out: PostgreSQL (contract/store), pages (browser).
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spawner.errors import SignInRequired, TokenRejected
from spawner.gitlab.client import GitLabForge
from spawner.gitlab.oauth import GitLabOAuth
from spawner.names import SessionName
from spawner.ports import CredentialKind
from spawner.store.engine import open_engine
from spawner.store.migrations import migrate
from spawner.store.users import UserRows
from spawner.testing.gitlab import StandIn, UserHandle
from spawner.users.model import Caller
from spawner.users.service import UserRules, UserService
from tests.contract.forge_port.test_oauth import REDIRECT, SCOPES, signed_in

KEYS = (b"a line of the key file, 32 or more characters long",)
SESSION = SessionName("ada-flights-12345678")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedClock:
    """The machine's clock, ahead by some seconds."""

    ahead_seconds: float = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """A stand-in, and services that share one database, as processes do."""

    standin: StandIn
    ada: UserHandle
    bob: UserHandle
    database: str
    client_id: str
    secret: str
    folder: Path

    def service(self, *, ahead_seconds: float = 0.0) -> UserService:
        engine = open_engine(self.database)
        clock = ShiftedClock(ahead_seconds=ahead_seconds)
        return UserService(
            store=UserRows(engine, clock, KEYS),
            forge=GitLabForge(
                self.standin.url, key_cache=self.folder / "keys", application_ids=frozenset({self.client_id})
            ),
            oauth=GitLabOAuth(
                self.standin.url,
                client_id=self.client_id,
                client_secret=self.secret,
                redirect_uri=REDIRECT,
                scopes=SCOPES,
            ),
            clock=clock,
            keys=KEYS,
            rules=UserRules(forge="default", forge_url=self.standin.url),
        )

    def signed_in(self, service: UserService) -> Caller:
        url, sign_in = service.begin_sign_in(redirect_uri=REDIRECT, return_to="/sessions")
        back = signed_in(url)
        user, login = service.finish_sign_in(code=back["code"][0], state=back["state"][0], sign_in=sign_in)
        return Caller(user=user, login_id=login.id)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("people")
    database = f"sqlite:///{folder}/spawner.sqlite3"
    engine = open_engine(database)
    migrate(engine)
    engine.dispose()
    with StandIn.start(data=folder / "gitlab", runner=False) as standin:
        ada = standin.add_user("ada", password="ada-password-1")
        bob = standin.add_user("bob")
        client_id, secret = standin.add_application(REDIRECT, scopes=SCOPES, trusted=True)
        yield People(
            standin=standin, ada=ada, bob=bob, database=database, client_id=client_id, secret=secret, folder=folder
        )


def refreshes(people: People) -> int:
    return sum(
        count for route, count in people.standin.requests().items() if "/oauth/token" in route and "POST" in route
    )


def test_a_sign_in_holds_in_every_process(people: People) -> None:
    """A person signed in at one process is known to another, acts with their grant, and is gone everywhere at once."""
    first, second = people.service(), people.service()
    caller = people.signed_in(first)
    assert caller.login_id is not None
    assert second.login(caller.login_id) == caller
    assert second.scopes_of(caller) == frozenset(SCOPES)
    credential = second.credential_of(caller)
    assert credential.kind is CredentialKind.OAUTH
    second.log_out(caller.login_id)
    assert first.login(caller.login_id) is None


def test_a_due_grant_is_refreshed_once_by_many_processes(people: People) -> None:
    """GitLab's refresh tokens are good once: eight services that need one at the same time make one refresh."""
    caller = people.signed_in(people.service())
    old = people.service().credential(caller.user.id).token
    late = [people.service(ahead_seconds=7000.0) for _ in range(8)]  # tokens live 7200 s, and are due 600 s early
    before = refreshes(people)
    found: list[str] = []
    ready = threading.Barrier(8)

    def ask(service: UserService) -> None:
        ready.wait(30)
        found.append(service.credential(caller.user.id).token)

    threads = [threading.Thread(target=ask, args=(service,)) for service in late]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(found), len(set(found)), old in found, refreshes(people) - before) == (8, 1, False, 1)


def test_bearers_of_both_kinds_act_and_strangers_do_not(people: People) -> None:
    """A personal token and one of our application sign in; a revoked one does not."""
    service = people.service()
    personal = service.bearer(people.bob.token, address="a")
    assert (personal.user.username, personal.bearer and personal.bearer.kind) == ("bob", CredentialKind.PERSONAL)
    caller = people.signed_in(service)
    token = service.credential(caller.user.id).token
    assert service.bearer(token, address="a").user == caller.user
    with pytest.raises(TokenRejected):
        service.bearer("glpat-" + "x" * 20, address="a")


def test_a_bearers_token_is_kept_sealed_and_goes_with_the_session(people: People) -> None:
    """What is kept for a session is not readable in the database's file, and is deleted with the session."""
    service = people.service()
    caller = service.bearer(people.bob.token, address="a")
    service.keep_bearer(caller, SESSION)
    assert people.service().credential(caller.user.id, session=SESSION).token == people.bob.token
    stored = b"".join(file.read_bytes() for file in people.folder.glob("spawner.sqlite3*"))
    assert people.bob.token.encode() not in stored
    service.drop_bearer(caller.user.id, SESSION)
    with pytest.raises(SignInRequired):
        people.service().credential(caller.user.id, session=SESSION)


def test_an_own_token_works_in_every_process_until_it_is_revoked(people: People) -> None:
    """Our token is made, used elsewhere and revoked, without a question to GitLab."""
    service = people.service()
    caller = people.signed_in(service)
    token, text = service.issue_token(caller, name="laptop", lifetime_days=1)
    before = people.standin.requests()
    other = people.service()
    assert other.bearer(text, address="a").user == caller.user
    service.revoke_token(caller, token.id)
    with pytest.raises(TokenRejected):
        other.bearer(text, address="a")
    after = people.standin.requests()
    assert {route for route in after if after[route] != before.get(route, 0)} <= {"GET /-/stand-in/requests"}
