"""The doors of a session's own credential, and of a person's tokens.

Covered: reports, one-time codes, tokens made, used and revoked. Left out: the agent itself, the relay.
"""

from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient

from spawner.names import SessionName
from tests.functional.api.conftest import client_of
from tests.functional.api.test_servers import run
from tests.functional.api.world import World


def _credential(world: World, name: str) -> dict[str, str]:
    workload = world.until(lambda: world.runtime.workloads.get(SessionName(name)))
    return {"Authorization": f"Bearer {workload.credential}"}


def test_code(world: World, ada: FlaskClient, nobody: FlaskClient) -> None:
    """A one-time code is good once, at its own session only."""
    name = run(world, ada)["name"]
    credential = _credential(world, name)
    opened = ada.post(f"/notebooks/servers/{name}/open").json
    assert opened is not None
    code = parse_qs(urlsplit(opened["url"]).query)["code"][0]
    first = nobody.post("/api/slipway/v1/agent/redeem", json={"code": code}, headers=credential)
    second = nobody.post("/api/slipway/v1/agent/redeem", json={"code": code}, headers=credential)
    assert (first.status_code, first.json, second.status_code) == (200, {"username": "ada"}, 404)


def test_person_is_no_session(world: World, ada: FlaskClient) -> None:
    """A person's token is no session's credential, and a session's credential no person's."""
    name = run(world, ada)["name"]
    assert ada.post("/api/slipway/v1/agent/report", json={"event": "ready"}).status_code == 401
    credential = _credential(world, name)
    assert client_of(world, None).get("/notebooks/servers", headers=credential).status_code == 401


def test_credential_ends(world: World, ada: FlaskClient, nobody: FlaskClient) -> None:
    """A session's credential ends with it."""
    name = run(world, ada)["name"]
    credential = _credential(world, name)
    assert nobody.post("/api/slipway/v1/agent/report", json={"event": "step"}, headers=credential).status_code == 204
    ada.delete(f"/notebooks/servers/{name}")
    world.until(lambda: ada.get(f"/notebooks/servers/{name}").status_code == 404)
    assert nobody.post("/api/slipway/v1/agent/report", json={"event": "step"}, headers=credential).status_code == 401


# ---------------------------------------------------------------- tokens


def test_tokens(world: World, ada: FlaskClient, nobody: FlaskClient) -> None:
    """A token of ours acts for its person until it is revoked, and makes no others."""
    made = ada.post("/api/slipway/v1/tokens", json={"name": "laptop", "expires_in_days": 7})
    assert made.status_code == 201
    assert made.json is not None
    own = {"Authorization": f"Bearer {made.json['token']}"}
    assert nobody.get("/api/slipway/v1/person", headers=own).json == {
        "username": "ada",
        "name": "Ada",
        "is_admin": False,
        "has_sign_in": False,
    }
    assert nobody.get("/notebooks/servers", headers=own).status_code == 200
    assert nobody.post("/api/slipway/v1/tokens", json={"name": "more"}, headers=own).status_code == 403
    listed = ada.get("/api/slipway/v1/tokens")
    assert listed.json is not None
    assert [(each["name"], each["revoked_at"]) for each in listed.json["tokens"]] == [("laptop", None)]
    assert made.json["token"] not in listed.text
    assert client_of(world, "bob").delete(f"/api/slipway/v1/tokens/{made.json['id']}").status_code == 404
    assert ada.delete(f"/api/slipway/v1/tokens/{made.json['id']}").status_code == 204
    assert nobody.get("/notebooks/servers", headers=own).status_code == 401


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": " "}, {"name": "x", "expires_in_days": 0}, {"name": "x", "y": 1}]
)
def test_bad_token(ada: FlaskClient, body: dict[str, object]) -> None:
    """A token needs a name and a life."""
    assert ada.post("/api/slipway/v1/tokens", json=body).status_code == 422
