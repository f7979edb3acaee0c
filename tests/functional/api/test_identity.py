"""What a session is of: a person, a project, a branch, a commit; none of them by a name that may change.

Covered: a project that moved, a person who was renamed, a new project on an old path, each with the session living and
ended; what a retention that is over may delete then; GitLab away. Left out: names (tests/unit/test_names.py).
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from spawner.errors import ForgeUnavailable
from spawner.names import ProjectPath, SessionName
from spawner.ports import AccessLevel
from spawner.sessions.access import REMEMBERED_SECONDS
from spawner.sessions.model import LaunchRequest, Phase, Session
from spawner.sessions.service import LaunchCommand
from tests.functional.api.world import SHA, World

BODY: dict[str, Any] = {"namespace": "grp", "project": "proj", "commit_sha": SHA, "branch": "main"}
MOVED = {**BODY, "namespace": "other"}
A_WEEK = timedelta(days=7, seconds=1)


def launch(client: FlaskClient, body: dict[str, Any]) -> tuple[int, Any]:
    """Launch; return the status and the server object."""
    answer = client.post("/notebooks/servers", json=body)
    assert answer.status_code in {200, 201}, answer.text
    return answer.status_code, answer.json


def run(world: World, client: FlaskClient, body: dict[str, Any]) -> Session:
    """Launch a session and let it be ready."""
    world.add_image(f"{body['namespace']}/{body['project']}", body["commit_sha"])
    name = SessionName(launch(client, body)[1]["name"])
    world.be_ready(name)
    running = world.until(lambda: in_phase(world, name, Phase.RUNNING))
    world.settle(name)
    return running


def end(world: World, client: FlaskClient, session: Session) -> None:
    """Stop a session; return when nothing is left to do for it."""
    assert client.delete(f"/notebooks/servers/{session.name}").status_code == 204
    world.until(lambda: (ended := in_phase(world, session.name, Phase.GONE)) and ended.due_at is None)
    world.settle(session.name)


def in_phase(world: World, name: SessionName, phase: Phase) -> Session | None:
    """Return the session if it is in that phase."""
    found = world.rows.get(name)
    return found if found is not None and found.phase is phase else None


def rename_ada(world: World) -> None:
    """Give Ada another user name; her id and her token stay."""
    world.forge.people["token-ada"] = replace(world.forge.people["token-ada"], username="lovelace")


def let_a_minute_pass(world: World) -> None:
    """Let everything that GitLab told be forgotten."""
    world.clock.passed += timedelta(seconds=REMEMBERED_SECONDS + 1)


@pytest.mark.parametrize("change", ["moved", "renamed"])
@pytest.mark.parametrize("is_ended", [False, True], ids=["living", "ended"])
def test_a_new_name_is_the_same_session(world: World, ada: FlaskClient, change: str, *, is_ended: bool) -> None:
    """A session is found again under its project's new path and its owner's new name: one row, one folder."""
    world.add_image("other/proj")
    before = run(world, ada, BODY)
    if is_ended:
        end(world, ada, before)
    if change == "moved":
        world.move_project(world.forge.projects[42], "other/proj")
    else:
        rename_ada(world)
    let_a_minute_pass(world)

    status, body = launch(ada, MOVED if change == "moved" else BODY)

    assert (201 if is_ended else 200, before.name) == (status, body["name"])
    after = world.rows.get(before.name)
    assert after is not None
    assert (before.workspace, before.generation + is_ended) == (after.workspace, after.generation)
    if is_ended:
        assert ("other/proj" if change == "moved" else "grp/proj") == after.project_path


@pytest.mark.parametrize("is_ended", [False, True], ids=["living", "ended"])
def test_a_new_project_on_an_old_path_is_another_session(world: World, ada: FlaskClient, *, is_ended: bool) -> None:
    """A project that took an old path gets a session, a folder and a name of its own, and the old one keeps its own."""
    before = run(world, ada, BODY)
    if is_ended:
        end(world, ada, before)
    world.move_project(world.forge.projects[42], "other/proj")
    new = world.add_project("grp/proj", members={"ada": AccessLevel.DEVELOPER})
    let_a_minute_pass(world)

    status, body = launch(ada, BODY)

    assert status == 201
    assert body["name"].startswith(before.name), "the later of two that meet in a name has a longer one"
    after = world.rows.get(SessionName(body["name"]))
    assert after is not None
    assert (new.project.id, 1) == (after.project_id, after.generation)
    assert before.workspace != after.workspace
    old = world.rows.get(before.name)
    assert old is not None
    assert (before.project_id, before.workspace) == (old.project_id, old.workspace)
    again, found = launch(ada, BODY)
    assert (200, after.name) == (again, found["name"])


def test_the_same_words_without_gitlab(world: World, ada: FlaskClient) -> None:
    """While GitLab cannot be asked, a launch in the same words finds the living session; other words are refused."""
    _, body = launch(ada, BODY)
    caller = world.services.users.bearer("token-ada", address="")
    command = LaunchCommand(project=ProjectPath("grp/proj"), sha=SHA, branch="main", request=LaunchRequest())
    let_a_minute_pass(world)
    world.forge.is_down = True

    found, is_new = world.services.sessions.launch(caller, command)
    assert (body["name"], False) == (found.name, is_new)
    with pytest.raises(ForgeUnavailable):
        world.services.sessions.launch(caller, replace(command, project=ProjectPath("other/proj")))


def test_retention_spares_a_folder_in_use(world: World, ada: FlaskClient) -> None:
    """A folder that an older row of the same session once had is not deleted under the session that runs in it."""
    running = run(world, ada, BODY)
    over = replace(
        running,
        name=SessionName("an-older-row"),
        phase=Phase.GONE,
        due_at=None,
        retain_until=world.clock.now() - timedelta(seconds=1),
    )
    world.rows.add(over, [])

    world.services.sessions.housekeeping()

    assert world.runtime.workspaces == {running.workspace}


def test_retention_ends(world: World, ada: FlaskClient) -> None:
    """The folder of a session that ended a week ago is deleted."""
    end(world, ada, run(world, ada, BODY))
    world.clock.passed += A_WEEK

    world.services.sessions.housekeeping()

    assert world.runtime.workspaces == set()
