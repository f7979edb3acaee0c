"""GitLab's hooks over HTTP: what proves one, what a repeat and a replay do, and that nothing of ours makes one fail.

Covered: both kinds of secret and their exchange, the hint, repeats, replays, bodies, a database that is away, time.
Left out: what each payload means (tests/unit/gitlab), deliveries in the database (tests/contract/store).
"""

import base64
import hashlib
import hmac
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from werkzeug.test import TestResponse

from spawner import metrics
from spawner.errors import StoreUnavailable
from spawner.http import create_app
from spawner.names import SessionName
from spawner.ports import JobStatus
from tests.functional.api.test_servers import launch
from tests.functional.api.world import HOOK_SECRET, SHA, SIGNING_KEY, World

PAYLOAD = json.dumps(
    {
        "object_kind": "build",
        "sha": SHA,
        "project_id": 42,
        "pipeline_id": 800,
        "build_id": 900,
        "build_name": "image_build",
        "build_status": "success",
    }
).encode()
PLAIN = {"X-Gitlab-Event": "Job Hook", "X-Gitlab-Token": HOOK_SECRET}


def send(client: FlaskClient, headers: dict[str, str], body: bytes = PAYLOAD) -> TestResponse:
    return client.post("/hooks/gitlab", data=body, content_type="application/json", headers=headers)


def signed(name: str, *, body: bytes = PAYLOAD, age_seconds: int = 0, key: str = SIGNING_KEY) -> dict[str, str]:
    """Return the headers of a signed delivery, as Standard Webhooks has it."""
    stamp = str(int(datetime.now(UTC).timestamp()) - age_seconds)
    secret = base64.b64decode(key.removeprefix("whsec_"))
    mac = base64.b64encode(hmac.digest(secret, f"{name}.{stamp}.".encode() + body, hashlib.sha256)).decode()
    return {
        "X-Gitlab-Event": "Job Hook",
        "webhook-id": name,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{mac}",
    }


