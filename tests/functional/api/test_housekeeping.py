"""What time brings: workspaces past their retention, owners who lost access, one part that fails.

Covered: a relaunch before, during and after a removal; a folder that cannot be deleted; each answer of GitLab about an
owner, and how long it is waited for; who is asked next. Left out: leftovers (tests/unit/sessions/test_inventory.py).
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from spawner.names import UserId
from spawner.ports import Owned
from spawner.sessions import housekeeping
from spawner.sessions.housekeeping import REMOVE_AGAIN, UNKNOWN_ACCESS_FOR
from spawner.sessions.model import EventKind, Phase, Session, Target
from tests.functional.api.test_identity import A_WEEK, BODY, end, in_phase, launch, run
from tests.functional.api.world import OLD_SHA, World

A_CHECK = timedelta(seconds=901)  # the settings' 15 minutes, and a moment


def ended(world: World, client: FlaskClient, body: dict[str, Any]) -> Session:
    """Return a session that ended a week ago, the folder of which is there."""
    session = run(world, client, body)
    end(world, client, session)
    return session


def test_a_relaunch_keeps_its_folder(world: World, ada: FlaskClient) -> None:
    """A session that was relaunched after the list of what is over was made keeps its folder."""
    first = ended(world, ada, BODY)
    second = ended(world, ada, {**BODY, "commit_sha": OLD_SHA})
    world.clock.passed += A_WEEK
    seen: list[str] = []

    def relaunch_the_other(workspace: str) -> None:
        if not seen:
            launch(ada, {**BODY, "commit_sha": OLD_SHA if workspace == first.workspace else first.sha})
        seen.append(workspace)

    world.runtime.before_removal = relaunch_the_other
    world.services.sessions.housekeeping()

    assert len(seen) == 1
    assert {first.workspace, second.workspace} - set(seen) == world.runtime.workspaces


def test_a_relaunch_during_the_removal_waits_for_it(world: World, ada: FlaskClient) -> None:
    """A session that is relaunched while its folder is being deleted starts afterwards, on a new one."""
    session = ended(world, ada, BODY)
    world.clock.passed += A_WEEK
    started: list[bool] = []

    def relaunch(_: str) -> None:
        del world.runtime.workloads[session.name]
        assert launch(ada, BODY)[0] == 201
        world.services.sessions.reconcile(session.name)
        started.append(session.name in world.runtime.workloads)

    world.runtime.before_removal = relaunch
    world.services.sessions.housekeeping()

    assert started == [False]
    workload = world.until(lambda: world.runtime.workloads.get(session.name))
    world.be_ready(session.name)
    running = world.until(lambda: in_phase(world, session.name, Phase.RUNNING))
    assert (running.generation, workload.workspace) == (2, session.workspace)
    assert {session.workspace} == world.runtime.workspaces
    messages = [each.message for each in world.rows.events(session.name, after=0)]
    assert "Launching again on the workspace kept from before." not in messages


def test_who_has_no_session_is_released(world: World, ada: FlaskClient) -> None:
    """A person whose launch broke off before its session was written does not keep others out for good."""
    session = run(world, ada, BODY)
    world.runtime.admitted = [session.user_id, UserId("whose launch broke off")]

    world.services.sessions.housekeeping()

    assert world.runtime.admitted == [session.user_id]


def test_one_bad_folder_stops_no_other(world: World, ada: FlaskClient) -> None:
    """A folder that cannot be deleted is left for an hour; the others go at once."""
    bad = ended(world, ada, BODY)
    ended(world, ada, {**BODY, "commit_sha": OLD_SHA})
    world.clock.passed += A_WEEK

    def refuse(workspace: str) -> None:
        if workspace == bad.workspace:
            raise PermissionError(workspace)

    world.runtime.before_removal = refuse
    world.services.sessions.housekeeping()
    assert {bad.workspace} == world.runtime.workspaces
    world.runtime.before_removal = lambda _: None
    world.services.sessions.housekeeping()
    assert {bad.workspace} == world.runtime.workspaces
    world.clock.passed += REMOVE_AGAIN
    world.services.sessions.housekeeping()
    assert world.runtime.workspaces == set()


def test_one_bad_part_stops_no_other(world: World, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime whose inventory breaks in a way nobody foresaw, or a check that does, stops no folder's end."""
    ended(world, ada, BODY)
    world.clock.passed += A_WEEK

    def broken() -> Iterator[Owned]:
        raise ValueError

    monkeypatch.setattr(world.runtime, "inventory", broken)
    monkeypatch.setattr(world.rows, "access_due", broken)
    world.services.sessions.housekeeping()

    assert world.runtime.workspaces == set()


def lose_membership(world: World) -> None:
    """Take Ada off the project."""
    world.forge.projects[42].members.clear()


def lose_token(world: World) -> None:
    """Have GitLab refuse Ada's token."""
    del world.forge.people["token-ada"]


def block(world: World) -> None:
    """Have GitLab block Ada."""
    world.forge.blocked.add("token-ada")


def be_down(world: World) -> None:
    """Have GitLab away."""
    world.forge.is_down = True


@pytest.mark.parametrize(
    ("change", "soon", "after_a_day"),
    [(lose_membership, True, True), (block, True, True), (lose_token, False, True), (be_down, False, False)],
)
def test_lost_access(world: World, ada: FlaskClient, change: object, *, soon: bool, after_a_day: bool) -> None:
    """Lost access stops the session and says why; a sign-in that has ended does so after a day; an outage never."""
    assert callable(change)
    session = run(world, ada, BODY)
    change(world)

    def is_ended() -> bool | None:
        world.services.sessions.housekeeping()
        found = world.rows.get(session.name)
        return (found is not None and found.target is Target.GONE) or None

    for passed, ends in ((timedelta(), False), (A_CHECK, soon), (UNKNOWN_ACCESS_FOR, after_a_day)):
        world.clock.passed += passed
        if ends:  # while a task is at the session, the next pass comes back to it
            world.until(is_ended)
        else:
            assert not is_ended()
    said = [e.message for e in world.rows.events(session.name, after=0) if e.kind is EventKind.WARNING]
    assert after_a_day is any(text.endswith("the session is stopped.") for text in said)


def test_a_sign_in_that_comes_back(world: World, ada: FlaskClient) -> None:
    """A person who signs in again within the day keeps the session, and the next day counts anew."""
    session = run(world, ada, BODY)
    person = world.forge.people.pop("token-ada")
    for passed, is_there in ((timedelta(), False), (timedelta(hours=23), True), (timedelta(hours=2), False)):
        world.clock.passed += passed
        if is_there:
            world.forge.people["token-ada"] = person
        else:
            world.forge.people.pop("token-ada", None)
        world.services.sessions.housekeeping()
    assert in_phase(world, session.name, Phase.RUNNING)


def test_those_left_over_are_next(world: World, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one pass has no room for is asked about in the next, and nobody twice within the time of a check."""
    names = {run(world, ada, body).name for body in (BODY, {**BODY, "commit_sha": OLD_SHA})}
    monkeypatch.setattr(housekeeping, "ACCESS_LIMIT", 1)
    asked = []
    world.clock.passed += A_CHECK
    for _ in range(3):
        due = {each.session.name for each in world.rows.access_due(world.clock.now() - A_CHECK, limit=9)}
        world.services.sessions.housekeeping()
        asked.append(len(due))
    assert (asked, len(names)) == ([2, 1, 0], 2)
