"""The compatible contract over HTTP, with real services, store and tasks behind it.

Covered: every row that is served, both prefixes, codes and messages, idempotence, paging, ETags, strangers.
Left out: streams, the relay, pages (files of their own); real GitLab (tests/functional/gitlab).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from spawner import metrics
from spawner.errors import RevisionNotFound, StoreUnavailable
from spawner.http import create_app
from spawner.names import ProjectPath, SessionName
from spawner.ports import AccessLevel, JobStatus, LogLine, MergeRequest, Visibility
from spawner.sessions.launching import Named
from spawner.sessions.model import NewEvent, Phase, Session, since_launch
from spawner.store.sessions import SessionRows
from tests.functional.api.conftest import client_of
from tests.functional.api.world import OLD_SHA, SHA, World

UNPROCESSABLE = "The request was well-formed but was unable to be followed due to semantic errors."
BODY = {"namespace": "Grp", "project": "PROJ", "commit_sha": SHA, "branch": "main"}


def launch(client: FlaskClient, **extra: Any) -> Any:
    """Launch a session and return its server object."""
    answer = client.post("/notebooks/servers", json={**BODY, **extra})
    assert answer.status_code in {200, 201}, answer.text
    return answer.json


def run(world: World, client: FlaskClient, **extra: Any) -> Any:
    """Launch a session and let it be ready."""
    world.add_image()
    name = launch(client, **extra)["name"]
    world.be_ready(SessionName(name))
    return world.until(lambda: _in_state(client, name, "running"))


def _in_state(client: FlaskClient, name: str, state: str) -> Any:
    body: Any = client.get(f"/notebooks/servers/{name}").json
    return body if body and body.get("status", {}).get("state") == state else None


@pytest.mark.parametrize("prefix", ["/notebooks", "/api/notebooks"])
def test_launch_is_idempotent(ada: FlaskClient, prefix: str) -> None:
    """The first POST creates, the second finds the same session, whatever its options."""
    first = ada.post(f"{prefix}/servers", json=BODY)
    second = ada.post(f"{prefix}/servers", json={**BODY, "resource_class_id": 2})
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json is not None
    assert second.json is not None
    assert first.json["name"] == second.json["name"]
    assert second.json["annotations"]["renku.io/resourceClassId"] == "1"


def test_launches_have_a_pace(world: World, ada: FlaskClient) -> None:
    """One launch too many within a minute is 429 with a sentence and a time; another person is let in."""
    options = replace(world.app.extensions["slipway"].options, launches_per_minute=2)
    client = create_app(world.services, options).test_client()

    def post(who: str) -> Any:
        return client.post("/notebooks/servers", json=BODY, headers={"Authorization": f"Bearer token-{who}"})

    assert [post("ada").status_code for _ in range(2)] == [201, 200]
    refused = post("ada")
    assert (refused.status_code, refused.json["error"]["code"]) == (429, 1429)
    assert "launched 2 times within a minute" in refused.json["error"]["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert post("bob").status_code == 404  # not Bob's project, and not Bob's pace
    assert ada.get("/notebooks/servers").status_code == 200


def test_name_vector(world: World) -> None:
    """The name of a session is the reference's, byte for byte."""
    world.add_person("a.b@c")
    project = world.add_project("grp2/proj", members={"a.b@c": AccessLevel.DEVELOPER})
    project.branches["master"] = SHA
    body = {"namespace": "grp2", "project": "proj", "commit_sha": SHA, "branch": "master"}
    answer = client_of(world, "a.b@c").post("/notebooks/servers", json=body)
    assert answer.json is not None
    assert answer.json["name"].startswith("a-2eb-40c-proj-")


def test_life(world: World, ada: FlaskClient) -> None:
    """A session is launched, runs, is stopped, and is then not there."""
    body = run(world, ada)
    assert body["slipway"]["image"]["source"] == "exact"
    name = body["name"]
    stopped = ada.delete(f"/notebooks/servers/{name}?force=true")
    assert (stopped.status_code, stopped.data) == (204, b"")
    world.until(lambda: ada.get(f"/notebooks/servers/{name}").status_code == 404)
    gone = ada.get(f"/api/notebooks/servers/{name}")
    assert gone.json == {"error": {"code": 1404, "message": f"The server {name} does not exist.", "detail": None}}
    assert ada.get("/notebooks/servers").json == {"servers": {}}


