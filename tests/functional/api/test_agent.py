"""The doors of a session's own credential, of GitLab's hooks, and of a person's tokens.

Covered: reports, one-time codes, hooks with both kinds of secret, repeats, tokens made, used and revoked.
Left out: the agent itself, the relay.
"""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient

from spawner.names import SessionName
from spawner.ports import JobStatus
from tests.functional.api.conftest import client_of
from tests.functional.api.test_servers import launch, run
from tests.functional.api.world import HOOK_SECRET, SHA, World


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


# ---------------------------------------------------------------- hooks


def _hook(client: FlaskClient, world: World, **headers: str) -> Any:
    payload = {
        "object_kind": "build",
        "sha": SHA,
        "project_id": 42,
        "pipeline_id": 800,
        "build_id": 900,
        "build_name": "image_build",
        "build_status": "success",
    }
    sent = {"X-Gitlab-Event": "Job Hook", "X-Gitlab-Token": HOOK_SECRET, **headers}
    del world
    return client.post("/hooks/gitlab", data=json.dumps(payload), content_type="application/json", headers=sent)


def test_hook_hints(world: World, ada: FlaskClient, nobody: FlaskClient) -> None:
    """A hook makes the waiting session start at once, long before the next poll."""
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.RUNNING)
    name = launch(ada)["name"]
    world.until(lambda: ada.get(f"/notebooks/servers/{name}").json["slipway"]["build"])  # type: ignore[index]
    world.add_job(project, JobStatus.SUCCESS)
    world.add_image()
    assert (_hook(nobody, world).status_code, b"") == (204, b"")
    world.be_ready(SessionName(name))
    body = world.until(lambda: _running(ada, name))
    assert body["slipway"]["image"]["source"] == "built"


def _running(client: FlaskClient, name: str) -> Any:
    body: Any = client.get(f"/notebooks/servers/{name}").json
    return body if body["status"]["state"] == "running" else None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 204),
        ({"X-Gitlab-Token": "wrong"}, 403),
        ({"X-Gitlab-Token": ""}, 403),
        ({"webhook-signature": "v1,xxxx", "webhook-id": "x", "webhook-timestamp": "1"}, 403),
        ({"X-Gitlab-Event": "Issue Hook"}, 204),
        ({"Idempotency-Key": "12345678-abcd"}, 204),
    ],
)
def test_hook_secret(world: World, nobody: FlaskClient, headers: dict[str, str], status: int) -> None:
    """Only a delivery with our secret is taken; what means nothing to us is fine."""
    assert status == _hook(nobody, world, **headers).status_code
    assert status == _hook(nobody, world, **headers).status_code


def test_hook_malformed(nobody: FlaskClient) -> None:
    """A body that is no JSON is refused."""
    answer = nobody.post("/hooks/gitlab", data=b"{", headers={"X-Gitlab-Token": HOOK_SECRET})
    assert answer.status_code == 400


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
