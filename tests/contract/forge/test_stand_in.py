"""What only the stand-in does: its control face, its faults, its memory across a crash, its command line.

Covered: two pushes at once, request counts, pausing the runner, each of the first seven faults, an unknown fault,
kill and restart, seeds, settable token life, picking a person. Left out: the later faults (`test_disturbances`).
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
import requests

from spawner.testing.gitlab import StandIn, StandInError
from tests.installation import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spawner.testing.gitlab import ProjectHandle, UserHandle

QUICK = {".gitlab-ci.yml": "image_build: {script: ['true']}\n"}


@pytest.fixture
def owner(stand_in: StandIn) -> UserHandle:
    """A new person."""
    return stand_in.add_user(f"fay-{time.time_ns():x}")


@pytest.fixture
def project(stand_in: StandIn, owner: UserHandle) -> Iterator[ProjectHandle]:
    """A new project, and no fault afterwards."""
    yield stand_in.add_project(f"{owner.username}/faulty", owner=owner)
    stand_in.clear_faults()
    stand_in.pause_runner(paused=False)


def _get(stand_in: StandIn, path: str, owner: UserHandle) -> requests.Response:
    headers = {"PRIVATE-TOKEN": owner.token}
    return requests.get(f"{stand_in.url}/api/v4{path}", headers=headers, timeout=20)


def test_requests_are_counted_by_route(stand_in: StandIn, owner: UserHandle, project: ProjectHandle) -> None:
    """Each call is counted under its method and route."""
    route = "GET /api/v4/projects/:id"
    before = stand_in.requests().get(route, 0)
    _get(stand_in, f"/projects/{project.id}", owner)
    _get(stand_in, f"/projects/{project.path.replace('/', '%2F')}", owner)
    assert stand_in.requests()[route] == before + 2


def test_paused_runner_gets_no_job(stand_in: StandIn, project: ProjectHandle) -> None:
    """A job stays pending while the runner is paused and runs afterwards."""
    stand_in.pause_runner()
    sha = stand_in.commit(project, QUICK)
    stand_in.wait_for_job(project, sha, "image_build", statuses=["pending"])
    asked = "POST /api/v4/jobs/request"
    before = stand_in.requests()[asked]

    def has_asked_twice() -> bool | None:
        stand_in.pause_runner()  # any change ends the request that is held open
        return stand_in.requests()[asked] >= before + 2 or None  # the first of them has been answered

    wait_for(has_asked_twice, seconds=30, what="a runner that asks for jobs")
    assert stand_in.wait_for_job(project, sha, "image_build", statuses=["pending"])["started_at"] is None
    stand_in.pause_runner(paused=False)
    assert stand_in.wait_for_job(project, sha, "image_build")["status"] == "success"


@pytest.mark.parametrize("status", ["preparing", "waiting_for_callback"])
def test_a_job_is_held_in_a_state_of_gitlabs_own(stand_in: StandIn, project: ProjectHandle, status: str) -> None:
    """A job that no runner has yet stays in such a state until it is let go; one that has ended is not held."""
    stand_in.pause_runner()
    sha = stand_in.commit(project, QUICK)
    job = stand_in.wait_for_job(project, sha, "image_build", statuses=["pending"])
    stand_in.hold_job(job["id"], status)
    stand_in.pause_runner(paused=False)
    other = stand_in.commit(project, {"b": "b"}, branch="other")
    assert stand_in.wait_for_job(project, other, "image_build")["status"] == "success"
    held = stand_in.wait_for_job(project, sha, "image_build", statuses=[status])
    assert (held["id"], held["pipeline"]["status"], held["started_at"]) == (job["id"], status, None)
    stand_in.hold_job(job["id"], "pending")
    assert stand_in.wait_for_job(project, sha, "image_build")["status"] == "success"
    with pytest.raises(StandInError, match="409"):
        stand_in.hold_job(job["id"], status)


def test_unknown_fault_is_refused_with_the_known_ones(stand_in: StandIn) -> None:
    """A fault that does not exist is 400 with the list of those that do."""
    with pytest.raises(StandInError, match=r"400: .*pipeline_late.*tag_deleted"):
        stand_in.arm("no_such_fault")


def test_faults_are_listed_and_cleared(stand_in: StandIn, project: ProjectHandle) -> None:
    """An armed fault is listed with what it was armed with, until it is cleared."""
    stand_in.arm("hook_lost", project=project.path, times=2)
    (row,) = stand_in.control("GET", "/faults")
    assert row == {"fault": "hook_lost", "project": project.path, "times": 2, "seconds": None, "used": 0}
    stand_in.clear_faults()
    assert stand_in.control("GET", "/faults") == []


def test_pipeline_late(stand_in: StandIn, owner: UserHandle, project: ProjectHandle) -> None:
    """The pipeline of a push appears only after the given time, and that once."""
    stand_in.arm("pipeline_late", project=project.path, times=1, seconds=1.5)
    began = time.monotonic()
    sha = stand_in.commit(project, QUICK)
    assert _get(stand_in, f"/projects/{project.id}/pipelines?sha={sha}", owner).json() == []
    stand_in.wait_for_pipeline(project, sha)
    assert time.monotonic() - began >= 1.5
    assert stand_in.control("GET", "/faults") == []


def test_job_stuck_pending(stand_in: StandIn, project: ProjectHandle) -> None:
    """One job is never given to a runner until the fault is cleared; others are."""
    stand_in.arm("job_stuck_pending", project=project.path, times=1)
    stuck = stand_in.commit(project, QUICK)
    stand_in.wait_for_job(project, stuck, "image_build", statuses=["pending"])
    free = stand_in.commit(project, {"b": "b"}, branch="other")
    assert stand_in.wait_for_job(project, free, "image_build")["status"] == "success"
    assert stand_in.wait_for_job(project, stuck, "image_build", statuses=["pending"])["started_at"] is None
    stand_in.clear_faults()
    assert stand_in.wait_for_job(project, stuck, "image_build")["status"] == "success"


_HELD = """#!/bin/sh
[ -e held ] && exit 0
touch held
until [ -e released ]; do sleep 0.05; done
"""


def test_of_two_pushes_at_once_each_has_its_own_pipelines(
    stand_in: StandIn, owner: UserHandle, project: ProjectHandle
) -> None:
    """A push that loses against another one to the same branch makes no pipeline of the other's commit."""
    commit = partial(stand_in.commit, project, message="[skip ci]")
    first = commit(QUICK)
    repository = stand_in.data / "repositories" / f"{project.id}.git"
    (repository / "hooks" / "pre-receive").write_text(_HELD)
    with ThreadPoolExecutor(1) as thread:
        loser = thread.submit(commit, {"a": "loses"}, parent=first)
        wait_for(lambda: (repository / "held").exists() or None, seconds=30, what="a push that is held")
        second = commit({"a": "wins"}, parent=first)
        (repository / "released").touch()
        with pytest.raises(StandInError):
            loser.result(timeout=30)
    third = commit({"a": "later"}, parent=second)
    stand_in.wait_for_pipeline(project, third)  # pushes are followed up in order
    rows = _get(stand_in, f"/projects/{project.id}/pipelines", owner).json()
    assert [row["sha"] for row in rows] == [third, second, first]


