"""The user store on both databases.

Covered: people, grants at rest and their keys, the refresh lock, logins, tokens, codes. Left out: many at once
(`test_concurrency`).
"""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, select, update

from spawner.errors import Misconfigured
from spawner.names import SessionName, UserId
from spawner.sessions.model import Phase
from spawner.store import tables
from spawner.store.engine import reading, writing
from spawner.store.sessions import SessionRows
from spawner.store.users import UserRows
from spawner.users.model import Grant, Login, OwnToken, User
from tests.contract.store.conftest import KEY
from tests.contract.store.values import AT, FixedClock, at, named

ADA = User(
    id=UserId("a"), forge="default", subject="7", username="ada", name="Ada Ü", email="ada@example.org", is_admin=True
)
EVE = User(id=UserId("e"), forge="default", subject="8", username="eve", name="Eve", email="")
GRANT = Grant(
    user_id=ADA.id,
    forge="default",
    access_token="canary-access",
    refresh_token="canary-refresh",
    expires_at=at(7200),
    scopes=frozenset({"api", "read_user"}),
)
NEW_KEY = b"zyxwvutsrqponmlkjihgfedcba9876543210-second"


def test_people(users: UserRows) -> None:
    """A person comes back as they went in, and a second time replaces the first."""
    assert users.put(ADA) == ADA
    users.put(EVE)
    renamed = replace(ADA, username="ada2", is_admin=False, email="b@example.org")
    users.put(renamed)
    assert (renamed, EVE, None) == (users.get(ADA.id), users.get(EVE.id), users.get(UserId("x")))
    assert (renamed, None, None) == (
        users.by_username("default", "ada2"),
        users.by_username("default", "ada"),
        users.by_username("other", "ada2"),
    )


def test_name_that_changed_hands(users: UserRows, clock: FixedClock) -> None:
    """A name that two people had is the one's who was seen last."""
    users.put(ADA)
    clock.pass_seconds(1)
    users.put(replace(EVE, username="ada"))
    found = users.by_username("default", "ada")
    assert found is not None
    assert found.id == EVE.id


def test_grants(users: UserRows) -> None:
    """A person's own grant and those kept with sessions are apart; each replacement raises the version."""
    kept = replace(GRANT, session="s1", refresh_token=None, expires_at=None, access_token="other")
    users.put_grant(GRANT)
    users.put_grant(kept)
    users.put_grant(replace(GRANT, scopes=frozenset()))
    assert replace(GRANT, scopes=frozenset(), version=2) == users.grant(ADA.id)
    assert replace(kept, version=1) == users.grant(ADA.id, session=SessionName("s1"))
    users.remove_grant(ADA.id)
    users.remove_grant(ADA.id)
    assert users.grant(ADA.id) is None
    assert users.grant(ADA.id, session=SessionName("s1")) is not None
    users.remove_grant(ADA.id, session=SessionName("s1"))
    assert users.grant(ADA.id, session=SessionName("s1")) is None


@pytest.mark.parametrize(("phase", "is_kept"), [(Phase.NEW, True), (Phase.FAILED, False), (Phase.GONE, False)])
def test_a_living_session_keeps_its_grant(
    users: UserRows, sessions: SessionRows, phase: Phase, *, is_kept: bool
) -> None:
    """Who ends a session late does not take the grant of one that was launched again meanwhile."""
    sessions.add(named("s1", phase=phase), [])
    users.put_grant(replace(GRANT, session="s1"))
    users.remove_grant(ADA.id, session=SessionName("s1"))
    assert (users.grant(ADA.id, session=SessionName("s1")) is not None) is is_kept


def test_nothing_readable_at_rest(users: UserRows, engine: Engine) -> None:
    """No token stands in the database in clear."""
    users.put_grant(GRANT)
    with reading(engine) as connection:
        row = connection.execute(select(tables.grants)).mappings().one()
    assert "canary" not in repr(dict(row))
    assert "canary" not in repr(users.grant(ADA.id))


def test_rotation(users: UserRows, engine: Engine, clock: FixedClock) -> None:
    """With a new key in front old grants are read; resealed, they need the old key no more."""
    users.put_grant(GRANT)
    both = UserRows(engine, clock, [NEW_KEY, KEY])
    only_new = UserRows(engine, clock, [NEW_KEY])
    assert replace(GRANT, version=1) == both.grant(ADA.id)
    assert only_new.grant(ADA.id) is None
    assert only_new.with_grant_lock(ADA.id, lambda grant: grant) is None
    assert (both.reseal(), users.reseal()) == (1, 0)
    assert replace(GRANT, version=1) == only_new.grant(ADA.id)


