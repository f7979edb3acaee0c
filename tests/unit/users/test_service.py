"""The user service: sign-in, logins, bearers and their limits, grants and their refresh, own tokens, one-time codes.

Left out: the real store (contract/store) and the real OAuth server (contract/forge_port).
"""

import threading
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from spawner.errors import (
    Forbidden,
    ForgeUnavailable,
    InvalidInput,
    MissingScope,
    NotFound,
    RateLimited,
    SignInRequired,
    TokenRejected,
)
from spawner.names import SessionName, WorkloadName
from spawner.ports import Credential, CredentialKind
from spawner.users.model import Caller, Grant, user_id
from spawner.users.oauth import TokenInfo
from spawner.users.service import own_path

if TYPE_CHECKING:
    from spawner.users.model import Login, User
    from spawner.users.service import UserService
    from tests.unit.users.conftest import World

SESSION = SessionName("ada-flights-12345678")
OTHER = SessionName("ada-other-12345678")


def signed_in(service: "UserService") -> "tuple[User, Login]":
    url, sign_in = service.begin_sign_in(redirect_uri="https://us.example/login/callback", return_to="/x")
    state = parse_qs(urlsplit(url).query)["state"][0]
    return service.finish_sign_in(code="code-1", state=state, sign_in=sign_in)


def test_signing_in_makes_a_person_a_grant_and_a_login(world: "World") -> None:
    """The whole round gives a person keyed by issuer and subject, a stored grant and a login that reads back."""
    service = world.service()
    user, login = signed_in(service)
    assert user.id == user_id("https://gitlab.example", "7")
    assert service.login(login.id) == Caller(user=user, login_id=login.id)
    assert login.id not in world.store.logins
    expected = Credential(forge="default", token="access-1", kind=CredentialKind.OAUTH)
    assert service.credential(user.id) == expected
    assert service.scopes(user.id) == {"read_api"}


@pytest.mark.parametrize("state", ["", "wrong", "é"])
def test_another_browsers_state_signs_nobody_in(world: "World", state: str) -> None:
    """A forged callback spends no code and stores nothing."""
    service = world.service()
    _, sign_in = service.begin_sign_in(redirect_uri="https://us.example/cb", return_to="/")
    with pytest.raises(SignInRequired):
        service.finish_sign_in(code="code-1", state=state, sign_in=sign_in)
    assert ("code-1" in world.oauth.codes, world.store.users) == (True, {})


def test_a_blocked_person_is_refused(world: "World") -> None:
    """Somebody whom GitLab has blocked gets neither login nor grant, by browser or by bearer."""
    blocked = replace(world.forge.people["access-1"], is_blocked=True)
    world.forge.people = {"access-1": blocked, "glpat-ada": blocked}
    service = world.service()
    with pytest.raises(Forbidden):
        signed_in(service)
    with pytest.raises(Forbidden):
        service.bearer("glpat-ada", address="a")
    assert (world.store.logins, world.store.grants) == ({}, {})


def test_logging_out_and_time_end_a_login(world: "World") -> None:
    """A login ends when its person says so, and by itself."""
    service = world.service()
    _, login = signed_in(service)
    world.clock.pass_seconds(14 * 86400)
    assert service.login(login.id) is None
    world.clock.pass_seconds(-1)
    assert service.login(login.id) is not None
    service.log_out(login.id)
    service.log_out(login.id)
    assert service.login(login.id) is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("/launch/a/b?ref=x", "/launch/a/b?ref=x"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\nb", "/"),
        ("", "/"),
        ("/" + "x" * 3000, "/"),
    ],
)
def test_a_sign_in_ends_on_a_page_of_ours(asked: str, expected: str) -> None:
    """Only a path of this service is kept."""
    assert own_path(asked) == expected