def test_hook_lost(stand_in: StandIn, project: ProjectHandle, owner: UserHandle) -> None:
    """A lost hook leaves no delivery; the next one does."""
    hook = stand_in.api("POST", f"/projects/{project.id}/hooks", user=owner, body={"url": "http://127.0.0.1:9/"})
    stand_in.arm("hook_lost", project=project.path, times=1)
    path = f"/projects/{project.id}/hooks/{hook['id']}/events"
    stand_in.commit(project, {"a": "a"})
    ends = time.monotonic() + 30
    while stand_in.control("GET", "/faults") and time.monotonic() < ends:
        time.sleep(0.05)
    sha = stand_in.commit(project, {"a": "b"})
    rows: list[dict[str, object]] = []
    while not rows and time.monotonic() < ends:
        rows = stand_in.api("GET", path, user=owner)
    assert [row["request_data"]["after"] for row in rows] == [sha]  # type: ignore[index]


def test_token_expired(stand_in: StandIn, owner: UserHandle, project: ProjectHandle) -> None:
    """A good token is refused as an expired one, as often as was asked for."""
    stand_in.arm("token_expired", times=1)
    answer = _get(stand_in, f"/projects/{project.id}", owner)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    assert "invalid_token" in answer.headers["WWW-Authenticate"]
    assert _get(stand_in, f"/projects/{project.id}", owner).status_code == 200


def test_bad_gateway_html(stand_in: StandIn, owner: UserHandle, project: ProjectHandle) -> None:
    """The proxy's page comes instead of JSON, for one project only."""
    stand_in.arm("bad_gateway_html", project=project.path, times=1)
    assert _get(stand_in, "/user", owner).status_code == 200
    answer = _get(stand_in, f"/projects/{project.id}", owner)
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (502, "text/html")
    assert _get(stand_in, f"/projects/{project.id}", owner).status_code == 200