def test_launch_again(world: World, ada: FlaskClient) -> None:
    """A session that ended is launched again under its name: 201, next generation."""
    name = run(world, ada)["name"]
    ada.delete(f"/notebooks/servers/{name}")
    world.until(lambda: ada.get(f"/notebooks/servers/{name}").status_code == 404)
    answer = ada.post("/notebooks/servers", json=BODY)
    assert answer.json is not None
    assert (201, name, 2) == (answer.status_code, answer.json["name"], answer.json["slipway"]["generation"])


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"project": "nothing"}, 404, 1404),
        ({"commit_sha": "b" * 40}, 404, 1404),
        ({"branch": "nothing"}, 404, 1404),
        ({"commit_sha": SHA[:7]}, 422, 1000),
        ({"commit_sha": SHA.upper()}, 422, 1000),
        ({"image": "not an image"}, 422, 1002),
        ({"resource_class_id": 99}, 422, 1005),
        ({"storage": 500}, 422, 1005),
        ({"storage": 0}, 422, 1005),
        ({"serverOptions": {"cpu_request": 99}}, 422, 1005),
        ({"runtime": "nothing"}, 422, 1000),
        ({"build": "later"}, 422, 1422),
    ],
)
def test_refused(ada: FlaskClient, change: dict[str, Any], status: int, code: int) -> None:
    """What cannot be launched is refused with the contract's status and code, and nothing is made."""
    answer = ada.post("/notebooks/servers", json={**BODY, **change})
    assert answer.json is not None
    assert (status, code) == (answer.status_code, answer.json["error"]["code"])
    assert set(answer.json["error"]) == {"code", "message", "detail"}
    assert ada.get("/notebooks/servers").json == {"servers": {}}


def test_a_missing_project_is_named(ada: FlaskClient, bob: FlaskClient) -> None:
    """A project that is not there, or may not be seen, is told by the name it was given, and nothing else of it."""
    for client, path in ((ada, "grp/nothing"), (bob, "grp/proj")):
        namespace, _, project = path.partition("/")
        answer = client.post("/notebooks/servers", json={**BODY, "namespace": namespace, "project": project})
        assert answer.json is not None
        assert answer.json["error"]["message"].startswith(f"There is no project {path}, or you may not see it.")


@pytest.mark.parametrize(
    ("source", "named", "expected"),
    [
        ("topic", None, "topic"),
        ("topic", "topic", "topic"),
        ("topic", "nothing", None),
        ("main", None, "merge-request-7"),
        ("main", "merge-request-7", "merge-request-7"),
    ],
)
def test_a_merge_requests_commit(world: World, source: str, named: str | None, expected: str | None) -> None:
    """A commit that only an open merge request holds is launched on its source branch, never on one of the project."""
    world.forge.projects[42].merge_requests[OLD_SHA] = MergeRequest(number=7, source_branch=source)
    caller = world.services.users.bearer("token-ada", address="")
    named_place = Named(project=ProjectPath("grp/proj"), sha=OLD_SHA, branch=named)
    if expected is None:
        with pytest.raises(RevisionNotFound, match="branch nothing does not exist"):
            world.services.sessions.preview(caller, named_place)
    else:
        assert world.services.sessions.preview(caller, named_place).branch == expected


def test_validation(ada: FlaskClient) -> None:
    """A body that does not fit has the reference's own answer, whole."""
    answer = ada.post("/notebooks/servers", json={"namespace": "grp", "project": "proj"})
    detail = "Field 'commit_sha' has errors: Missing data for required field."
    assert (422, {"error": {"code": 1422, "message": UNPROCESSABLE, "detail": detail}}) == (
        answer.status_code,
        answer.json,
    )