def test_a_personal_token_is_asked_once_a_minute(world: "World") -> None:
    """An accepted bearer is remembered for 60 s and asked again after that."""
    service = world.service()
    caller = service.bearer("glpat-ada", address="a")
    assert caller.bearer == Credential(forge="default", token="glpat-ada", kind=CredentialKind.PERSONAL)
    world.clock.pass_seconds(59)
    assert service.bearer("glpat-ada", address="a") == caller
    assert len(world.forge.asked) == 1
    world.clock.pass_seconds(1)
    del world.forge.people["glpat-ada"]
    with pytest.raises(TokenRejected):
        service.bearer("glpat-ada", address="a")
    assert len(world.forge.asked) == 2


def test_a_refused_token_is_remembered_for_half_a_minute(world: "World") -> None:
    """A token that becomes valid is noticed after 30 s."""
    service = world.service()
    with pytest.raises(TokenRejected):
        service.bearer("glpat-new", address="a")
    world.forge.people["glpat-new"] = world.forge.people["glpat-ada"]
    world.clock.pass_seconds(29)
    with pytest.raises(TokenRejected):
        service.bearer("glpat-new", address="a")
    world.clock.pass_seconds(1)
    assert service.bearer("glpat-new", address="a").user.username == "ada"


def test_an_address_that_guesses_is_slowed_and_others_are_not(world: "World") -> None:
    """The fourth unknown token of an address is not asked about; known tokens and other addresses go on."""
    service = world.service()
    service.bearer("glpat-ada", address="guesser")
    for number in range(3):
        with pytest.raises(TokenRejected):
            service.bearer(f"guess-{number}", address="guesser")
    asked = len(world.forge.asked)
    with pytest.raises(RateLimited) as caught:
        service.bearer("guess-3", address="guesser")
    assert (len(world.forge.asked), caught.value.retry_after_seconds) == (asked, 60)
    assert service.bearer("glpat-ada", address="guesser").user.username == "ada"
    with pytest.raises(TokenRejected):
        service.bearer("guess-4", address="another")
    world.clock.pass_seconds(60)
    with pytest.raises(TokenRejected):
        service.bearer("guess-5", address="guesser")


def test_a_good_token_is_known_while_strangers_guess(world: "World") -> None:
    """Where too many unknown tokens are tried, those that were good are asked about as ever, and new ones wait."""
    service = world.service()
    service.bearer("glpat-ada", address="office")
    world.clock.pass_seconds(60)
    for number in range(6):
        with pytest.raises(TokenRejected):
            service.bearer(f"guess-{number}", address=f"guesser-{number // 3}")
    world.forge.people["glpat-new"] = world.forge.people["glpat-ada"]
    with pytest.raises(RateLimited):
        service.bearer("glpat-new", address="office")
    assert service.bearer("glpat-ada", address="office").user.username == "ada"
    assert len(world.forge.asked) == 8


def test_a_refused_token_costs_the_forge_and_its_address_nothing_more(world: "World") -> None:
    """A program that shows a dead token a hundred times has it asked about once, and nobody beside it is slowed."""
    service = world.service()
    for _ in range(100):
        with pytest.raises(TokenRejected):
            service.bearer("dead", address="office")
    assert len(world.forge.asked) == 1
    assert service.bearer("glpat-ada", address="office").user.username == "ada"


@pytest.mark.parametrize("error", [MissingScope("needs read_user"), Forbidden("GitLab has blocked ada.")])
def test_a_token_that_may_not_say_whose_it_is_is_remembered_too(world: "World", error: Forbidden) -> None:
    """A blocked person's program, or one whose token lacks the scope, is told each time and asked about once."""
    service = world.service()
    world.forge.refusals["glpat-ada"] = error
    for _ in range(5):
        with pytest.raises(type(error), match=error.message) as caught:
            service.bearer("glpat-ada", address="a")
    assert caught.value is not error
    assert len(world.forge.asked) == 1


