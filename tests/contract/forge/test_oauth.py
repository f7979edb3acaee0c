"""OAuth 2 and OpenID Connect, as a browser and an application play them.

Covered: sign-in page, consent, denial, PKCE, confidential clients, refresh once, revocation, ID token, discovery.
Left out: device flow, which nothing here uses.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256

if TYPE_CHECKING:
    from spawner.testing.gitlab import UserHandle
    from tests.contract.forge.conftest import Cast

BACK = "http://127.0.0.1:9/oauth/callback"
SCOPES = ("read_api", "openid", "profile", "email", "read_repository")


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A registered application and a person with a password."""

    url: str
    client_id: str
    secret: str
    person: UserHandle
    password: str

    def token(self, **body: str) -> requests.Response:
        """Ask for tokens with the application's secret."""
        given = {"client_id": self.client_id, "client_secret": self.secret, **body}
        return requests.post(f"{self.url}/oauth/token", data=given, timeout=20)

    def ask(self, browser: requests.Session, **more: str) -> requests.Response:
        """Open the authorization page."""
        query = {
            "client_id": self.client_id,
            "redirect_uri": BACK,
            "response_type": "code",
            "scope": " ".join(SCOPES),
            "state": "s1",
            **more,
        }
        return browser.get(f"{self.url}/oauth/authorize", params=query, timeout=20, allow_redirects=False)

    def code(self, browser: requests.Session, **more: str) -> str:
        """Go through sign-in and consent; return the code."""
        answer = self.ask(browser, **more)
        if "/users/sign_in" in answer.headers.get("Location", ""):
            page = browser.get(f"{self.url}/users/sign_in", timeout=20)
            form = {"user[login]": self.person.username, "user[password]": self.password, **_hidden(page.text)}
            browser.post(f"{self.url}/users/sign_in", data=form, timeout=20, allow_redirects=False)
            answer = self.ask(browser, **more)
        if answer.status_code == 200:
            form = {**_hidden(answer.text), "decision": "allow"}
            answer = browser.post(f"{self.url}/oauth/authorize", data=form, timeout=20, allow_redirects=False)
        back = urlsplit(answer.headers["Location"])
        assert f"{back.scheme}://{back.netloc}{back.path}" == BACK
        assert parse_qs(back.query)["state"] == ["s1"]
        return parse_qs(back.query)["code"][0]


def _hidden(page: str) -> dict[str, str]:
    found = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', page)
    return {name: html.unescape(value) for name, value in found}


def _pkce() -> tuple[str, dict[str, str]]:
    verifier = secrets.token_urlsafe(48)
    mark = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return verifier, {"code_challenge": mark, "code_challenge_method": "S256"}


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.fixture
def app(cast: Cast) -> App:
    """A confidential application."""
    password = secrets.token_urlsafe(12)
    person = cast.forge.add_user(f"eve-{secrets.token_hex(3)}", password=password)
    client_id, secret = cast.forge.add_application(BACK, scopes=SCOPES, confidential=True)
    return App(url=cast.forge.url, client_id=client_id, secret=secret, person=person, password=password)


def test_code_becomes_a_token_once(app: App) -> None:
    """A person signs in and agrees; the code gives a token that calls the API, and gives it once."""
    verifier, challenge = _pkce()
    with requests.Session() as browser:
        code = app.code(browser, **challenge)
    given = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": verifier}
    answer = app.token(**given)
    assert answer.status_code == 200, answer.text
    tokens = answer.json()
    assert (tokens["token_type"].lower(), tokens["scope"]) == ("bearer", " ".join(SCOPES))
    assert tokens["expires_in"] == 7200
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    user = requests.get(f"{app.url}/api/v4/user", headers=headers, timeout=20).json()
    assert (user["id"], user["username"]) == (app.person.id, app.person.username)
    again = app.token(**given)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("wrong", ["code_verifier", "redirect_uri", "client_secret"])
def test_wrong_proof_gives_nothing(app: App, wrong: str) -> None:
    """A wrong verifier, redirect address or secret is refused, each in its way."""
    verifier, challenge = _pkce()
    with requests.Session() as browser:
        code = app.code(browser, **challenge)
    given = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": verifier}
    answer = app.token(**given | {wrong: "wrong" * 10})
    expected = (401, "invalid_client") if wrong == "client_secret" else (400, "invalid_grant")
    assert (answer.status_code, answer.json()["error"]) == expected


def test_refresh_tokens_are_good_once(app: App) -> None:
    """A refresh ends both old tokens; the second use of a refresh token is refused."""
    with requests.Session() as browser:
        code = app.code(browser)
    old = app.token(grant_type="authorization_code", code=code, redirect_uri=BACK).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": old["refresh_token"], "redirect_uri": BACK}
    fresh = app.token(**refresh)
    assert fresh.status_code == 200
    assert app.token(**refresh).json()["error"] == "invalid_grant"

    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(f"{app.url}/api/v4/user", headers=headers, timeout=20).status_code

    assert (status(old["access_token"]), status(fresh.json()["access_token"])) == (401, 200)