def test_malformed(ada: FlaskClient) -> None:
    """A body that is not JSON is 400."""
    answer = ada.post("/notebooks/servers", data=b"{", content_type="application/json")
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (400, 1400)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/notebooks/servers"),
        ("POST", "/notebooks/servers"),
        ("GET", "/notebooks/servers/x"),
        ("PATCH", "/notebooks/servers/x"),
        ("DELETE", "/notebooks/servers/x"),
        ("GET", "/notebooks/servers/x/events"),
        ("POST", "/notebooks/servers/x/open"),
        ("GET", "/notebooks/logs/x"),
        ("GET", "/notebooks/images?image_url=x"),
        ("GET", "/notebooks/server_options"),
        ("GET", "/api/slipway/v1/events"),
        ("GET", "/api/slipway/v1/tokens"),
        ("POST", "/api/slipway/v1/agent/report"),
        ("GET", "/repos/api/v4/projects/grp%2Fproj"),
        ("GET", "/api/data/storage"),
    ],
)
@pytest.mark.parametrize("token", [None, "wrong"])
def test_not_signed_in(nobody: FlaskClient, method: str, path: str, token: str | None) -> None:
    """Nobody gets anything: 401, in JSON."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {"event": "ready"} if path.endswith("report") else {}
    answer = nobody.open(path, method=method, headers=headers, json=body)
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (401, 1401)


def test_stranger(world: World, ada: FlaskClient, bob: FlaskClient) -> None:
    """A stranger cannot tell a session from one that does not exist, by any method."""
    name = run(world, ada)["name"]
    for method, path in (
        ("GET", f"/notebooks/servers/{name}"),
        ("PATCH", f"/notebooks/servers/{name}"),
        ("DELETE", f"/notebooks/servers/{name}"),
        ("POST", f"/notebooks/servers/{name}/open"),
        ("GET", f"/notebooks/servers/{name}/events"),
        ("GET", f"/notebooks/logs/{name}"),
    ):
        theirs = bob.open(path, method=method, json={})
        nothing = bob.open(path.replace(name, "nothing"), method=method, json={})
        assert theirs.status_code == 404, (method, path)
        assert (nothing.status_code, nothing.text.replace("nothing", name)) == (404, theirs.text)
    assert bob.get("/notebooks/servers").json == {"servers": {}}
    assert _in_state(ada, name, "running")


@pytest.mark.parametrize(("who", "count"), [("ada", 1), ("bob", 2)])
def test_a_runtime_that_separates_nothing_warns(world: World, who: str, count: int) -> None:
    """The runtime's warning is shown at launch, and a second one before a project the person is no member of."""
    world.add_project("grp/open", members={"ada": AccessLevel.DEVELOPER}, visibility=Visibility.PUBLIC)
    world.runtime.warnings = ("Launch only code you trust as yourself.",)
    shown = launch(client_of(world, who), project="open")["status"]["warnings"]
    assert [each["message"] for each in shown] == [
        "Launch only code you trust as yourself.",
        "You are no member of grp/open: its code will run with everything this account may do.",
    ][:count]


def test_private_project(bob: FlaskClient) -> None:
    """Somebody else's private project does not exist."""
    answer = bob.post("/notebooks/servers", json=BODY)
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (404, 1404)


def test_administrator(world: World, ada: FlaskClient) -> None:
    """An administrator sees and stops a session, and cannot open it."""
    name = run(world, ada)["name"]
    root = client_of(world, "root")
    assert root.get(f"/notebooks/servers/{name}").status_code == 200
    assert root.post(f"/notebooks/servers/{name}/open").status_code == 404
    assert root.delete(f"/notebooks/servers/{name}").status_code == 204


def test_filters(ada: FlaskClient) -> None:
    """The list filters exactly, namespace and project without case; unknown filters are ignored."""
    name = launch(ada)["name"]
    other = launch(ada, commit_sha=OLD_SHA)["name"]
    for query, expected in (
        ("", {name, other}),
        ("namespace=GRP&project=Proj", {name, other}),
        ("namespace=grp&project=nothing", set()),
        ("branch=main", {name, other}),
        ("branch=Main", set()),
        (f"commit_sha={SHA}", {name}),
        ("colour=red", {name, other}),
        ("per_page=1", {other}),
        ("page=2&per_page=1", {name}),
        ("page=3&per_page=1", set()),
    ):
        answer = ada.get(f"/notebooks/servers?{query}").json
        assert answer is not None
        assert expected == set(answer["servers"]), query


def test_etag(world: World, ada: FlaskClient) -> None:
    """A list that has not changed is not sent again."""
    run(world, ada)

    def settled() -> str | None:
        etag = ada.get("/notebooks/servers").headers["ETag"]
        again = ada.get("/notebooks/servers", headers={"If-None-Match": etag})
        return etag if (again.status_code, again.data) == (304, b"") else None

    etag = world.until(settled)  # the tasks save a last time after ready
    launch(ada, commit_sha=OLD_SHA)
    assert ada.get("/notebooks/servers", headers={"If-None-Match": etag}).status_code == 200