@pytest.mark.parametrize(("application", "is_taken"), [("ours", True), ("listed", True), ("strangers", False)])
def test_an_oauth_token_counts_when_it_is_of_our_application_or_a_listed_one(
    world: "World", *, application: str, is_taken: bool
) -> None:
    """A token that another application was given does not act here."""
    world.oauth.infos["access-1"] = TokenInfo(
        application_id=application, subject="7", scopes=frozenset({"read_api"}), expires_in_seconds=100
    )
    service = world.service()
    if not is_taken:
        with pytest.raises(TokenRejected, match="another application"):
            service.bearer("access-1", address="a")
        return
    caller = service.bearer("access-1", address="a")
    assert caller.bearer is not None
    assert (caller.bearer.kind, service.scopes_of(caller)) == (CredentialKind.OAUTH, frozenset({"read_api"}))


@pytest.mark.parametrize("token", ["", "a b\n", "é", "x" * 5000])
def test_a_text_that_is_no_token_is_never_sent_to_gitlab(world: "World", token: str) -> None:
    """Header-breaking and overlong texts are refused here."""
    with pytest.raises(TokenRejected):
        world.service().bearer(token, address="a")
    assert world.forge.asked == []


def test_an_unavailable_forge_is_not_an_unknown_token(world: "World") -> None:
    """While GitLab is away a bearer is neither refused nor remembered."""
    service = world.service()
    world.forge.is_down = True
    with pytest.raises(ForgeUnavailable):
        service.bearer("glpat-ada", address="a")
    world.forge.is_down = False
    assert service.bearer("glpat-ada", address="a").user.username == "ada"


def test_a_grant_is_refreshed_early_once_and_kept_before_use(world: "World") -> None:
    """Eight threads that find a grant due make one refresh, and all get the new token."""
    service = world.service()
    user, _ = signed_in(service)
    world.clock.pass_seconds(7200 - 601)
    assert (service.credential(user.id).token, world.oauth.refreshed) == ("access-1", 0)
    world.clock.pass_seconds(2)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(service.credential(user.id).token)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (found, world.oauth.refreshed) == (["access-2"] * 8, 1)
    kept = world.store.grants[user.id, None]
    assert (kept.access_token, kept.refresh_token, kept.scopes, kept.version) == (
        "access-2",
        "refresh-2",
        frozenset({"read_api"}),
        1,
    )


def test_a_refused_refresh_ends_the_grant(world: "World") -> None:
    """Where GitLab refuses the refresh token, the person must sign in again."""
    service = world.service()
    user, _ = signed_in(service)
    world.oauth.refreshes.clear()
    world.clock.pass_seconds(7200)
    with pytest.raises(SignInRequired):
        service.credential(user.id)
    assert world.store.grants == {}


def test_a_refresh_that_cannot_be_asked_uses_what_is_left(world: "World") -> None:
    """With GitLab away a token serves until its end; after it the person is asked for patience, not to sign in."""
    service = world.service()
    user, _ = signed_in(service)
    world.oauth.is_down = True
    world.clock.pass_seconds(7199)
    assert service.credential(user.id).token == "access-1"
    world.clock.pass_seconds(1)
    with pytest.raises(ForgeUnavailable):
        service.credential(user.id)
    assert (user.id, None) in world.store.grants


def test_a_grant_without_refresh_token_ends_at_its_end(world: "World") -> None:
    """Nothing can renew it, so it serves to its last second."""
    service = world.service()
    user, _ = signed_in(service)
    grant = world.store.grants[user.id, None]
    world.store.put_grant(replace(grant, refresh_token=None))
    world.clock.pass_seconds(7199)
    assert service.credential(user.id).token == "access-1"
    world.clock.pass_seconds(1)
    with pytest.raises(SignInRequired):
        service.credential(user.id)


def test_a_bearer_is_kept_with_one_session_and_never_becomes_a_sign_in(world: "World") -> None:
    """The kept token serves its session alone and goes with it."""
    service = world.service()
    caller = service.bearer("glpat-ada", address="a")
    service.keep_bearer(caller, SESSION)
    assert service.credential(caller.user.id, session=SESSION).token == "glpat-ada"
    assert service.scopes(caller.user.id, session=SESSION) == {"api"}
    for wrong in (None, OTHER):
        with pytest.raises(SignInRequired):
            service.credential(caller.user.id, session=wrong)
    service.drop_bearer(caller.user.id, SESSION)
    with pytest.raises(SignInRequired):
        service.credential(caller.user.id, session=SESSION)


