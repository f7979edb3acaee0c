"""What every runtime promises, whatever it runs on.

Covers: steps and their saved state, adoption, readiness, stop in every phase, logs, inventory, order of observations.
Leaves out: what only one runtime has (its own file), speed (the benches).
"""

import json
from itertools import islice
from typing import cast

import pytest

from spawner.names import UserId
from spawner.ports import AdmitsPeople, Health, ImageKind, KeepsWorkspaces
from tests.contract.runtime.conftest import ADMITTING, Bench


def test_it_says_what_it_is(bench: Bench) -> None:
    """A runtime has a name, and says which kinds of image it can start."""
    assert bench.runtime.name
    assert bench.runtime.image_kinds <= frozenset(ImageKind)


def test_every_step_carries_a_state_that_json_keeps(bench: Bench) -> None:
    """Each step of a start has a sentence and a state that survives being written as JSON, small enough for a row."""
    steps = list(bench.runtime.start(bench.workload("steps")))

    assert len(steps) > 1
    assert all(step.message for step in steps)
    assert [json.loads(json.dumps(dict(step.state))) for step in steps] == [dict(step.state) for step in steps]
    assert all(len(json.dumps(dict(step.state))) < 2048 for step in steps)


def test_no_state_holds_the_credential(bench: Bench) -> None:
    """What is saved in the database holds no secret of the session."""
    workload = bench.workload("secret")

    assert all(workload.credential not in json.dumps(dict(step.state)) for step in bench.runtime.start(workload))


def test_a_started_workload_becomes_ready(bench: Bench) -> None:
    """After its last step a workload is starting or ready, and gets ready by itself."""
    state = bench.run(bench.workload("ready"))

    assert bench.runtime.observe([state])[0].health in {Health.STARTING, Health.READY}
    bench.until(state, Health.READY)


def test_starting_again_adopts(bench: Bench) -> None:
    """A second start of the same workload finds the first one and starts nothing."""
    workload = bench.workload("again")
    state = bench.run(workload)

    assert bench.run(workload) == state
    assert [owned.workload for owned in bench.runtime.inventory()].count(workload.name) == 1


def test_a_start_broken_off_is_taken_up(bench: Bench) -> None:
    """A start whose process died after the first step is completed by the next one."""
    workload = bench.workload("broken")
    first = next(iter(list(islice(bench.runtime.start(workload), 1))))

    assert bench.runtime.observe([first.state])[0].health is Health.GONE
    bench.until(bench.run(workload), Health.READY)


def test_stop_takes_the_first_saved_state(bench: Bench) -> None:
    """Whatever state was saved last, stopping by it leaves nothing."""
    workload = bench.workload("first")
    steps = list(bench.runtime.start(workload))

    bench.runtime.stop(steps[0].state, grace_seconds=0)
    bench.until(steps[-1].state, Health.GONE, within_seconds=20)


def test_stop_before_anything_was_made_is_harmless(bench: Bench) -> None:
    """A workload that never came to a process is gone, and may be stopped."""
    first = next(iter(list(islice(bench.runtime.start(bench.workload("never")), 1))))

    bench.runtime.stop(first.state, grace_seconds=0)
    assert bench.runtime.observe([first.state])[0].health is Health.GONE


def test_stop_ends_it_and_may_be_repeated(bench: Bench) -> None:
    """A stop ends a running workload; a second and a third change nothing."""
    state = bench.run(bench.workload("stop"))
    bench.until(state, Health.READY)

    bench.runtime.stop(state, grace_seconds=5)
    bench.runtime.stop(state, grace_seconds=5)
    bench.until(state, Health.GONE, within_seconds=20)
    bench.runtime.stop(state, grace_seconds=5)
    assert bench.runtime.observe([state])[0].health is Health.GONE


def test_the_log_outlives_the_workload(bench: Bench) -> None:
    """The last lines can be read after the end, no more of a container than were asked for."""
    state = bench.run(bench.workload("log"))
    bench.until(state, Health.READY)
    bench.runtime.stop(state, grace_seconds=0)
    bench.until(state, Health.GONE, within_seconds=20)

    lines = list(bench.runtime.logs(state, max_lines=2))
    assert {line.container for line in lines} >= {"jupyter-server"}
    assert all(sum(line.container == name for line in lines) <= 2 for name in {line.container for line in lines})


def test_observations_keep_the_order_of_their_states(bench: Bench) -> None:
    """Many states at once give as many observations in their order; an unknown workload is gone, not an error."""
    state = bench.run(bench.workload("order"))
    bench.until(state, Health.READY)
    unknown = {**state, "workload": "no-such-workload"}

    seen = bench.runtime.observe([unknown, state, unknown])
    assert [each.health for each in seen] == [Health.GONE, Health.READY, Health.GONE]
    assert bench.runtime.observe([]) == []


def test_the_inventory_holds_what_lives(bench: Bench) -> None:
    """A living workload is found again by our instance, with a state that stops it; a stopped one is not."""
    workload = bench.workload("inventory")
    state = bench.run(workload)

    found = {owned.workload: owned for owned in bench.runtime.inventory()}[workload.name]
    assert found.annotations == workload.annotations
    bench.runtime.stop(found.state, grace_seconds=0)
    bench.until(state, Health.GONE, within_seconds=20)
    assert workload.name not in {owned.workload for owned in bench.runtime.inventory()}


def test_a_workspace_is_removed_once(bench: Bench) -> None:
    """Removing a workspace twice is harmless."""
    workload = bench.workload("workspace")
    state = bench.run(workload)
    bench.runtime.stop(state, grace_seconds=0)
    bench.until(state, Health.GONE, within_seconds=20)

    keeper = cast("KeepsWorkspaces", bench.runtime)
    keeper.remove_workspace(workload.workspace)
    keeper.remove_workspace(workload.workspace)


@pytest.mark.parametrize("bench", ADMITTING, indirect=True)
def test_the_same_person_is_admitted_twice(bench: Bench) -> None:
    """Admitting somebody who is admitted already says the same again."""
    doorkeeper = cast("AdmitsPeople", bench.runtime)

    assert doorkeeper.admit(UserId("7"), "alice") == doorkeeper.admit(UserId("7"), "alice")
    doorkeeper.release(UserId("7"))
    doorkeeper.release(UserId("7"))