def test_patch_hibernated(world: World, ada: FlaskClient) -> None:
    """Hibernation is not to be had: the contract's code for it."""
    name = run(world, ada)["name"]
    answer = ada.patch(f"/notebooks/servers/{name}", json={"state": "hibernated"})
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (500, 3006)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 200),
        ({"state": "running"}, 200),
        ({"colour": "red"}, 200),
        ({"state": "asleep"}, 422),
        ({"resource_class_id": 0}, 422),
        ({"resource_class_id": 2}, 422),
        ({"start": "now"}, 409),
        ({"image": "built"}, 409),
    ],
)
def test_patch(world: World, ada: FlaskClient, body: dict[str, Any], status: int) -> None:
    """PATCH answers 200 with the session, 422 for what it cannot take, 409 at the wrong time."""
    name = run(world, ada)["name"]
    answer = ada.patch(f"/notebooks/servers/{name}", json=body)
    assert status == answer.status_code
    if status == 200:
        assert answer.json is not None
        assert answer.json["name"] == name


def test_patch_204(world: World, ada: FlaskClient) -> None:
    """Where the settings say so, PATCH answers 204, as Renku's own command line wants it."""
    name = run(world, ada)["name"]
    options = replace(world.app.extensions["slipway"].options, patch_status=204)
    client = create_app(world.services, options).test_client()
    answer = client.patch(
        f"/notebooks/servers/{name}", json={"state": "running"}, headers={"Authorization": "Bearer token-ada"}
    )
    assert (answer.status_code, answer.data) == (204, b"")


def test_patch_missing(ada: FlaskClient) -> None:
    """PATCH of a session that does not exist is 404, where the reference broke."""
    assert ada.patch("/notebooks/servers/nothing", json={"state": "running"}).status_code == 404


def test_start_now(world: World, ada: FlaskClient) -> None:
    """A person who will not wait gets the best there is, flagged."""
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.RUNNING)
    name = launch(ada)["name"]
    waiting = world.until(lambda: _waiting(ada, name))
    assert waiting["slipway"]["build"]["job_id"] == 900
    assert waiting["status"]["details"][1] == {"step": "Downloading server image", "status": "executing"}
    assert ada.patch(f"/notebooks/servers/{name}", json={"start": "now"}).status_code == 200
    world.be_ready(SessionName(name))
    body = world.until(lambda: _in_state(ada, name, "running"))
    assert body["slipway"]["image"]["source"] == "default"
    assert body["annotations"]["renku.io/default_image_used"] == "True"
    assert {"message": "Server was started using the default image.", "critical": False} in body["status"]["warnings"]


@pytest.mark.parametrize("is_pushed", [False, True], ids=["nothing pushed", "pushed"])
def test_a_built_image(world: World, ada: FlaskClient, *, is_pushed: bool) -> None:
    """A built image is offered when it is there: a job that ended well and pushed nothing is none."""
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.RUNNING)
    name = SessionName(launch(ada)["name"])
    world.until(lambda: _waiting(ada, name))
    ada.patch(f"/notebooks/servers/{name}", json={"start": "now"})
    world.be_ready(name)
    world.until(lambda: _in_state(ada, name, "running"))
    if is_pushed:
        world.add_image()
    world.add_job(project, JobStatus.SUCCESS)
    session = world.rows.get(name)
    assert session is not None
    world.services.images.hint("default", 42, SHA)
    world.until(lambda: _job_status(ada, name) == "success")
    answer = ada.patch(f"/notebooks/servers/{name}", json={"image": "built"})
    assert answer.status_code == (200 if is_pushed else 409)


def _job_status(client: FlaskClient, name: str) -> Any:
    body: Any = client.get(f"/notebooks/servers/{name}").json
    return body["slipway"]["build"]["status"]


def _waiting(client: FlaskClient, name: str) -> Any:
    body: Any = client.get(f"/notebooks/servers/{name}").json
    return body if body["slipway"]["phase"] == "WAITING" and body["slipway"]["build"] else None


