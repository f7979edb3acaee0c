"""People, their grants, logins, own tokens and one-time codes (`UserStore`).

Promises: tokens of GitLab are encrypted with the first key and readable with any; a refresh runs in one process
at a time without holding a transaction while GitLab is asked (SQLite has one writer for everybody); a one-time
code is used up by the statement that checks it; what has expired is deleted in passing.
Must not know: OAuth, cookies, JWTs.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, or_, select, update

from spawner.errors import StoreUnavailable
from spawner.log import get_logger
from spawner.names import SessionName, UserId
from spawner.ports import Clock
from spawner.sessions.model import ENDED
from spawner.store import tables
from spawner.store.engine import reading, writing
from spawner.store.sealing import Seal
from spawner.store.types import DatabaseTime
from spawner.store.upsert import upsert
from spawner.users.model import Grant, Login, OwnToken, User

_users = tables.users
_grants = tables.grants
_logins = tables.logins
_tokens = tables.tokens
_codes = tables.codes
_sessions = tables.sessions
_ENDED = sorted(phase.value for phase in ENDED)

REFRESH_SECONDS = 60.0  # a lease longer than any call to GitLab; a holder that died is waited for this long
REFRESH_POLL_SECONDS = 0.05

_log = get_logger(__name__)


class UserRows:
    """`UserStore` over an engine; `keys` are the key file's lines, the first writes, all read."""

    def __init__(self, engine: Engine, clock: Clock, keys: Sequence[bytes]) -> None:
        self._engine = engine
        self._clock = clock
        self._seal = Seal(keys)

    # ------------------------------------------------------------ people

    def put(self, user: User) -> User:
        """Insert or update a person."""
        columns = {
            "id": user.id,
            "forge": user.forge,
            "subject": user.subject,
            "username": user.username,
            "name": user.name,
            "email": user.email,
            "is_admin": user.is_admin,
            "seen_at": self._clock.now(),
        }
        with writing(self._engine) as connection:
            upsert(connection, _users, columns, update=[name for name in columns if name != "id"])
        return user

    def get(self, id: UserId) -> User | None:  # noqa: A002 - the row's own name for it
        """Return a person, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(select(_users).where(_users.c.id == id)).mappings().first()
        return None if row is None else _user(dict(row))

    def by_username(self, forge: str, username: str) -> User | None:
        """Return the person of that name at a forge, the last one seen of a name that changed hands, or None."""
        statement = (
            select(_users)
            .where(_users.c.forge == forge, _users.c.username == username)
            .order_by(_users.c.seen_at.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else _user(dict(row))

    # ------------------------------------------------------------ grants

    def put_grant(self, grant: Grant) -> None:
        """Insert or replace the grant of (user, session)."""
        session = grant.session or ""
        with writing(self._engine) as connection:
            columns = {**self._grant_columns(grant), "user_id": grant.user_id, "session": session, "version": 0}
            changed = ("forge", "sealed", "expires_at", "scopes")
            upsert(connection, _grants, columns, update=changed)
            connection.execute(
                update(_grants).where(*_grant_key(grant.user_id, session)).values(version=_grants.c.version + 1)
            )

    def grant(self, user_id: UserId, *, session: SessionName | None = None) -> Grant | None:
        """Return the person's grant, or the one kept with a session; None also when no key opens it."""
        with reading(self._engine) as connection:
            row = _grant_row(connection, user_id, session or "")
        return None if row is None else self._grant(row)

    def remove_grant(self, user_id: UserId, *, session: SessionName | None = None) -> None:
        """Delete a grant; a no-op when gone. That of a session is kept while the session lives."""
        lives = select(_sessions.c.name).where(_sessions.c.name == session, _sessions.c.phase.not_in(_ENDED)).exists()
        with writing(self._engine) as connection:
            connection.execute(delete(_grants).where(*_grant_key(user_id, session or ""), ~lives))

    def with_grant_lock(self, user_id: UserId, refresh: Callable[[Grant], Grant | None]) -> Grant | None:
        """Run `refresh` on the newest grant while no other process can, and persist what it returns.

        `refresh` returning None deletes the grant (GitLab refused it: sign in again); returning what it was
        given writes nothing. It must end within 60 s. A sign-in that came meanwhile stands, whatever `refresh`
        says, and is returned. Returns None when there is no grant; raises StoreUnavailable when another process
        holds the lock for longer than that, and what `refresh` raises.
        """
        holder = secrets.token_hex(8)
        newest = self._lock_grant(user_id, holder)
        if newest is None:
            return None
        try:
            refreshed = refresh(newest)
            return newest if refreshed == newest else self._replaced(newest, refreshed)
        finally:
            held = (*_grant_key(user_id, ""), _grants.c.holder == holder)
            self._change_grant(update(_grants).where(*held).values(holder=None, claimed_until=None))

    def _replaced(self, newest: Grant, refreshed: Grant | None) -> Grant | None:
        """Persist what became of a person's grant, and return what now is theirs.

        It is found by its version, not by its lock: a person who signed in meanwhile has another, which a refusal of
        the old one must not end; and a lock that ran out while GitLab dawdled does not make its answer worthless.
        """
        same = (*_grant_key(newest.user_id, ""), _grants.c.version == newest.version)
        if refreshed is None:
            self._change_grant(delete(_grants).where(*same))
            return self.grant(newest.user_id)
        columns = {**self._grant_columns(refreshed), "version": newest.version + 1}
        if self._change_grant(update(_grants).where(*same).values(**columns)):
            return replace(refreshed, version=newest.version + 1)
        if self.grant(newest.user_id) is None:  # who took the lock after us was refused the token that we had spent
            self.put_grant(refreshed)
        return self.grant(newest.user_id)

    def _lock_grant(self, user_id: UserId, holder: str) -> Grant | None:
        """Wait for the lock and return the grant as it then is; None when there is none that opens."""
        give_up_at = time.monotonic() + REFRESH_SECONDS + 1
        is_free = or_(_grants.c.claimed_until.is_(None), _grants.c.claimed_until <= DatabaseTime())
        statement = (
            update(_grants)
            .where(*_grant_key(user_id, ""), is_free)
            .values(holder=holder, claimed_until=DatabaseTime(REFRESH_SECONDS))
            .returning(_grants)
        )
        while time.monotonic() < give_up_at:
            with writing(self._engine) as connection:
                row = connection.execute(statement).mappings().first()
            if row is not None:
                return self._grant(dict(row))
            if self.grant(user_id) is None:
                return None
            time.sleep(REFRESH_POLL_SECONDS)
        raise StoreUnavailable(
            "Your GitLab sign-in is being renewed elsewhere and that takes too long.",
            remedy="Try again in a minute.",
            retry_after_seconds=30.0,
        )

    def _change_grant(self, statement: Any) -> int:
        with writing(self._engine) as connection:
            return connection.execute(statement).rowcount

    def reseal(self) -> int:
        """Write every grant anew with the first key, so that older keys can be removed; return how many."""
        changed = 0
        with writing(self._engine) as connection:
            for row in connection.execute(select(_grants)).mappings().all():
                sealed = self._seal.renew(row["sealed"])
                if sealed is not None:
                    # One that was refreshed meanwhile is sealed with the first key already, and must not come back.
                    where = (*_grant_key(row["user_id"], row["session"]), _grants.c.sealed == row["sealed"])
                    changed += connection.execute(update(_grants).where(*where).values(sealed=sealed)).rowcount
        return changed

    def _grant_columns(self, grant: Grant) -> dict[str, Any]:
        row = (grant.user_id, grant.session or "")
        return {
            "forge": grant.forge,
            "sealed": self._seal.close(row, grant.access_token, grant.refresh_token),
            "expires_at": grant.expires_at,
            "scopes": sorted(grant.scopes),
        }

    def _grant(self, row: Mapping[str, Any]) -> Grant | None:
        tokens = self._seal.open((row["user_id"], row["session"]), row["sealed"])
        if tokens is None:
            _log.warning("grant_unreadable", user_id=row["user_id"], session=row["session"])
            return None
        return Grant(
            user_id=UserId(row["user_id"]),
            forge=row["forge"],
            access_token=tokens[0],
            refresh_token=tokens[1],
            expires_at=row["expires_at"],
            scopes=frozenset(row["scopes"]),
            session=row["session"] or None,
            version=row["version"],
        )

    # ------------------------------------------------------------ logins

    def put_login(self, login: Login) -> None:
        """Insert a login; the expired ones of everybody go."""
        columns = {
            "id": login.id,
            "user_id": login.user_id,
            "created_at": login.created_at,
            "expires_at": login.expires_at,
        }
        with writing(self._engine) as connection:
            connection.execute(delete(_logins).where(_logins.c.expires_at <= self._clock.now()))
            upsert(connection, _logins, columns, update=["user_id", "created_at", "expires_at"])

    def login(self, id: str, now: datetime) -> Login | None:  # noqa: A002 - as in `get`
        """Return a login that has not expired, or None."""
        statement = select(_logins).where(_logins.c.id == id, _logins.c.expires_at > now)
        with reading(self._engine) as connection:
            row = connection.execute(statement).mappings().first()
        if row is None:
            return None
        return Login(
            id=row["id"],
            user_id=UserId(row["user_id"]),
            created_at=row["created_at"],
            expires_at=row["expires_at"],
        )

    def remove_login(self, id: str) -> None:  # noqa: A002 - as in `get`
        """End a login; a no-op when gone."""
        with writing(self._engine) as connection:
            connection.execute(delete(_logins).where(_logins.c.id == id))

    # ------------------------------------------------------------ our own tokens

    def put_token(self, token: OwnToken) -> None:
        """Insert one of our tokens' records; for one that is there, only `last_used_at` is written."""
        columns = {
            "id": token.id,
            "user_id": token.user_id,
            "name": token.name,
            "created_at": token.created_at,
            "expires_at": token.expires_at,
            "revoked_at": token.revoked_at,
            "last_used_at": token.last_used_at,
        }
        with writing(self._engine) as connection:
            upsert(connection, _tokens, columns, update=["last_used_at"])

    def token(self, id: str) -> OwnToken | None:  # noqa: A002 - as in `get`
        """Return a token's record, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(select(_tokens).where(_tokens.c.id == id)).mappings().first()
        return None if row is None else _token(dict(row))

    def tokens(self, user_id: UserId) -> Sequence[OwnToken]:
        """Return a person's tokens, newest first."""
        statement = (
            select(_tokens).where(_tokens.c.user_id == user_id).order_by(_tokens.c.created_at.desc(), _tokens.c.id)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(statement).mappings().all()
        return [_token(dict(row)) for row in rows]

    def revoke_token(self, user_id: UserId, id: str, now: datetime) -> bool:  # noqa: A002 - as in `get`
        """Revoke a token of this person's (again: the first time stays); False when they have none of that id."""
        with writing(self._engine) as connection:
            mine = (_tokens.c.id == id, _tokens.c.user_id == user_id)
            connection.execute(update(_tokens).where(*mine, _tokens.c.revoked_at.is_(None)).values(revoked_at=now))
            return connection.execute(select(_tokens.c.id).where(*mine)).first() is not None

    # ------------------------------------------------------------ one-time codes

    def put_code(self, code_hash: str, session: SessionName, user_id: UserId, expires_at: datetime) -> None:
        """Keep the hash of a one-time code; the expired ones of everybody go."""
        columns = {"code_hash": code_hash, "session": session, "user_id": user_id, "expires_at": expires_at}
        with writing(self._engine) as connection:
            connection.execute(delete(_codes).where(_codes.c.expires_at <= self._clock.now()))
            upsert(connection, _codes, columns, update=[])

    def redeem_code(self, code_hash: str, session: SessionName, now: datetime) -> UserId | None:
        """Use up a one-time code of that session; None when unknown, used or expired."""
        statement = (
            delete(_codes)
            .where(_codes.c.code_hash == code_hash, _codes.c.session == session, _codes.c.expires_at > now)
            .returning(_codes.c.user_id)
        )
        with writing(self._engine) as connection:
            user_id = connection.execute(statement).scalar()
        return None if user_id is None else UserId(user_id)


def _grant_key(user_id: str, session: str) -> tuple[ColumnElement[bool], ...]:
    return (_grants.c.user_id == user_id, _grants.c.session == session)


def _grant_row(connection: Connection, user_id: str, session: str) -> dict[str, Any] | None:
    row = connection.execute(select(_grants).where(*_grant_key(user_id, session))).mappings().first()
    return None if row is None else dict(row)


def _user(row: Mapping[str, Any]) -> User:
    return User(
        id=UserId(row["id"]),
        forge=row["forge"],
        subject=row["subject"],
        username=row["username"],
        name=row["name"],
        email=row["email"],
        is_admin=row["is_admin"],
    )


def _token(row: Mapping[str, Any]) -> OwnToken:
    return OwnToken(
        id=row["id"],
        user_id=UserId(row["user_id"]),
        name=row["name"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