def test_second_visit_is_not_asked_again(app: App) -> None:
    """Who has agreed goes straight back."""
    with requests.Session() as browser:
        code = app.code(browser)
        app.token(grant_type="authorization_code", code=code, redirect_uri=BACK)
        again = app.ask(browser)
    assert again.status_code in {302, 303}
    assert again.headers["Location"].startswith(BACK)


def test_denial_goes_back_with_a_reason(app: App) -> None:
    """A person who denies is sent back with `access_denied`."""
    with requests.Session() as browser:
        page = browser.get(f"{app.url}/users/sign_in", timeout=20)
        form = {"user[login]": app.person.username, "user[password]": app.password, **_hidden(page.text)}
        browser.post(f"{app.url}/users/sign_in", data=form, timeout=20, allow_redirects=False)
        consent = app.ask(browser)
        denied = browser.post(
            f"{app.url}/oauth/authorize",
            data={**_hidden(consent.text), "decision": "deny"},
            timeout=20,
            allow_redirects=False,
        )
    assert parse_qs(urlsplit(denied.headers["Location"]).query)["error"] == ["access_denied"]


def test_wrong_password_and_forged_form_are_refused(app: App) -> None:
    """A wrong password shows the form again; a form without its token is refused."""
    with requests.Session() as browser:
        page = browser.get(f"{app.url}/users/sign_in", timeout=20)
        form = {"user[login]": app.person.username, "user[password]": "wrong", **_hidden(page.text)}
        again = browser.post(f"{app.url}/users/sign_in", data=form, timeout=20, allow_redirects=False)
        assert "Invalid login or password" in again.text
        forged = browser.post(
            f"{app.url}/users/sign_in",
            data={"user[login]": app.person.username, "user[password]": app.password},
            timeout=20,
            allow_redirects=False,
        )
    assert forged.status_code == 422


def test_unknown_redirect_is_never_followed(app: App) -> None:
    """An address that is not registered is answered with a page, not with a redirect."""
    with requests.Session() as browser:
        answer = app.ask(browser, redirect_uri="https://evil.example.com/")
    assert answer.status_code in {400, 401, 422}
    assert "Location" not in answer.headers


def test_public_application_needs_pkce(cast: Cast, app: App) -> None:
    """An application without a secret is let in by its verifier, and only with a challenge."""
    client_id, _ = cast.forge.add_application(BACK, name="public", scopes=SCOPES, confidential=False)
    public = App(url=app.url, client_id=client_id, secret="", person=app.person, password=app.password)
    verifier, challenge = _pkce()
    with requests.Session() as browser:
        code = public.code(browser, **challenge)
        bare = public.ask(browser)
    given = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "client_id": client_id}
    answer = requests.post(f"{app.url}/oauth/token", data=given | {"code_verifier": verifier}, timeout=20)
    assert answer.status_code == 200, answer.text
    assert "code=" not in bare.headers.get("Location", "")


def test_identity(app: App) -> None:
    """The ID token is signed with a published key and says who it is; so does userinfo."""
    found = requests.get(f"{app.url}/.well-known/openid-configuration", timeout=20).json()
    with requests.Session() as browser:
        code = app.code(browser, nonce="n1")
    tokens = app.token(grant_type="authorization_code", code=code, redirect_uri=BACK).json()
    signed, _, signature = tokens["id_token"].rpartition(".")
    header, claims = (json.loads(_decoded(part)) for part in signed.split("."))
    keys = requests.get(found["jwks_uri"], timeout=20).json()["keys"]
    key: dict[str, Any] = next(row for row in keys if row["kid"] == header["kid"])
    numbers = RSAPublicNumbers(*(int.from_bytes(_decoded(key[name]), "big") for name in ("e", "n")))
    numbers.public_key().verify(_decoded(signature), signed.encode(), PKCS1v15(), SHA256())
    assert (claims["iss"], claims["aud"], claims["sub"], claims["nonce"]) == (
        found["issuer"],
        app.client_id,
        str(app.person.id),
        "n1",
    )
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    info = requests.get(found["userinfo_endpoint"], headers=headers, timeout=20).json()
    assert (info["sub"], info["nickname"]) == (str(app.person.id), app.person.username)


def test_token_info_and_revocation(app: App) -> None:
    """A token says what it is until it is revoked."""
    with requests.Session() as browser:
        code = app.code(browser)
    token = app.token(grant_type="authorization_code", code=code, redirect_uri=BACK).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    info = requests.get(f"{app.url}/oauth/token/info", headers=headers, timeout=20).json()
    assert (info["resource_owner_id"], info["application"]["uid"]) == (app.person.id, app.client_id)
    assert set(info["scope"]) == set(SCOPES)
    given = {"client_id": app.client_id, "client_secret": app.secret, "token": token}
    assert requests.post(f"{app.url}/oauth/revoke", data=given, timeout=20).status_code == 200
    assert requests.get(f"{app.url}/oauth/token/info", headers=headers, timeout=20).status_code == 401