def _manifest(stand_in: StandIn, owner: UserHandle, name: str, reference: str) -> int:
    answer = requests.get(
        f"{stand_in.url}/jwt/auth",
        params={"service": "container_registry", "scope": f"repository:{name}:pull,push"},
        auth=("oauth2", owner.token),
        timeout=20,
    )
    headers = {"Authorization": f"Bearer {answer.json()['token']}", "Accept": "*/*"}
    media = "application/vnd.oci.image.manifest.v1+json"
    base = f"{stand_in.registry_url}/v2/{name}"
    if reference == "push":
        empty = b"{}"
        mark = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        start = requests.post(f"{base}/blobs/uploads/", headers=headers, timeout=20).headers["Location"]
        where = start if start.startswith("http") else stand_in.registry_url + start
        requests.put(where, params={"digest": mark}, data=empty, headers=headers, timeout=20)
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": mark, "size": 2}
        manifest = {"schemaVersion": 2, "mediaType": media, "config": config, "layers": []}
        return requests.put(
            f"{base}/manifests/v1", json=manifest, headers=headers | {"Content-Type": media}, timeout=20
        ).status_code
    return requests.head(f"{base}/manifests/{reference}", headers=headers | {"Accept": media}, timeout=20).status_code


def test_image_missing_after_success(stand_in: StandIn, owner: UserHandle, project: ProjectHandle) -> None:
    """A manifest that is there is not found for a while."""
    assert _manifest(stand_in, owner, project.path, "push") == 201
    stand_in.arm("image_missing_after_success", project=project.path, times=2)
    seen = [_manifest(stand_in, owner, project.path, "v1") for _ in range(3)]
    assert seen == [404, 404, 200]


def test_tag_deleted(stand_in: StandIn, owner: UserHandle, project: ProjectHandle) -> None:
    """A tag is gone when it is looked for, in the registry and in REST."""
    _manifest(stand_in, owner, project.path, "push")
    stand_in.arm("tag_deleted", project=project.path, times=1)
    assert [_manifest(stand_in, owner, project.path, "v1") for _ in range(2)] == [404, 404]
    (row,) = stand_in.api("GET", f"/projects/{project.id}/registry/repositories?tags_count=true", user=owner)
    assert row["tags_count"] == 0


def test_a_groups_hook_hears_its_projects(tmp_path: Path) -> None:
    """With a paid edition a group's hook is told of every project below it; a free one has no such address."""
    body = {"url": "http://127.0.0.1:9/", "pipeline_events": True}
    with StandIn.start(data=tmp_path / "data", runner=False) as stand_in:
        group = stand_in.add_group("team", owner=stand_in.admin)
        with pytest.raises(StandInError, match="404 Not Found"):
            stand_in.api("GET", f"/groups/{group}/hooks")
    with StandIn.start(data=tmp_path / "data", runner=False, options=["--premium"]) as stand_in:
        ada = stand_in.add_user("ada")
        stand_in.add_group("team/sub", owner=stand_in.admin)
        stand_in.api("POST", f"/groups/{group}/members", body={"user_id": ada.id, "access_level": 40})
        with pytest.raises(StandInError, match="403"):
            stand_in.api("POST", f"/groups/{group}/hooks", user=ada, body=body)
        hook = stand_in.api("POST", f"/groups/{group}/hooks", body=body)
        below = stand_in.add_project("team/sub/demo", owner=ada)
        beside = stand_in.add_project("ada/demo", owner=ada)
        for project in (below, beside):
            stand_in.commit(project, QUICK)
            stand_in.wait_for_pipeline(project, stand_in.commit(project, {"b": "b"}))
        path = f"/groups/{group}/hooks/{hook['id']}/events"

        def look() -> set[int] | None:
            rows = stand_in.api("GET", f"{path}?per_page=100")
            heard = {row["request_data"]["project"]["id"] for row in rows}
            return heard if len(rows) > 1 else None

        assert wait_for(look, seconds=30, what="what the group's hook heard") == {below.id}
        assert stand_in.api("GET", f"/projects/{below.id}/hooks", user=ada) == []
        assert (hook["group_id"], stand_in.api("GET", f"/groups/{group}/hooks")[0]["id"]) == (group, hook["id"])


