"""A user store, a forge, an OAuth server and a clock in memory: real behaviour, no network."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from spawner.errors import Forbidden, ForgeUnavailable, TokenRejected
from spawner.names import SessionName, UserId
from spawner.ports import Credential, Forge, ForgeUser
from spawner.users.model import Grant, Login, OwnToken, User
from spawner.users.oauth import OAuthTokens, TokenInfo
from spawner.users.service import UserRules, UserService


@dataclass
class SetClock:
    at: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def pass_seconds(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class MemoryUserStore:
    """A `UserStore` of dictionaries."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.grants: dict[tuple[str, str | None], Grant] = {}
        self.logins: dict[str, Login] = {}
        self.own: dict[str, OwnToken] = {}
        self.codes: dict[str, tuple[str, UserId, datetime]] = {}
        self.lock = threading.Lock()

    def put(self, user: User) -> User:
        self.users[user.id] = user
        return user

    def get(self, id: UserId) -> User | None:  # noqa: A002 - the port's name
        return self.users.get(id)

    def by_username(self, forge: str, username: str) -> User | None:
        return next((user for user in self.users.values() if (user.forge, user.username) == (forge, username)), None)

    def put_grant(self, grant: Grant) -> None:
        self.grants[grant.user_id, grant.session] = grant

    def grant(self, user_id: UserId, *, session: SessionName | None = None) -> Grant | None:
        return self.grants.get((user_id, session))

    def remove_grant(self, user_id: UserId, *, session: SessionName | None = None) -> None:
        self.grants.pop((user_id, session), None)

    def with_grant_lock(self, user_id: UserId, refresh: Callable[[Grant], Grant | None]) -> Grant | None:
        with self.lock:
            newest = self.grants.get((user_id, None))
            if newest is None:
                return None
            after = refresh(newest)
            if after is None:
                del self.grants[user_id, None]
            else:
                self.grants[user_id, None] = after
            return after

    def put_login(self, login: Login) -> None:
        self.logins[login.id] = login

    def login(self, id: str, now: datetime) -> Login | None:  # noqa: A002 - the port's name
        found = self.logins.get(id)
        return found if found and found.expires_at > now else None

    def remove_login(self, id: str) -> None:  # noqa: A002 - the port's name
        self.logins.pop(id, None)

    def put_token(self, token: OwnToken) -> None:
        self.own[token.id] = token

    def token(self, id: str) -> OwnToken | None:  # noqa: A002 - the port's name
        return self.own.get(id)

    def tokens(self, user_id: UserId) -> Sequence[OwnToken]:
        return [token for token in reversed(self.own.values()) if token.user_id == user_id]

    def revoke_token(self, user_id: UserId, id: str, now: datetime) -> bool:  # noqa: A002 - the port's name
        found = self.own.get(id)
        if found is None or found.user_id != user_id:
            return False
        self.own[id] = replace(found, revoked_at=found.revoked_at or now)
        return True

    def put_code(self, code_hash: str, session: SessionName, user_id: UserId, expires_at: datetime) -> None:
        self.codes[code_hash] = (session, user_id, expires_at)

    def redeem_code(self, code_hash: str, session: SessionName, now: datetime) -> UserId | None:
        found = self.codes.get(code_hash)
        if found is None or found[0] != session or found[2] <= now:
            return None
        del self.codes[code_hash]
        return found[1]


@dataclass
class MemoryForge:
    """The two questions that the user service asks a forge."""

    people: dict[str, ForgeUser] = field(default_factory=dict)
    scopes_by_token: dict[str, frozenset[str]] = field(default_factory=dict)
    asked: list[Credential] = field(default_factory=list)
    refusals: dict[str, Forbidden] = field(default_factory=dict)
    is_down: bool = False

    def user(self, credential: Credential) -> ForgeUser:
        self.asked.append(credential)
        if self.is_down:
            raise ForgeUnavailable("GitLab is away.")
        if credential.token in self.refusals:
            raise self.refusals[credential.token]
        if credential.token not in self.people:
            raise TokenRejected("unknown")
        return self.people[credential.token]

    def scopes(self, credential: Credential) -> frozenset[str]:
        return self.scopes_by_token.get(credential.token, frozenset())


@dataclass
class MemoryOAuth:
    """An OAuth server with single-use codes and refresh tokens."""

    codes: dict[str, OAuthTokens] = field(default_factory=dict)
    refreshes: dict[str, OAuthTokens] = field(default_factory=dict)
    infos: dict[str, TokenInfo] = field(default_factory=dict)
    is_down: bool = False
    refreshed: int = 0

    @property
    def client_id(self) -> str:
        return "ours"

    def authorization_url(
        self, *, redirect_uri: str, state: str, verifier: str, more: frozenset[str] = frozenset()
    ) -> str:
        del verifier
        scopes = "+".join(["read_api", *more])
        return f"https://gitlab.example/oauth/authorize?redirect_uri={redirect_uri}&state={state}&scope={scopes}"

    def exchange(self, *, code: str, redirect_uri: str, verifier: str) -> OAuthTokens:
        del redirect_uri, verifier
        if code not in self.codes:
            raise TokenRejected("unknown code")
        return self.codes.pop(code)

    def refresh(self, *, refresh_token: str) -> OAuthTokens:
        if self.is_down:
            raise ForgeUnavailable("GitLab is away.")
        if refresh_token not in self.refreshes:
            raise TokenRejected("invalid_grant")
        self.refreshed += 1
        return self.refreshes.pop(refresh_token)

    def inspect(self, token: str) -> TokenInfo | None:
        return self.infos.get(token)


@dataclass
class World:
    """Everything a test turns."""

    clock: SetClock
    store: MemoryUserStore
    forge: MemoryForge
    oauth: MemoryOAuth
    keys: list[bytes] = field(default_factory=lambda: [b"first key"])

    def service(
        self, *, keys: Sequence[bytes] | None = None, with_oauth: bool = True, token_days: int = 365
    ) -> UserService:
        return UserService(
            store=self.store,
            forge=cast("Forge", self.forge),
            oauth=self.oauth if with_oauth else None,
            clock=self.clock,
            keys=self.keys if keys is None else keys,
            rules=UserRules(
                forge="default",
                forge_url="https://gitlab.example",
                other_application_ids=frozenset({"listed"}),
                unknown_bearers_per_address=3,
                unknown_bearers_in_all=6,
                token_days=token_days,
            ),
        )


ADA = ForgeUser(id=7, username="ada", name="Ada L", email="ada@example.org")


@pytest.fixture
def world() -> World:
    found = World(clock=SetClock(), store=MemoryUserStore(), forge=MemoryForge(), oauth=MemoryOAuth())
    found.forge.people["glpat-ada"] = ADA
    found.forge.scopes_by_token["glpat-ada"] = frozenset({"api"})
    found.forge.people["access-1"] = ADA
    found.oauth.codes["code-1"] = OAuthTokens(
        access_token="access-1", refresh_token="refresh-1", expires_in_seconds=7200, scopes=frozenset({"read_api"})
    )
    found.oauth.refreshes["refresh-1"] = OAuthTokens(
        access_token="access-2", refresh_token="refresh-2", expires_in_seconds=7200, scopes=frozenset()
    )
    return found
