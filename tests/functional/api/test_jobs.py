"""A CI job that launches what it built, by a token that GitLab signed for it: in its project, and no further.

Covered: launching and looking; another project, by path and by name of a session; every other address; a stranger's
signature; a person who never signed in. Left out: what GitLab signs (tests/contract/forge_port/test_jobtokens.py).
"""

from typing import Any

import pytest
from flask.testing import FlaskClient

from spawner.ports import AccessLevel
from tests.functional.api.conftest import client_of
from tests.functional.api.test_pages import sign_in
from tests.functional.api.test_servers import BODY, launch
from tests.functional.api.world import World, WorldJobs

SERVERS = "/notebooks/servers"


@pytest.fixture
def job(world: World) -> FlaskClient:
    """A job of `grp/proj` that Ada started, who has signed in here."""
    sign_in(client_of(world, None), "ada")
    return client_with(world, WorldJobs().token(world.forge.people["token-ada"].id, 42))


def client_with(world: World, token: str) -> FlaskClient:
    client = client_of(world, None)
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return client


def test_a_job_launches_its_commit_and_looks(world: World, job: FlaskClient, ada: FlaskClient) -> None:
    """What a job launches is its person's session; the job may look at it and list those of its project."""
    world.add_project("grp/other", members={"ada": AccessLevel.DEVELOPER})
    elsewhere = launch(ada, project="other")["name"]
    name = launch(job)["name"]
    assert job.get(f"{SERVERS}/{name}").status_code == 200
    assert list(servers(job)) == [name]
    assert set(servers(ada)) == {name, elsewhere}
    assert job.get(f"{SERVERS}/{elsewhere}").status_code == 404
    assert job.get(f"{SERVERS}/{elsewhere}/events").status_code == 404


def servers(client: FlaskClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get(SERVERS).json["servers"]  # type: ignore[index]
    return found


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "running"])
def test_a_job_launches_nothing_elsewhere(world: World, job: FlaskClient, ada: FlaskClient, *, is_there: bool) -> None:
    """Another project of the same person's is refused, also where a session of it lives that a launch would find."""
    world.add_project("grp/other", members={"ada": AccessLevel.DEVELOPER})
    body = {**BODY, "project": "other"}
    if is_there:
        launch(ada, **body)
    answer = job.post(SERVERS, json=body)
    assert (answer.status_code, "own project" in answer.text) == (403, True)
    world.forge.is_down = True
    assert job.post(SERVERS, json=body).status_code in {403, 503}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"{SERVERS}/{{name}}"),
        ("PATCH", f"{SERVERS}/{{name}}"),
        ("POST", f"{SERVERS}/{{name}}/open"),
        ("GET", "/notebooks/logs/{name}"),
        ("GET", "/api/slipway/v1/events"),
        ("GET", "/api/slipway/v1/tokens"),
        ("POST", "/api/slipway/v1/tokens"),
        ("GET", "/api/slipway/v1/person"),
        ("GET", "/"),
        ("GET", "/sessions/{name}"),
        ("POST", "/sessions/{name}/open"),
        ("POST", "/launch/grp/proj"),
        ("GET", "/launch/grp/proj"),
        ("GET", "/tokens"),
    ],
)
def test_a_job_does_nothing_else(job: FlaskClient, method: str, path: str) -> None:
    """A job's code is not its person's: it opens, stops, changes and makes nothing, and reads no page."""
    name = launch(job)["name"]
    answer = job.open(path.format(name=name), method=method, json={"name": "x", "state": "running"})
    assert answer.status_code == 403
    assert "CI job" in answer.text


def test_only_gitlabs_signature_counts(world: World) -> None:
    """A token that GitLab did not sign is no job's, and is not shown to GitLab; nor is a stranger to us anybody."""
    ada = world.forge.people["token-ada"].id
    asked = world.forge.asked
    forged = client_with(world, WorldJobs().token(ada, 42).replace(".signed", ".forged"))
    assert forged.get(SERVERS).status_code == 401
    unknown = client_with(world, WorldJobs().token(4711, 42)).get(SERVERS)
    assert (unknown.status_code, "never signed in" in unknown.text) == (401, True)
    assert world.forge.asked == asked
