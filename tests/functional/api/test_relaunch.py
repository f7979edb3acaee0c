"""Launching again what is ending, has ended or has failed: as it is asked for now, with the token of now.

Covered: a stop that is asked for, under way or over, a failure, another class, a newer token, PATCH of a failed
session. Left out: names that changed (`test_identity.py`), folders that are over (`test_housekeeping.py`).
"""

from typing import Any

import pytest
from flask.testing import FlaskClient

from spawner.names import SessionName
from spawner.ports import AccessLevel, Health, Observation
from spawner.sessions.model import Phase, Session, Target
from tests.functional.api.conftest import client_of
from tests.functional.api.test_identity import BODY, end, in_phase, launch, run
from tests.functional.api.world import World

LARGER: dict[str, Any] = {**BODY, "resource_class_id": 2}
LARGER_CORES = 2


def fail(world: World, session: Session) -> Session:
    """Have a running session need too much memory; return it when nothing is left to do for it."""
    assert session.workload is not None
    world.runtime.health[session.workload] = Observation(health=Health.EXITED, is_out_of_memory=True)
    world.rows.want([session.name])
    world.until(lambda: in_phase(world, session.name, Phase.FAILED))
    world.until(lambda: (found := in_phase(world, session.name, Phase.FAILED)) and found.due_at is None)
    world.settle(session.name)
    failed = world.rows.get(session.name)
    assert failed is not None
    return failed


def started_larger(world: World, name: SessionName) -> Session:
    """Return the session once its second generation was started, in the larger class."""
    world.until(lambda: world.runtime.workloads[name].generation == 2)
    assert world.runtime.workloads[name].resources.cpu_cores == LARGER_CORES
    world.be_ready(name)
    return world.until(lambda: in_phase(world, name, Phase.RUNNING))


def test_while_it_stops(world: World, ada: FlaskClient) -> None:
    """A launch during a stop is accepted once, and starts as it was asked for when the stop is over, never before."""
    session = run(world, ada, BODY)
    world.runtime.lingers = True
    ada.delete(f"/notebooks/servers/{session.name}")
    world.until(lambda: in_phase(world, session.name, Phase.STOPPING))

    assert (launch(ada, LARGER)[0], launch(ada, BODY)[0]) == (201, 200)
    world.settle(session.name)
    assert world.runtime.workloads[session.name].generation == 1
    world.runtime.lingers = False
    assert started_larger(world, session.name).request.resource_class_id == 2


@pytest.mark.parametrize("is_failed", [False, True], ids=["running", "failed"])
def test_before_a_stop_is_begun(world: World, ada: FlaskClient, *, is_failed: bool) -> None:
    """A launch between a stop that is asked for and its first step is the next generation, of a failed session too."""
    session = run(world, ada, BODY)
    if is_failed:
        fail(world, session)
    world.settle(session.name)
    claim = world.until(lambda: world.rows.claim(session.name, holder="a holder that is slow", seconds=30))
    assert world.rows.wish(session.name, target=Target.GONE)

    assert launch(ada, LARGER)[0] == 201

    def lets_go() -> bool:  # a task that comes meanwhile wants it looked at again
        refreshed = world.rows.refresh(claim)
        return refreshed is not None and world.rows.release(refreshed[1])

    assert world.until(lets_go)
    assert started_larger(world, session.name).target is Target.RUNNING


def test_a_failure_that_still_runs(world: World, ada: FlaskClient) -> None:
    """A failed session's next generation starts when nothing of the failed one is left in its folder."""
    session = run(world, ada, BODY)
    assert session.workload is not None
    world.runtime.lingers = True
    world.runtime.health[session.workload] = Observation(health=Health.EXITED, is_out_of_memory=True)
    world.rows.want([session.name])
    world.until(lambda: in_phase(world, session.name, Phase.FAILED))

    assert launch(ada, LARGER)[0] == 201
    world.settle(session.name)
    assert world.runtime.workloads[session.name].generation == 1
    world.runtime.lingers = False
    assert started_larger(world, session.name).failure is None


@pytest.mark.parametrize("is_ended", [False, True], ids=["living", "ended"])
def test_the_newest_token_counts(world: World, ada: FlaskClient, *, is_ended: bool) -> None:
    """A launch with a new token gives it to the session, living or launched again: the old one may have expired."""
    session = run(world, ada, BODY)
    if is_ended:
        end(world, ada, session)
    world.forge.people["token-newer"] = world.forge.people.pop("token-ada")

    assert launch(client_of(world, "newer"), BODY)[0] == (201 if is_ended else 200)

    assert world.services.users.credential(session.user_id, session=session.name).token == "token-newer"


def test_no_token_stays_with_another_session(world: World, ada: FlaskClient) -> None:
    """Where a name is another session's, nothing of the caller's is kept under it."""
    before = run(world, ada, BODY)
    end(world, ada, before)
    world.move_project(world.forge.projects[42], "other/proj")
    world.add_project("grp/proj", members={"ada": AccessLevel.DEVELOPER})
    world.forge.people["token-newer"] = world.forge.people["token-ada"]
    name = SessionName(launch(client_of(world, "newer"), BODY)[1]["name"])

    assert name != before.name
    kept = {each: world.services.users.scopes(before.user_id, session=each) for each in (name, before.name)}
    assert kept == {name: {"api"}, before.name: frozenset()}


def test_a_failed_session_gets_another_class(world: World, ada: FlaskClient) -> None:
    """The class of a failed session is changed for its next start, which PATCH asks for as well."""
    session = run(world, ada, BODY)
    fail(world, session)
    path = f"/notebooks/servers/{session.name}"

    changed = ada.patch(path, json={"resource_class_id": 2})
    assert changed.json is not None
    assert (
        changed.status_code,
        changed.json["status"]["state"],
        changed.json["annotations"]["renku.io/resourceClassId"],
    ) == (200, "failed", "2")
    resumed = ada.patch(path, json={"state": "running"})
    assert resumed.json is not None
    assert (resumed.status_code, resumed.json["status"]["state"]) == (200, "starting")
    assert started_larger(world, session.name).generation == 2


def test_a_class_must_have_what_the_session_has(world: World, ada: FlaskClient) -> None:
    """A class with less storage than the failed session was given is refused, and nothing changes."""
    session = run(world, ada, {**BODY, "resource_class_id": 2, "storage": 50})
    failed = fail(world, session)

    answer = ada.patch(f"/notebooks/servers/{session.name}", json={"resource_class_id": 1})

    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (422, 1005)
    assert failed == world.rows.get(session.name)