def test_a_refresh_during_resealing_stands(users: UserRows, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process refreshed while grants are written anew is not overwritten by what was read before."""
    if engine.dialect.name == "sqlite":
        return  # one writer at a time: there is no meanwhile
    users.put_grant(GRANT)
    newer = replace(GRANT, access_token="refreshed", refresh_token="newer")
    renew = users._seal.renew

    def dawdling(sealed: str) -> str | None:
        users.put_grant(newer)
        return renew(sealed)

    monkeypatch.setattr(users._seal, "renew", dawdling)
    assert users.reseal() == 0
    found = users.grant(ADA.id)
    assert found is not None
    assert found.access_token == "refreshed"


def test_grant_of_another_row(users: UserRows, engine: Engine) -> None:
    """A grant moved to another person's row does not open there."""
    users.put_grant(GRANT)
    with writing(engine) as connection:
        connection.execute(update(tables.grants).values(user_id=EVE.id))
    assert users.grant(EVE.id) is None


@pytest.mark.parametrize("keys", [[], [b"short"], [KEY, b""]])
def test_bad_keys(engine: Engine, clock: FixedClock, keys: list[bytes]) -> None:
    """No key, or one that is too short, is refused."""
    with pytest.raises(Misconfigured):
        UserRows(engine, clock, keys)


def test_refresh(users: UserRows) -> None:
    """What a refresh returns is kept; the same is no change; None deletes."""
    assert users.with_grant_lock(ADA.id, lambda grant: grant) is None
    users.put_grant(GRANT)
    first = replace(GRANT, version=1)
    assert first == users.with_grant_lock(ADA.id, lambda grant: grant)
    newer = users.with_grant_lock(ADA.id, lambda grant: replace(grant, access_token="new", refresh_token="newer"))
    expected = replace(GRANT, access_token="new", refresh_token="newer", version=2)
    assert (expected, expected) == (newer, users.grant(ADA.id))
    assert users.with_grant_lock(ADA.id, lambda _: None) is None
    assert users.grant(ADA.id) is None


def test_a_sign_in_during_a_refresh_stands(users: UserRows) -> None:
    """Whoever signs in while their old grant is refreshed, or refused, keeps the new one."""
    signed_in = replace(GRANT, access_token="signed in", refresh_token="again")

    def refused(_: Grant) -> None:
        users.put_grant(signed_in)

    def answered(grant: Grant) -> Grant:
        users.put_grant(signed_in)
        return replace(grant, access_token="late", refresh_token="later")

    users.put_grant(GRANT)
    for refresh in (refused, answered):
        found = users.with_grant_lock(ADA.id, refresh)
        assert found is not None
        assert (found.access_token, found) == ("signed in", users.grant(ADA.id))


def test_a_refresh_that_outlives_its_lock(users: UserRows, engine: Engine) -> None:
    """Where another process took the lock and was refused the token that had been spent, the late answer is kept."""

    def dawdling(grant: Grant) -> Grant:
        with writing(engine) as connection:
            connection.execute(update(tables.grants).values(holder="other"))
        users.remove_grant(ADA.id)
        return replace(grant, access_token="late", refresh_token="later")

    users.put_grant(GRANT)
    found = users.with_grant_lock(ADA.id, dawdling)
    assert found is not None
    assert (found.access_token, found) == ("late", users.grant(ADA.id))


def test_refresh_that_fails(users: UserRows) -> None:
    """A refresh that raises leaves the grant and frees the lock."""
    users.put_grant(GRANT)

    def fail(grant: Grant) -> Grant:
        raise LookupError(grant.forge)

    with pytest.raises(LookupError):
        users.with_grant_lock(ADA.id, fail)
    assert users.with_grant_lock(ADA.id, lambda grant: grant) is not None


def test_logins(users: UserRows) -> None:
    """A login counts until it expires or is ended; expired ones go when another is put."""
    login = Login(id="l1", user_id=ADA.id, created_at=AT, expires_at=at(60))
    users.put_login(login)
    assert (login, None, None) == (users.login("l1", AT), users.login("l1", at(60)), users.login("l2", AT))
    users.remove_login("l1")
    users.remove_login("l1")
    assert users.login("l1", AT) is None


def test_expired_logins_go(users: UserRows, clock: FixedClock, engine: Engine) -> None:
    """What has expired does not stay in the database."""
    for number in range(3):
        users.put_login(Login(id=f"l{number}", user_id=ADA.id, created_at=AT, expires_at=at(60)))
        users.put_code(f"c{number}", SessionName("s"), ADA.id, at(60))
    clock.pass_seconds(61)
    users.put_login(Login(id="new", user_id=ADA.id, created_at=AT, expires_at=at(600)))
    users.put_code("new", SessionName("s"), ADA.id, at(600))
    with reading(engine) as connection:
        left = [
            list(connection.execute(select(tables.logins.c.id)).scalars()),
            list(connection.execute(select(tables.codes.c.code_hash)).scalars()),
        ]
    assert left == [["new"], ["new"]]


def test_tokens(users: UserRows) -> None:
    """Tokens are listed newest first and revoked by their owner alone; a late use does not revive one."""
    first = OwnToken(id="t1", user_id=ADA.id, name="laptop", created_at=AT, expires_at=at(60))
    second = replace(first, id="t2", created_at=at(1), last_used_at=at(2), revoked_at=at(3))
    for token in (first, second, replace(first, id="t3", user_id=EVE.id)):
        users.put_token(token)
    assert [second, first] == users.tokens(ADA.id)
    assert (
        users.revoke_token(EVE.id, "t1", at(5)),
        users.revoke_token(ADA.id, "none", at(5)),
        users.revoke_token(ADA.id, "t1", at(5)),
        users.revoke_token(ADA.id, "t1", at(6)),
    ) == (False, False, True, True)
    users.put_token(replace(first, last_used_at=at(7)))
    assert replace(first, revoked_at=at(5), last_used_at=at(7)) == users.token("t1")
    assert users.token("none") is None


def test_codes(users: UserRows) -> None:
    """A code works once, for its session, before it expires."""
    session = SessionName("s1")
    users.put_code("one", session, ADA.id, at(60))
    users.put_code("late", session, ADA.id, at(60))
    assert [None, None, ADA.id, None, None] == [
        users.redeem_code("none", session, AT),
        users.redeem_code("one", SessionName("s2"), AT),
        users.redeem_code("one", session, AT),
        users.redeem_code("one", session, AT),
        users.redeem_code("late", session, at(60)),
    ]