def test_killed_stand_in_goes_on(tmp_path: Path) -> None:
    """After a kill in the middle of a job, people, tokens, projects and pipelines are there, and the next job runs."""
    with StandIn.start(data=tmp_path / "data", options=["--abandoned-after", "2"]) as stand_in:
        ada = stand_in.add_user("ada")
        project = stand_in.add_project("ada/demo", owner=ada)
        slow = stand_in.commit(project, {".gitlab-ci.yml": "image_build: {script: [sleep 60]}\n"})
        running = stand_in.wait_for_job(project, slow, "image_build", statuses=["running"])
        stand_in.kill()
        stand_in.restart()
        assert _get(stand_in, "/user", ada).json()["username"] == "ada"
        lost = stand_in.wait_for_job(project, slow, "image_build", statuses=["failed"])
        assert (lost["id"], lost["failure_reason"]) == (running["id"], "stuck_or_timeout_failure")
        quick = stand_in.commit(project, QUICK)
        assert stand_in.wait_for_job(project, quick, "image_build")["status"] == "success"


def test_stuck_job_is_dropped(tmp_path: Path) -> None:
    """A job that no runner takes is dropped as stuck after the time that was set."""
    options = ["--stuck-after", "1"]
    with StandIn.start(data=tmp_path / "data", runner=False, options=options) as stand_in:
        ada = stand_in.add_user("ada")
        project = stand_in.add_project("ada/demo", owner=ada)
        sha = stand_in.commit(project, QUICK)
        dropped = stand_in.wait_for_job(project, sha, "image_build")
        assert (dropped["status"], dropped["failure_reason"]) == ("failed", "stuck_or_timeout_failure")


def test_push_survives_a_kill(tmp_path: Path) -> None:
    """A push whose pipeline was still to come when the stand-in was killed gets it afterwards, once."""
    with StandIn.start(data=tmp_path / "data") as stand_in:
        ada = stand_in.add_user("ada")
        project = stand_in.add_project("ada/demo", owner=ada)
        stand_in.arm("pipeline_late", seconds=2, times=1)
        sha = stand_in.commit(project, QUICK)
        stand_in.kill()
        stand_in.restart()
        assert stand_in.wait_for_job(project, sha, "image_build")["status"] == "success"
        assert len(_get(stand_in, f"/projects/{project.id}/pipelines", ada).json()) == 1


def test_seed_token_life_and_picking(tmp_path: Path) -> None:
    """A seed file makes people and projects; tokens live as long as asked; a person is picked by a click."""
    seed = tmp_path / "seed.json"
    token_file = tmp_path / "ada.token"
    document = {
        "users": [{"username": "ada", "token_file": str(token_file)}, {"username": "bob"}],
        "groups": [{"path": "team", "owner": "ada"}],
        "projects": [{"path": "team/demo", "owner": "ada", "members": {"bob": 20}}],
    }
    seed.write_text(json.dumps(document))
    options = ["--seed", str(seed), "--token-life", "2", "--pick-user"]
    with StandIn.start(data=tmp_path / "data", runner=False, options=options) as stand_in:
        ada = token_file.read_text().strip()
        assert token_file.stat().st_mode & 0o077 == 0
        members = requests.get(
            f"{stand_in.url}/api/v4/projects/team%2Fdemo/members/all", headers={"PRIVATE-TOKEN": ada}, timeout=20
        ).json()
        assert {row["username"]: row["access_level"] for row in members} == {"ada": 50, "bob": 20}
        back = "http://127.0.0.1:9/back"
        client_id, secret = stand_in.add_application(back, scopes=["read_api"], trusted=True)
        with requests.Session() as browser:
            page = browser.get(f"{stand_in.url}/users/sign_in", timeout=20).text
            mark = re.search(r'name="authenticity_token" value="([^"]*)"', page)
            assert mark
            form = {"authenticity_token": mark[1], "pick": "bob"}
            browser.post(f"{stand_in.url}/users/sign_in", data=form, timeout=20)
            query = {"client_id": client_id, "redirect_uri": back, "response_type": "code"}
            answer = browser.get(f"{stand_in.url}/oauth/authorize", params=query, timeout=20, allow_redirects=False)
        code = answer.headers["Location"].split("code=")[1]
        given = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "client_id": client_id,
            "client_secret": secret,
        }
        tokens = requests.post(f"{stand_in.url}/oauth/token", data=given, timeout=20).json()
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        user = f"{stand_in.url}/api/v4/user"
        assert requests.get(user, headers=headers, timeout=20).json()["username"] == "bob"
        ends = time.monotonic() + 30
        while requests.get(user, headers=headers, timeout=20).status_code == 200 and time.monotonic() < ends:
            time.sleep(0.1)
        expired = requests.get(user, headers=headers, timeout=20)
        assert (expired.status_code, expired.json()["error"]) == (401, "invalid_token")