def test_a_stored_grant_comes_before_a_bearer(world: "World") -> None:
    """Somebody who has signed in has no bearer kept, and sessions use the grant; the request itself uses the bearer."""
    service = world.service()
    user, login = signed_in(service)
    caller = service.bearer("glpat-ada", address="a")
    service.keep_bearer(caller, SESSION)
    assert (user.id, SESSION) not in world.store.grants
    assert service.credential(user.id, session=SESSION).token == "access-1"
    assert service.credential_of(caller).token == "glpat-ada"
    assert service.credential_of(Caller(user=user, login_id=login.id)).token == "access-1"


def test_an_own_token_acts_until_it_is_revoked(world: "World") -> None:
    """A token is made, listed, used with the person's grant, and dead from the moment it is revoked."""
    service = world.service()
    user, login = signed_in(service)
    caller = Caller(user=user, login_id=login.id)
    token, text = service.issue_token(caller, name=" my  laptop ", lifetime_days=30)
    assert (token.name, service.tokens(caller)) == ("my laptop", [token])
    assert service.bearer(text, address="a") == Caller(user=user)
    assert world.service(keys=[b"newer", b"first key"]).bearer(text, address="a") == Caller(user=user)
    asked = len(world.forge.asked)
    with pytest.raises(TokenRejected):
        world.service(keys=[b"strangers"]).bearer(text, address="a")
    service.revoke_token(caller, token.id)
    with pytest.raises(TokenRejected, match="revoked"):
        service.bearer(text, address="a")
    assert len(world.forge.asked) == asked


def test_an_own_token_tells_when_it_was_used(world: "World") -> None:
    """Its last use is kept to the minute, so that a busy program does not write at every request."""
    service = world.service()
    user, login = signed_in(service)
    caller = Caller(user=user, login_id=login.id)
    _, text = service.issue_token(caller, name="x", lifetime_days=1)
    assert [each.last_used_at for each in service.tokens(caller)] == [None]
    seen = []
    for passed in (0, 59, 1):
        world.clock.pass_seconds(passed)
        service.bearer(text, address="a")
        seen += [each.last_used_at for each in service.tokens(caller)]
    now = world.clock.now()
    assert [(now - at).total_seconds() for at in seen if at] == [60, 60, 0]


def test_an_own_token_ends_at_its_end(world: "World") -> None:
    """Its life is counted by our clock."""
    service = world.service()
    user, login = signed_in(service)
    _, text = service.issue_token(Caller(user=user, login_id=login.id), name="x", lifetime_days=1)
    world.clock.pass_seconds(86400)
    with pytest.raises(TokenRejected, match="past its end"):
        service.bearer(text, address="a")


def test_a_token_makes_no_tokens_unless_it_may_do_everything(world: "World") -> None:
    """Nobody gets more than they hold: an own token or a narrow bearer makes none, one with `api` does."""
    service = world.service()
    user, login = signed_in(service)
    _, text = service.issue_token(Caller(user=user, login_id=login.id), name="x", lifetime_days=1)
    world.forge.people["glpat-narrow"] = world.forge.people["glpat-ada"]
    world.forge.scopes_by_token["glpat-narrow"] = frozenset({"read_api"})
    for bearer in (text, "glpat-narrow"):
        with pytest.raises(Forbidden):
            service.issue_token(service.bearer(bearer, address="a"), name="y", lifetime_days=1)
    service.issue_token(service.bearer("glpat-ada", address="a"), name="y", lifetime_days=1)