@pytest.fixture
def hints(world: World, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What hooks hinted at."""
    found: list[tuple[int, str]] = []
    monkeypatch.setattr(world.services.images, "hint", lambda _, project, sha: found.append((project, sha)))
    return found


def counted(registry: CollectorRegistry = metrics.REGISTRY) -> dict[str, float]:
    """Return how many deliveries had each outcome."""
    outcomes = ("taken", "ignored", "repeated", "lost", "refused")
    return {name: registry.get_sample_value("slipway_hooks_total", {"outcome": name}) or 0 for name in outcomes}


def test_a_hook_hints(world: World, ada: FlaskClient, nobody: FlaskClient) -> None:
    """A hook makes the waiting session start at once, long before the next poll."""
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.RUNNING)
    name = launch(ada)["name"]
    world.until(lambda: ada.get(f"/notebooks/servers/{name}").json["slipway"]["build"])  # type: ignore[index]
    world.add_job(project, JobStatus.SUCCESS)
    world.add_image()
    assert (send(nobody, PLAIN).status_code, b"") == (204, b"")
    world.be_ready(SessionName(name))
    body = world.until(lambda: _running(ada, name))
    assert body["slipway"]["image"]["source"] == "built"


def _running(client: FlaskClient, name: str) -> Any:
    body: Any = client.get(f"/notebooks/servers/{name}").json
    return body if body["status"]["state"] == "running" else None


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (lambda: PLAIN, "taken"),
        (lambda: {**PLAIN, "X-Gitlab-Event": "Issue Hook"}, "ignored"),
        (lambda: {**PLAIN, "Idempotency-Key": "12345678-abcd"}, "taken"),
        (lambda: {**PLAIN, "X-Gitlab-Token": "wrong"}, "refused"),
        (lambda: {**PLAIN, "X-Gitlab-Token": ""}, "refused"),
        (lambda: {"X-Gitlab-Event": "Job Hook"}, "refused"),
        (lambda: signed("12345678"), "taken"),
        (lambda: signed("12345678", age_seconds=290), "taken"),
        (lambda: signed("12345678", age_seconds=310), "refused"),
        (lambda: signed("12345678", age_seconds=-310), "refused"),
        (lambda: signed("12345678", body=b"{}"), "refused"),
        (lambda: signed("12345678", key="whsec_" + base64.b64encode(b"k" * 32).decode()), "refused"),
        (lambda: {**signed("12345678", body=b"{}"), **PLAIN}, "refused"),
        (lambda: {**signed("12345678"), "webhook-id": "87654321"}, "refused"),
    ],
)
def test_what_proves_a_hook(
    nobody: FlaskClient, hints: list[tuple[int, str]], made: Callable[[], dict[str, str]], outcome: str
) -> None:
    """A token or a signature of ours, within five minutes; a wrong signature is not mended by a right token.

    The headers are made when they are sent: a suite may have begun long before.
    """
    before = counted()
    assert send(nobody, made()).status_code == (403 if outcome == "refused" else 204)
    after = counted()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {outcome: 1}
    assert hints == ([(42, SHA)] if outcome == "taken" else [])


def test_each_of_several_secrets_proves_a_hook(world: World, hints: list[tuple[int, str]]) -> None:
    """While a secret is exchanged for another, both count; an installation without any takes none."""
    options = world.app.extensions["slipway"].options
    both = create_app(world.services, replace(options, hook_secrets=("new-secret", "old-secret"))).test_client()
    for number, secret in enumerate(("new-secret", "old-secret")):
        headers = {**PLAIN, "X-Gitlab-Token": secret, "Idempotency-Key": f"delivery-{number}"}
        assert send(both, headers).status_code == 204
    assert len(hints) == 2
    none = create_app(world.services, replace(options, hook_secrets=())).test_client()
    assert send(none, {**PLAIN, "X-Gitlab-Token": ""}).status_code == 403


def test_repeats_and_replays_do_nothing(nobody: FlaskClient, hints: list[tuple[int, str]]) -> None:
    """GitLab's own repeat, a replay under another key, and the same body without any key: once each."""
    for key in ("one-delivery", "one-delivery"):
        assert send(nobody, {**PLAIN, "Idempotency-Key": key}).status_code == 204
    delivery = signed("another-delivery")
    for more in ({}, {}, {"Idempotency-Key": "made-up-by-a-thief"}):
        assert send(nobody, {**delivery, **more}).status_code == 204
    for _ in range(2):
        assert send(nobody, PLAIN).status_code == 204
    assert len(hints) == 3


def test_a_strangers_body_is_not_read(nobody: FlaskClient) -> None:
    """Who proves nothing is refused before a byte of 20 MB is taken."""
    body = io.BytesIO(b"x" * 1000)
    answer = nobody.post(
        "/hooks/gitlab", input_stream=body, content_length=20_000_000, headers={"X-Gitlab-Token": "wrong"}
    )
    assert (answer.status_code, body.tell()) == (403, 0)


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff\xfe"])
def test_a_body_that_is_no_json(nobody: FlaskClient, body: bytes) -> None:
    """A body that is no JSON is refused."""
    assert send(nobody, PLAIN, body).status_code == 400


def test_a_database_that_is_away_switches_no_hook_off(
    world: World, nobody: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four failures make GitLab switch a hook off: it hears that all is well, the operator that one is lost."""

    def away(*_: object) -> None:
        raise StoreUnavailable("The database cannot be asked.")

    monkeypatch.setattr(world.services.images, "hint", away)
    before = counted()["lost"]
    assert send(nobody, PLAIN).status_code == 204
    assert counted()["lost"] - before == 1


def test_a_hook_waits_for_nobody(
    world: World, ada: FlaskClient, nobody: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GitLab that takes its time, a hook is answered at once: the work comes later, elsewhere."""
    world.add_job(world.forge.projects[42], JobStatus.RUNNING)
    name = launch(ada)["name"]
    world.until(lambda: ada.get(f"/notebooks/servers/{name}").json["slipway"]["build"])  # type: ignore[index]
    monkeypatch.setattr(world.forge, "_who", lambda _: time.sleep(3))
    began = time.monotonic()
    for number in range(10):
        assert send(nobody, {**PLAIN, "Idempotency-Key": f"delivery-{number}"}).status_code == 204
    assert time.monotonic() - began < 2
