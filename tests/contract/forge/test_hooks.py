"""Project hooks: what arrives at a receiver for a push, a tag, a job and a pipeline, and what is kept of it.

Covered: create, read, change, delete; headers, secret token, signature; payloads; deliveries, resend, test,
auto-disable. Left out: lost hooks (`test_stand_in`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from gitlab.exceptions import GitlabCreateError, GitlabListError

from tests.installation import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spawner.testing.gitlab import ProjectHandle
    from tests.contract.forge.conftest import Cast

_WAIT_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One request that arrived."""

    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        found: dict[str, Any] = json.loads(self.raw)
        return found


@dataclass(slots=True, kw_only=True)
class Receiver:
    """A server that keeps what it is sent; `status` is what it answers."""

    url: str
    events: queue.Queue[Event] = field(default_factory=queue.Queue)
    status: int = 200
    passed_over: list[Event] = field(default_factory=list)

    def next(self, wanted: str, **matching: object) -> Event:
        """Return an event of a kind whose body has the given values, and keep the others."""
        while True:
            for event in self.passed_over:
                if event.headers["X-Gitlab-Event"] == wanted and all(
                    event.body.get(key) == value for key, value in matching.items()
                ):
                    self.passed_over.remove(event)
                    return event
            self.passed_over.append(self.events.get(timeout=_WAIT_SECONDS))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A hook receiver on a free port."""
    kept = Receiver(url="")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            kept.events.put(Event(headers=dict(self.headers.items()), raw=raw))
            self.send_response(kept.status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield kept
        server.shutdown()
        thread.join()


@pytest.fixture
def project(cast: Cast) -> ProjectHandle:
    """A new project."""
    return cast.forge.add_project(cast.path("hooked"), owner=cast.owner)


def test_hooks_are_kept(cast: Cast, project: ProjectHandle) -> None:
    """A hook is made, changed and removed; its secrets are never shown."""
    hooks = cast.client().projects.get(project.id).hooks
    made = hooks.create({"url": "http://127.0.0.1:9/x", "token": "s3cret", "job_events": True})
    assert (made.push_events, made.job_events, made.pipeline_events) == (True, True, False)
    assert (made.token_present, made.alert_status) == (True, "executable")
    assert "s3cret" not in made.to_json()
    hooks.update(made.id, {"url": "http://127.0.0.1:9/y", "push_events": False})
    changed = hooks.get(made.id)
    assert (changed.url, changed.push_events, changed.job_events) == ("http://127.0.0.1:9/y", False, True)
    hooks.delete(made.id)
    assert hooks.list(get_all=True) == []


def test_a_wrong_address_is_refused(cast: Cast, project: ProjectHandle) -> None:
    """An address that is no URL is 422."""
    with pytest.raises(GitlabCreateError) as caught:
        cast.client().projects.get(project.id).hooks.create({"url": "not a url"})
    assert caught.value.response_code == 422


def test_hooks_need_a_maintainer(cast: Cast, project: ProjectHandle) -> None:
    """A developer may not list hooks."""
    cast.forge.add_member(project, cast.stranger, 30)
    with pytest.raises(GitlabListError) as caught:
        cast.client(cast.stranger).projects.get(project.id).hooks.list(get_all=True)
    assert caught.value.response_code == 403


def test_push_hook(cast: Cast, project: ProjectHandle, receiver: Receiver) -> None:
    """A push tells what changed, with the secret and ids in the headers."""
    cast.client().projects.get(project.id).hooks.create({"url": receiver.url, "token": "s3cret"})
    sha = cast.forge.commit(project, {"a.txt": "a"}, "Push.")
    event = receiver.next("Push Hook", after=sha)
    assert event.headers["X-Gitlab-Token"] == "s3cret"
    assert event.headers["User-Agent"].startswith("GitLab/")
    assert event.headers["X-Gitlab-Instance"] == cast.forge.url
    assert {"Idempotency-Key", "X-Gitlab-Event-UUID", "X-Gitlab-Webhook-UUID"} <= set(event.headers)
    body = event.body
    assert (body["object_kind"], body["ref"], body["before"], body["checkout_sha"]) == (
        "push",
        "refs/heads/main",
        "0" * 40,
        sha,
    )
    assert (body["project_id"], body["user_username"]) == (project.id, cast.owner.username)
    assert body["project"]["path_with_namespace"] == project.path
    assert [(row["id"], row["title"], row["added"]) for row in body["commits"]] == [(sha, "Push.", ["a.txt"])]


def test_tag_push_hook(cast: Cast, project: ProjectHandle, receiver: Receiver) -> None:
    """A pushed tag is told by a hook of its own."""
    sha = cast.forge.commit(project, {"a.txt": "a"}, "Tag me.")
    hook = {"url": receiver.url, "push_events": False, "tag_push_events": True}
    cast.client().projects.get(project.id).hooks.create(hook)
    cast.forge.tag(project, "v2", sha)
    body = receiver.next("Tag Push Hook").body
    assert (body["object_kind"], body["ref"], body["checkout_sha"]) == ("tag_push", "refs/tags/v2", sha)


def test_job_and_pipeline_hooks(cast: Cast, project: ProjectHandle, receiver: Receiver) -> None:
    """Every step of a job and a pipeline is told; a job hook's `commit.id` is the pipeline's."""
    hook = {"url": receiver.url, "push_events": False, "job_events": True, "pipeline_events": True}
    cast.client().projects.get(project.id).hooks.create(hook)
    sha = cast.forge.commit(project, {".gitlab-ci.yml": "image_build: {script: ['true']}\n"}, "Build.")
    job = cast.forge.wait_for_job(project, sha, "image_build")
    seen: set[str] = set()
    while "success" not in seen:
        body = receiver.next("Job Hook", sha=sha).body
        assert (body["object_kind"], body["build_id"], body["build_name"]) == ("build", job["id"], "image_build")
        assert (body["project_id"], body["commit"]["id"]) == (project.id, body["pipeline_id"])
        seen.add(body["build_status"])
    assert seen <= {"created", "pending", "running", "success"}
    done = receiver.next("Pipeline Hook").body
    while done["object_attributes"]["status"] != "success":
        done = receiver.next("Pipeline Hook").body
    assert done["object_attributes"]["sha"] == sha
    assert done["object_attributes"]["detailed_status"] == "passed"
    assert [(row["name"], row["status"]) for row in done["builds"]] == [("image_build", "success")]


def test_deliveries_are_kept_and_resent(cast: Cast, project: ProjectHandle, receiver: Receiver) -> None:
    """What was sent is listed; a resend carries the same idempotency key."""
    hook = cast.client().projects.get(project.id).hooks.create({"url": receiver.url})
    sha = cast.forge.commit(project, {"a.txt": "a"}, "Deliver.")
    first = receiver.next("Push Hook", after=sha)
    path = f"/projects/{project.id}/hooks/{hook.id}/events"
    ends = time.monotonic() + 10  # the answer is written down after the receiver has given it
    while not (rows := cast.forge.api("GET", path, user=cast.owner)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert [(row["trigger"], row["response_status"]) for row in rows] == [("push_hooks", "200")]
    assert rows[0]["request_data"]["after"] == sha
    cast.forge.api("POST", f"{path}/{rows[0]['id']}/resend", user=cast.owner)
    again = receiver.next("Push Hook", after=sha)
    assert again.headers["Idempotency-Key"] == first.headers["Idempotency-Key"]


def test_signature(cast: Cast, project: ProjectHandle, receiver: Receiver) -> None:
    """With a signing token each request is signed as Standard Webhooks has it."""
    key = b"k" * 32
    secret = "whsec_" + base64.b64encode(key).decode()
    hook = {"url": receiver.url, "signing_token": secret}
    cast.forge.api("POST", f"/projects/{project.id}/hooks", user=cast.owner, body=hook)
    sha = cast.forge.commit(project, {"a.txt": "a"}, "Sign.")
    event = receiver.next("Push Hook", after=sha)
    signed = f"{event.headers['webhook-id']}.{event.headers['webhook-timestamp']}.".encode() + event.raw
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert event.headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("key", ["s3cret", "whsec_c2hvcnQ=", "whsec_!"])
def test_a_key_that_cannot_sign_is_refused(cast: Cast, project: ProjectHandle, key: str) -> None:
    """A signing token is 32 bytes in base64 behind its prefix, or there is no hook."""
    with pytest.raises(GitlabCreateError) as caught:
        cast.client().projects.get(project.id).hooks.create({"url": "http://127.0.0.1:9/", "signing_token": key})
    assert caught.value.response_code == 422


def test_a_resend_is_signed_anew(cast: Cast, project: ProjectHandle, receiver: Receiver) -> None:
    """The same event sent again has the same id, beside its token, and a signature of its own time."""
    hook = {"url": receiver.url, "token": "plain", "signing_token": "whsec_" + base64.b64encode(b"k" * 32).decode()}
    made = cast.forge.api("POST", f"/projects/{project.id}/hooks", user=cast.owner, body=hook)
    first = receiver.next("Push Hook", after=cast.forge.commit(project, {"a.txt": "a"}, "Sign."))
    path = f"/projects/{project.id}/hooks/{made['id']}/events"
    rows: list[dict[str, Any]] = wait_for(
        lambda: cast.forge.api("GET", path, user=cast.owner) or None, seconds=20, what="a delivery that is kept"
    )
    time.sleep(1.1)
    cast.forge.api("POST", f"{path}/{rows[0]['id']}/resend", user=cast.owner)
    again = receiver.next("Push Hook")
    same = ("webhook-id", "Idempotency-Key", "X-Gitlab-Token")
    assert [again.headers[name] for name in same] == [first.headers[name] for name in same]
    assert again.headers["webhook-signature"] != first.headers["webhook-signature"]
    assert int(again.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])


def test_failing_hook_rests_and_is_woken_by_a_test(cast: Cast, project: ProjectHandle, receiver: Receiver) -> None:
    """The fourth failure disables a hook for a while; a test that is answered with 2xx enables it."""
    found = cast.client().projects.get(project.id)
    hook = found.hooks.create({"url": receiver.url})
    cast.forge.commit(project, {"a.txt": "a"}, "Wake.")
    receiver.next("Push Hook")
    receiver.status = 500
    path = f"/projects/{project.id}/hooks/{hook.id}"
    for _ in range(4):
        with pytest.raises(Exception, match="422"):
            cast.forge.api("POST", f"{path}/test/push_events", user=cast.owner)
    assert found.hooks.get(hook.id).alert_status == "temporarily_disabled"
    receiver.status = 200
    cast.forge.api("POST", f"{path}/test/push_events", user=cast.owner)
    assert found.hooks.get(hook.id).alert_status == "executable"