@pytest.mark.parametrize("query", ["forced=perhaps", "force=perhaps"])
def test_stop_validation(ada: FlaskClient, query: str) -> None:
    """A flag that is no boolean is refused, without detail."""
    answer = ada.delete(f"/notebooks/servers/x?{query}")
    assert (
        answer.status_code,
        answer.json,
    ) == (422, {"error": {"code": 1422, "message": UNPROCESSABLE, "detail": None}})


def test_open(world: World, ada: FlaskClient) -> None:
    """A program opens a running session by a URL that needs no name resolution and holds a code and no token."""
    name = run(world, ada)["name"]
    answer = ada.post(f"/notebooks/servers/{name}/open")
    assert answer.status_code == 201
    assert answer.json is not None
    assert set(answer.json) == {"url", "expires_at"}
    assert answer.json["url"].startswith("http://127.0.0.1:4567/slipway/open?code=")
    assert "token-ada" not in answer.text


def test_open_too_early(ada: FlaskClient) -> None:
    """A session that does not run yet cannot be opened."""
    name = launch(ada)["name"]
    answer = ada.post(f"/notebooks/servers/{name}/open")
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (409, 3409)


def test_logs(world: World, ada: FlaskClient) -> None:
    """Logs are texts by container, the last lines of each."""
    world.runtime.lines = [LogLine(container="jupyter-server", text=text) for text in ("one", "two", "three")]
    name = run(world, ada)["name"]
    assert ada.get(f"/notebooks/logs/{name}?max_lines=2").json == {"jupyter-server": "two\nthree\n"}
    assert ada.get(f"/notebooks/logs/{name}?max_lines=0").json == {}
    assert ada.get(f"/notebooks/logs/{name}?max_lines=-1").status_code == 422
    assert ada.get("/notebooks/logs/nothing").status_code == 404


def test_images(world: World, ada: FlaskClient) -> None:
    """An image is there or not, without a body; a name that does not parse is told."""
    world.registry.put("registry.test/other/image:1", {"io.slipway.kind": "environment"})
    there = ada.get("/notebooks/images?image_url=registry.test/other/image:1")
    absent = ada.get("/notebooks/images?image_url=registry.test/other/image:2")
    bad = ada.get("/notebooks/images?image_url=not an image")
    missing = ada.get("/notebooks/images")
    assert (there.status_code, there.data, absent.status_code, absent.data) == (200, b"", 404, b"")
    assert bad.json is not None
    assert (bad.status_code, bad.json["error"]["code"], missing.status_code) == (422, 1002, 422)


def test_options(ada: FlaskClient) -> None:
    """The options of a launch are the contract's."""
    assert ada.get("/notebooks/server_options").json == {
        "defaultUrl": {
            "order": 1,
            "displayName": "Default Environment",
            "type": "enum",
            "default": "/lab",
            "options": ["/lab", "/tree"],
        },
        "lfs_auto_fetch": {
            "order": 6,
            "displayName": "Automatically fetch LFS data",
            "type": "boolean",
            "default": False,
        },
        "cloudstorage": {"enabled": False},
    }


def test_version(nobody: FlaskClient) -> None:
    """The version needs no sign-in."""
    answer = nobody.get("/api/notebooks/version").json
    assert answer is not None
    assert (answer["name"], len(answer["versions"])) == ("renku-notebooks", 1)


def test_health(nobody: FlaskClient) -> None:
    """The health of the service stands outside every prefix."""
    answer = nobody.get("/health")
    assert (answer.status_code, answer.text) == (200, "service running under /notebooks")
    assert tuple(nobody.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")) == (200, 200, 404)


def test_double_slash(ada: FlaskClient) -> None:
    """A doubled slash is redirected, as the reference's clients expect."""
    name = launch(ada)["name"]
    answer = ada.get(f"/notebooks/servers//{name}")
    assert answer.status_code == 308
    assert answer.headers["Location"].endswith(f"/notebooks/servers/{name}")
    assert ada.get(f"/notebooks/servers//{name}", follow_redirects=True).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/notebooks/v2/servers"),
        ("GET", "/notebooks/grp%2Fproj/autosave"),
        ("DELETE", "/notebooks/grp%2Fproj/autosave/x"),
        ("POST", f"/notebooks/grp/proj/{SHA}"),
    ],
)
def test_rows_not_served(ada: FlaskClient, method: str, path: str) -> None:
    """Rows 4, 11, 12 and the dialect of 0.x are not served."""
    answer = ada.open(path, method=method)
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (404, 1404)


