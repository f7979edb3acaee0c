"""The headers of Renku's gateway: off unless switched on, and then no more than the GitLab token within them.

Covered: whose request it is, what is not believed, damage, forgery, both prefixes. Left out: Renku's own client
(tests/functional/test_renku_client.py).
"""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from flask import Response
from flask.testing import FlaskClient

from spawner.http import create_app
from tests.functional.api.conftest import PublicClient, client_of
from tests.functional.api.test_servers import BODY
from tests.functional.api.world import FORGE_URL, World

SERVERS = "/api/notebooks/servers"
ID_TOKEN = "e30.eyJzdWIiOiAicm9vdCIsICJwcmVmZXJyZWRfdXNlcm5hbWUiOiAicm9vdCJ9."  # says it is root; nobody signed it


def credentials(token: str, *, url: str = FORGE_URL, scheme: str = "bearer") -> str:
    told: dict[str, Any] = {url: {"AuthorizationHeader": f"{scheme} {token}", "AccessTokenExpiresAt": None}}
    return base64.b64encode(json.dumps(told).encode()).decode()


def gateway(token: str, **more: str) -> dict[str, str]:
    """Return what the gateway adds to a request."""
    return {
        "Renku-Auth-Access-Token": "not looked at",
        "Renku-Auth-Id-Token": ID_TOKEN,
        "Renku-Auth-Refresh-Token": "not looked at",
        "Renku-Auth-Git-Credentials": credentials(token),
        **more,
    }


@pytest.fixture
def behind(world: World) -> FlaskClient:
    """A client of a spawner that takes the gateway's headers."""
    options = replace(world.app.extensions["slipway"].options, takes_renku_headers=True)
    return PublicClient(create_app(world.services, options), Response, use_cookies=True)


def test_the_token_says_who_it_is_and_nothing_else_does(behind: FlaskClient) -> None:
    """The person is the GitLab token's, whatever the ID token beside it says; a bearer beside it is the gateway's."""
    found = behind.get("/api/slipway/v1/person", headers=gateway("token-ada", Authorization="Bearer of-keycloak"))
    person = {"username": "ada", "name": "Ada", "is_admin": False, "has_sign_in": False}
    assert (found.status_code, found.json) == (200, person)
    assert behind.post(SERVERS, json=BODY, headers=gateway("token-ada")).status_code == 201
    assert behind.post("/notebooks/servers", json=BODY, headers=gateway("token-bob")).status_code == 404


def test_switched_off_they_are_nobodys(nobody: FlaskClient) -> None:
    """Without the setting the headers mean nothing, and a bearer means what it does."""
    assert nobody.get(SERVERS, headers=gateway("token-ada")).status_code == 401
    bearer = {**gateway("token-ada"), "Authorization": "Bearer token-bob"}
    assert nobody.get("/api/slipway/v1/person", headers=bearer).json["username"] == "bob"  # type: ignore[index]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "no base64",
        base64.b64encode(b"no json").decode(),
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b'{"a": 1}').decode(),
        base64.b64encode(b"[" * 10_000).decode(),
        credentials("token-ada", url="https://gitlab.elsewhere.test"),
        credentials("token-ada", url=f"{FORGE_URL}.elsewhere.test"),
        credentials("token-ada", scheme="basic"),
        credentials(""),
        credentials("x" * 20_000),
        credentials("unknown"),
    ],
)
def test_what_is_no_token_of_our_gitlab_is_nobodys(behind: FlaskClient, header: str) -> None:
    """Damage, another GitLab's token and an unknown one are 401, and no claim beside them helps."""
    answer = behind.get(SERVERS, headers={**gateway("token-ada"), "Renku-Auth-Git-Credentials": header})
    assert answer.status_code == 401
    assert answer.json is not None
    assert answer.json["error"]["code"] == 1401


def test_another_site_cannot_use_the_gateway(behind: FlaskClient) -> None:
    """The gateway adds its headers to what any page has a browser send: another site changes nothing."""
    for site, status in (("cross-site", 403), ("same-site", 201), ("same-origin", 200)):
        headers = gateway("token-ada", **{"Sec-Fetch-Site": site})
        assert (site, behind.post(SERVERS, json=BODY, headers=headers).status_code) == (site, status)


def test_anonymous_people_are_nobody(world: World, behind: FlaskClient) -> None:
    """The gateway's name for somebody who is not signed in opens nothing."""
    assert behind.get(SERVERS, headers={"Renku-Auth-Anon-Id": "a1"}).status_code == 401
    assert client_of(world, None).get(SERVERS, headers={"Renku-Auth-Anon-Id": "a1"}).status_code == 401
