"""Sign-in through the stand-in as a browser does it: PKCE, single-use codes and refresh tokens, what a token is.

Left out: pages (browser suite), logins and storage (unit/users).
"""

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from spawner.errors import ForgeUnavailable, TokenRejected
from spawner.gitlab.oauth import GitLabOAuth
from spawner.ports import AccessLevel
from tests.contract.forge_port.conftest import oauth, personal

if TYPE_CHECKING:
    from tests.contract.forge_port.conftest import World

REDIRECT = "http://127.0.0.1:9/login/callback"
VERIFIER = "v" * 64
SCOPES = ("read_api", "read_repository")


@pytest.fixture(scope="module", params=["confidential", "public"])
def application(world: "World", request: pytest.FixtureRequest) -> GitLabOAuth:
    is_confidential = request.param == "confidential"
    client_id, secret = world.standin.add_application(
        REDIRECT, scopes=SCOPES, trusted=True, confidential=is_confidential
    )
    return GitLabOAuth(
        world.standin.url,
        client_id=client_id,
        client_secret=secret if is_confidential else None,
        redirect_uri=REDIRECT,
        scopes=SCOPES,
    )


def signed_in(url: str) -> dict[str, list[str]]:
    """Do what Ada's browser does; return the query that comes back to us."""
    with requests.Session() as browser:
        browser.trust_env = False
        page = browser.get(url, timeout=30)
        fields = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', page.text))
        form = {**fields, "user[login]": "ada", "user[password]": "ada-password-1"}
        form.pop("pick", None)
        back = browser.post(page.url, data=form, timeout=30, allow_redirects=False)
        while back.is_redirect and not back.headers["Location"].startswith(REDIRECT):
            back = browser.get(
                requests.compat.urljoin(page.url, back.headers["Location"]), timeout=30, allow_redirects=False
            )
    return parse_qs(urlsplit(back.headers["Location"]).query)


def code_for(application: GitLabOAuth, verifier: str = VERIFIER) -> str:
    query = signed_in(application.authorization_url(redirect_uri=REDIRECT, state="state-1", verifier=verifier))
    assert query["state"] == ["state-1"]
    return query["code"][0]


def test_a_sign_in_gives_tokens_that_act(world: "World", application: GitLabOAuth) -> None:
    """A code becomes tokens of our application, with their scopes and life; they act at the forge."""
    tokens = application.exchange(code=code_for(application), redirect_uri=REDIRECT, verifier=VERIFIER)
    assert (tokens.scopes, tokens.expires_in_seconds) == (frozenset(SCOPES), 7200)
    info = application.inspect(tokens.access_token)
    assert info is not None
    assert (info.application_id, info.subject, info.scopes) == (
        application.client_id,
        str(world.ada.id),
        frozenset(SCOPES),
    )
    forge = world.forge(application_ids=frozenset({application.client_id}))
    credential = oauth(tokens.access_token)
    assert forge.user(credential).username == "ada"
    assert forge.access_level(credential, world.private.id, world.ada.id) == AccessLevel.OWNER
    assert forge.scopes(credential) == frozenset(SCOPES)
    with pytest.raises(TokenRejected, match="another application"):
        world.forge(application_ids=frozenset({"others"})).scopes(credential)


def test_a_code_is_good_once_and_for_its_verifier_alone(application: GitLabOAuth) -> None:
    """A stolen code without the verifier gives nothing, nor does a used one."""
    with pytest.raises(TokenRejected):
        application.exchange(code=code_for(application), redirect_uri=REDIRECT, verifier="w" * 64)
    code = code_for(application)
    application.exchange(code=code, redirect_uri=REDIRECT, verifier=VERIFIER)
    with pytest.raises(TokenRejected):
        application.exchange(code=code, redirect_uri=REDIRECT, verifier=VERIFIER)


def test_a_refresh_ends_the_tokens_before_it(application: GitLabOAuth) -> None:
    """A refresh token is good once; the old access token is dead, the new one lives."""
    tokens = application.exchange(code=code_for(application), redirect_uri=REDIRECT, verifier=VERIFIER)
    fresh = application.refresh(refresh_token=tokens.refresh_token or "")
    assert (application.inspect(tokens.access_token), application.inspect(fresh.access_token) is None) == (None, False)
    assert fresh.scopes == frozenset(SCOPES)
    with pytest.raises(TokenRejected):
        application.refresh(refresh_token=tokens.refresh_token or "")


def test_one_scope_more_is_asked_for_and_kept(world: "World") -> None:
    """A sign-in may ask for more than the usual; a refresh gives the same again, never what is usual."""
    usual = ("read_api", "read_repository")
    client_id, secret = world.standin.add_application(REDIRECT, scopes=(*usual, "api"), trusted=True)
    client = GitLabOAuth(
        world.standin.url, client_id=client_id, client_secret=secret, redirect_uri=REDIRECT, scopes=usual
    )
    url = client.authorization_url(redirect_uri=REDIRECT, state="s", verifier=VERIFIER, more=frozenset({"api"}))
    code = signed_in(url)["code"][0]
    tokens = client.exchange(code=code, redirect_uri=REDIRECT, verifier=VERIFIER)
    fresh = client.refresh(refresh_token=tokens.refresh_token or "")
    assert (tokens.scopes, fresh.scopes) == (frozenset({*usual, "api"}), frozenset({*usual, "api"}))


def test_a_personal_token_is_no_oauth_token(world: "World", application: GitLabOAuth) -> None:
    """What a token is decides how it counts: personal and unknown ones are none of any application."""
    assert (application.inspect(world.ada.token), application.inspect("nonsense")) == (None, None)
    assert "api" in world.forge().scopes(oauth(world.ada.token))
    assert world.forge().scopes(personal(world.ada.token)) == world.forge().scopes(oauth(world.ada.token))


def test_trouble_at_gitlab_or_with_the_application_costs_nobody_their_grant(world: "World") -> None:
    """Only `invalid_grant` is a refusal of the person; a wrong secret or a page of a proxy is not."""
    client_id, _ = world.standin.add_application(REDIRECT, scopes=SCOPES, trusted=True)
    wrong = GitLabOAuth(
        world.standin.url, client_id=client_id, client_secret="wrong", redirect_uri=REDIRECT, scopes=SCOPES
    )
    with pytest.raises(ForgeUnavailable, match="as an application"):
        wrong.refresh(refresh_token="x")
    away = GitLabOAuth("http://127.0.0.1:9", client_id="x", client_secret="y", redirect_uri=REDIRECT, scopes=SCOPES)
    with pytest.raises(ForgeUnavailable):
        away.refresh(refresh_token="x")
    with pytest.raises(ForgeUnavailable):
        away.inspect("x")