def test_renku_side(world: World, ada: FlaskClient, bob: FlaskClient) -> None:
    """What the published client asks beside the contract is answered, with the person's own rights."""
    assert ada.get("/api/data/storage?project_id=42").json == []
    answer = ada.get("/repos/api/v4/projects/grp%2Fproj").json
    assert answer is not None
    assert (answer["id"], answer["path_with_namespace"]) == (42, "grp/proj")
    assert bob.get("/repos/api/v4/projects/grp%2Fproj").status_code == 404
    world.add_project("open/proj", members={}, visibility=Visibility.PUBLIC)
    assert bob.get("/repos/api/v4/projects/open%2Fproj").status_code == 200
    pools = ada.get("/api/data/resource_pools").json
    assert pools is not None
    assert [each["id"] for each in pools[0]["classes"]] == [1, 2, 3]


def test_forge_down(world: World, ada: FlaskClient) -> None:
    """A GitLab that cannot be asked is told as such, with when to try again; what is known is still shown."""
    name = launch(ada)["name"]
    world.forge.is_down = True
    answer = ada.post("/notebooks/servers", json={**BODY, "commit_sha": OLD_SHA})
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"], answer.headers["Retry-After"]) == (503, 3503, "5")
    assert ada.get(f"/notebooks/servers/{name}").status_code == 200
    assert ada.post("/notebooks/servers", json=BODY).status_code == 200


def test_large_body(ada: FlaskClient) -> None:
    """A body beyond the limit is refused, in JSON."""
    answer = ada.post("/notebooks/servers", data=b"[" + b"1," * (1 << 20), content_type="application/json")
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (413, 1413)


def test_metrics(world: World, ada: FlaskClient) -> None:
    """Requests are counted by their rule, so that no session's name becomes a label."""
    name = launch(ada)["name"]
    ada.get(f"/notebooks/servers/{name}")
    options = replace(world.app.extensions["slipway"].options, metrics=metrics.exposition)
    text = create_app(world.services, options).test_client().get("/metrics").text
    assert 'slipway_request_seconds_count{method="GET",route="/notebooks/servers/<name>",status="200"}' in text
    assert name not in text


def test_not_ready(world: World) -> None:
    """A part that does not answer is named, with its sentence, and makes the process not ready."""

    def broken() -> None:
        raise StoreUnavailable("The database is away.")

    options = replace(world.app.extensions["slipway"].options, readiness={"database": broken, "redis": lambda: None})
    answer = create_app(world.services, options).test_client().get("/readyz")
    expected = {"ready": False, "parts": {"database": "The database is away.", "redis": "ok"}}
    assert (answer.status_code, answer.json) == (503, expected)


@pytest.mark.parametrize("is_again", [False, True], ids=["first", "again"])
def test_a_launch_may_be_looked_at_the_moment_it_is_there(
    world: World, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch, *, is_again: bool
) -> None:
    """The sweep may take a row before its request has been answered: it finds the bearer there."""
    world.add_image()
    if is_again:
        name = SessionName(ada.post("/notebooks/servers", json=BODY).json["name"])  # type: ignore[index]
        ada.delete(f"/notebooks/servers/{name}")
        world.until(lambda: (row := world.rows.get(name)) and row.phase is Phase.GONE and row.due_at is None)
        world.settle(name)
    add, relaunch = SessionRows.add, SessionRows.relaunch

    def added(rows: SessionRows, session: Session, events: Sequence[NewEvent]) -> tuple[Session, bool]:
        kept, is_new = add(rows, session, events)
        world.services.sessions.reconcile(kept.name)
        return kept, is_new

    def relaunched(rows: SessionRows, session: Session, events: Sequence[NewEvent]) -> Session | None:
        saved = relaunch(rows, session, events)
        world.services.sessions.reconcile(session.name)
        return saved

    monkeypatch.setattr(SessionRows, "add", added)
    monkeypatch.setattr(SessionRows, "relaunch", relaunched)
    made = SessionName(ada.post("/notebooks/servers", json=BODY).json["name"])  # type: ignore[index]
    phases = [event.phase for event in since_launch(world.rows.events(made, after=0))]
    assert Phase.STARTING in phases
    assert Phase.WAITING not in phases