@pytest.mark.parametrize(("name", "days"), [("", 1), ("x" * 101, 1), ("a\x00b", 1), ("x", 0), ("x", 366)])
def test_a_token_has_a_name_and_an_end(world: "World", name: str, days: int) -> None:
    """Names and lives outside their bounds are refused."""
    service = world.service()
    user, login = signed_in(service)
    with pytest.raises(InvalidInput):
        service.issue_token(Caller(user=user, login_id=login.id), name=name, lifetime_days=days)


@pytest.mark.parametrize(("most", "asked", "lives"), [(365, None, 90), (30, None, 30), (30, 30, 30), (400, 400, 400)])
def test_a_token_lives_as_long_as_the_settings_let_it(world: "World", most: int, asked: int | None, lives: int) -> None:
    """Unasked it is 90 days or the most there is; one day more than the most is refused in a sentence."""
    service = world.service(token_days=most)
    user, login = signed_in(service)
    caller = Caller(user=user, login_id=login.id)
    token, _ = service.issue_token(caller, name="x", lifetime_days=asked)
    assert (token.expires_at - token.created_at).days == lives
    with pytest.raises(InvalidInput, match=f"1 to {most} days"):
        service.issue_token(caller, name="x", lifetime_days=most + 1)


def test_nobody_revokes_anothers_token(world: "World") -> None:
    """Another person's token is one that does not exist."""
    service = world.service()
    user, login = signed_in(service)
    token, text = service.issue_token(Caller(user=user, login_id=login.id), name="x", lifetime_days=1)
    with pytest.raises(NotFound):
        service.revoke_token(Caller(user=replace(user, id=user_id("https://gitlab.example", "8"))), token.id)
    assert service.bearer(text, address="a").user == user


def test_a_code_opens_one_session_once_for_a_minute(world: "World") -> None:
    """A one-time code is good once, for its session, for 60 s, and is kept as a hash."""
    service = world.service()
    user, _ = signed_in(service)
    code, expires_at = service.make_code(SESSION, user.id)
    assert ((expires_at - world.clock.now()).total_seconds(), code in world.store.codes) == (60, False)
    assert service.redeem_code(OTHER, code) is None
    assert (service.redeem_code(SESSION, code), service.redeem_code(SESSION, code)) == (user.id, None)
    late, _ = service.make_code(SESSION, user.id)
    world.clock.pass_seconds(60)
    assert service.redeem_code(SESSION, late) is None


def test_without_an_application_only_bearers_sign_in(world: "World") -> None:
    """Where no OAuth application is set up, a sign-in says so and tokens work."""
    service = world.service(with_oauth=False)
    with pytest.raises(SignInRequired, match="not set up"):
        service.begin_sign_in(redirect_uri="x", return_to="/")
    assert service.bearer("glpat-ada", address="a").user.username == "ada"


def test_a_session_credential_reads_back(world: "World") -> None:
    """The service's credential names its workload and generation."""
    service = world.service()
    credential = service.session_credential(WorkloadName("flights-1234567-0011223344556677"), 2)
    assert service.verify_session_credential(credential) == (WorkloadName("flights-1234567-0011223344556677"), 2)
    assert service.verify_session_credential(credential[:-1]) is None


def test_nothing_secret_shows_in_a_representation(world: "World") -> None:
    """Printing callers and grants shows no token."""
    service = world.service()
    signed_in(service)
    caller = service.bearer("glpat-ada", address="a")
    grant: Grant = next(iter(world.store.grants.values()))
    assert not [text for text in ("glpat-ada", "access-1", "refresh-1") if text in repr((caller, grant))]


def test_a_person_is_known_after_their_first_visit(world: "World") -> None:
    """Whoever has signed in is found by id; anybody else must sign in, also with a token of a person that is gone."""
    service = world.service()
    user, login = signed_in(service)
    assert service.person(user.id) == user
    _, text = service.issue_token(Caller(user=user, login_id=login.id), name="x", lifetime_days=1)
    world.store.users.clear()
    with pytest.raises(SignInRequired):
        service.person(user.id)
    with pytest.raises(TokenRejected, match="person is unknown"):
        service.bearer(text, address="a")
