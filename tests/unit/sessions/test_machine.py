"""The session machine as a table.

Covered: each phase with each thing that may be observed in it, stop in every phase, restarts and their limit,
repeating an answer after a crash. Left out: what performs the actions (functional tests, the kill matrix).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from spawner.images.model import ChosenImage, ImageSource, Ready, Unavailable, Waiting
from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName
from spawner.ports import Health, ImageKind, Observation, Project, RefKind, Visibility
from spawner.sessions.machine import Action, Facts, Rules, advance, relaunch
from spawner.sessions.model import EventKind, Failure, LaunchRequest, Phase, Session, Target

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
RULES = Rules()
PROJECT = Project(
    id=1,
    path=ProjectPath("grp/proj"),
    name="proj",
    default_branch="main",
    visibility=Visibility.PRIVATE,
    web_url="http://gitlab/grp/proj",
    git_url="http://gitlab/grp/proj.git",
    registry_image="registry/grp/proj",
)
IMAGE = ChosenImage(
    reference="registry/grp/proj@sha256:1",
    digest="sha256:1",
    kind=ImageKind.ENVIRONMENT,
    source=ImageSource.EXACT,
    reason="This commit's own image.",
)
READY = Facts(decision=Ready(image=IMAGE))
WAIT = Facts(decision=Waiting(reason="The build is running.", due_at=NOW + timedelta(seconds=60)))
NEVER = Facts(decision=Unavailable(code="build_failed", reason="The build failed.", remedy="Mend it."))
BROKEN = Facts(failure=Failure(code="X", message="It cannot be."))


def seen(health: Health, **changes: object) -> Facts:
    return Facts(observation=replace(Observation(health=health), **changes))  # type: ignore[arg-type]  # a row's own


def session(phase: Phase, **changes: object) -> Session:
    has_workload = phase in {Phase.STARTING, Phase.RUNNING, Phase.STOPPING}
    made = Session(
        name=SessionName("alice-proj-12345678"),
        instance="i",
        forge="default",
        user_id=UserId("u"),
        username="alice",
        project=PROJECT,
        branch="main",
        ref_kind=RefKind.BRANCH,
        sha=CommitSha("a" * 40),
        request=LaunchRequest(),
        runtime="standalone",
        target=Target.RUNNING,
        phase=phase,
        phase_since=NOW,
        created_at=NOW,
        image_asked_at=NOW,
        workload=WorkloadName("w-1") if has_workload else None,
        launched_at=NOW if has_workload else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # a table's row changes what it names


GONE = {"target": Target.GONE}
MINUTES_AGO = tuple(NOW - timedelta(minutes=n) for n in (1, 2, 3))
LONG_AGO = tuple(NOW - timedelta(minutes=n) for n in (11, 12, 13))
ROWS: Mapping[str, tuple[Session, Facts, Phase, tuple[Action, ...]]] = {
    "new, image there": (session(Phase.NEW), READY, Phase.STARTING, (Action.START,)),
    "new, image awaited": (session(Phase.NEW), WAIT, Phase.WAITING, (Action.WATCH_BUILD,)),
    "new, nothing can be had": (session(Phase.NEW), NEVER, Phase.FAILED, (Action.RELEASE,)),
    "new, facts fail": (session(Phase.NEW), BROKEN, Phase.FAILED, (Action.RELEASE,)),
    "waiting, image arrives": (session(Phase.WAITING), READY, Phase.STARTING, (Action.START,)),
    "waiting goes on": (session(Phase.WAITING), WAIT, Phase.WAITING, (Action.WATCH_BUILD,)),
    "starting, not submitted": (session(Phase.STARTING, launched_at=None), Facts(), Phase.STARTING, (Action.START,)),
    "starting, submitted": (session(Phase.STARTING), seen(Health.STARTING), Phase.STARTING, ()),
    "starting, answers": (session(Phase.STARTING), seen(Health.READY), Phase.RUNNING, ()),
    "starting, ends": (
        session(Phase.STARTING),
        seen(Health.EXITED, exit_code=1),
        Phase.FAILED,
        (Action.STOP, Action.RELEASE),
    ),
    "starting, vanishes": (session(Phase.STARTING), seen(Health.GONE), Phase.FAILED, (Action.STOP, Action.RELEASE)),
    "starting, too long": (
        session(Phase.STARTING, launched_at=NOW - timedelta(seconds=121)),
        seen(Health.STARTING),
        Phase.FAILED,
        (Action.STOP, Action.RELEASE),
    ),
    "starting, refused": (
        session(Phase.STARTING, launched_at=None),
        BROKEN,
        Phase.FAILED,
        (Action.STOP, Action.RELEASE),
    ),
    "running goes on": (session(Phase.RUNNING), seen(Health.READY), Phase.RUNNING, ()),
    "running, cannot be seen": (session(Phase.RUNNING), seen(Health.UNKNOWN), Phase.RUNNING, ()),
    "running, lost": (session(Phase.RUNNING), seen(Health.GONE), Phase.STARTING, (Action.START,)),
    "running, lost a fourth time": (
        session(Phase.RUNNING, restarts=MINUTES_AGO),
        seen(Health.GONE),
        Phase.FAILED,
        (Action.STOP, Action.RELEASE),
    ),
    "running, lost long after": (
        session(Phase.RUNNING, restarts=LONG_AGO),
        seen(Health.GONE),
        Phase.STARTING,
        (Action.START,),
    ),
    "running, out of memory": (
        session(Phase.RUNNING),
        seen(Health.EXITED, is_out_of_memory=True),
        Phase.FAILED,
        (Action.STOP, Action.RELEASE),
    ),
    "running, built image wanted": (
        session(Phase.RUNNING, wants_built_image=True, image=replace(IMAGE, source=ImageSource.DEFAULT)),
        seen(Health.READY),
        Phase.STOPPING,
        (Action.STOP,),
    ),
    "running, built image wanted and there": (
        session(Phase.RUNNING, wants_built_image=True, image=IMAGE),
        seen(Health.READY),
        Phase.RUNNING,
        (),
    ),
    "stopping to start again": (session(Phase.STOPPING), seen(Health.GONE), Phase.NEW, ()),
    "stop: new": (session(Phase.NEW, **GONE), Facts(), Phase.GONE, (Action.RELEASE,)),
    "stop: queued": (session(Phase.QUEUED, **GONE), Facts(), Phase.GONE, (Action.RELEASE,)),
    "stop: waiting": (session(Phase.WAITING, **GONE), Facts(), Phase.GONE, (Action.RELEASE,)),
    "stop: starting": (session(Phase.STARTING, **GONE), seen(Health.STARTING), Phase.STOPPING, (Action.STOP,)),
    "stop: running": (session(Phase.RUNNING, **GONE), seen(Health.READY), Phase.STOPPING, (Action.STOP,)),
    "stop: running, gone already": (session(Phase.RUNNING, **GONE), seen(Health.GONE), Phase.GONE, (Action.RELEASE,)),
    "stop: stopping": (session(Phase.STOPPING, **GONE), seen(Health.READY), Phase.STOPPING, (Action.STOP,)),
    "stop: exited, leftovers": (session(Phase.STOPPING, **GONE), seen(Health.EXITED), Phase.STOPPING, (Action.STOP,)),
    "stop: nothing left": (session(Phase.STOPPING, **GONE), seen(Health.GONE), Phase.GONE, (Action.RELEASE,)),
    "stop: failed": (session(Phase.FAILED, **GONE), Facts(), Phase.GONE, (Action.RELEASE,)),
    "stop: gone": (session(Phase.GONE, **GONE), Facts(), Phase.GONE, ()),
    "gone, not released": (session(Phase.GONE, due_at=NOW, **GONE), Facts(), Phase.GONE, (Action.RELEASE,)),
    "gone, wanted again, not released": (session(Phase.GONE, due_at=NOW), Facts(), Phase.GONE, (Action.RELEASE,)),
    "failed, compute left": (
        session(Phase.FAILED, workload=WorkloadName("w-1")),
        seen(Health.READY),
        Phase.FAILED,
        (Action.STOP,),
    ),
    "failed, compute gone": (
        session(Phase.FAILED, workload=WorkloadName("w-1")),
        seen(Health.GONE),
        Phase.FAILED,
        (),
    ),
    "failed, compute gone, not released": (
        session(Phase.FAILED, workload=WorkloadName("w-1"), due_at=NOW),
        seen(Health.GONE),
        Phase.FAILED,
        (Action.RELEASE,),
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_leads_where_it_says(case: str) -> None:
    """Each row's phase and actions follow, and every phase that has not ended has a time to look again."""
    before, facts, phase, actions = ROWS[case]

    step = advance(before, facts, RULES, NOW)

    assert (step.session.phase, step.actions) == (phase, actions)
    is_settled = phase in {Phase.GONE, Phase.FAILED}
    assert is_settled or step.session.due_at is not None
    assert (step.session.phase is before.phase) == (not any(event.kind is EventKind.PHASE for event in step.events)), (
        "a phase changes with its event, and only then"
    )


def test_every_phase_can_be_stopped() -> None:
    """Stop is in the table for each phase a session can be in."""
    stopped = {before.phase for name, (before, *_) in ROWS.items() if name.startswith("stop:")}

    assert stopped == set(Phase) - {Phase.HIBERNATING, Phase.HIBERNATED}


@pytest.mark.parametrize("case", ROWS)
def test_an_answer_may_be_performed_twice(case: str) -> None:
    """A crash after the save loses no action: unless a look found the work done, the next call returns it again."""
    before, facts, _, actions = ROWS[case]
    again = [action for action in actions if action in {Action.START, Action.STOP}]

    saved = advance(before, facts, RULES, NOW).session
    facts_after = Facts(observation=facts.observation) if saved.workload else Facts()
    if saved.phase is Phase.STARTING or (saved.phase is Phase.STOPPING and saved.workload):
        second = advance(saved, Facts() if saved.phase is Phase.STARTING else facts_after, RULES, NOW)
        assert [action for action in second.actions if action in {Action.START, Action.STOP}] == again


@pytest.mark.parametrize("case", [name for name, row in ROWS.items() if row[3] == (Action.RELEASE,)])
def test_a_release_is_asked_for_until_it_is_done(case: str) -> None:
    """A crash between the end that was saved and its release leaves the session due, and released at the next look."""
    before, facts, phase, _ = ROWS[case]

    saved = advance(before, facts, RULES, NOW).session
    again = advance(saved, facts, RULES, NOW + timedelta(seconds=1))
    done = advance(replace(saved, due_at=None), facts, RULES, NOW + timedelta(seconds=1))

    assert saved.due_at is not None
    assert (again.session.phase, again.actions, again.events) == (phase, (Action.RELEASE,), ())
    assert (done.session.due_at, done.actions) == (None, ())


def test_a_restart_keeps_the_workspace_and_names_the_cause() -> None:
    """A session lost from outside begins its next generation on the same workspace, with the cause on its page."""
    before = session(Phase.RUNNING, workspace="ws", generation=2)

    step = advance(before, seen(Health.GONE, message="The machine went away."), RULES, NOW)

    after = step.session
    assert (after.generation, after.workspace, after.workload, after.launched_at) == (3, "ws", None, None)
    assert after.warnings == ("The machine went away. It is started again on the same workspace.",)


def test_a_stopped_session_says_how_long_its_folder_is_kept() -> None:
    """The end names the retention, and the retention is saved."""
    step = advance(session(Phase.STOPPING, target=Target.GONE), seen(Health.GONE), RULES, NOW)

    assert step.session.retain_until == NOW + timedelta(days=7)
    assert [event.message for event in step.events if event.kind is EventKind.GONE] == [
        "The session has ended; its folder is kept for 7 days."
    ]


RELAUNCHED: dict[str, tuple[Session, Phase, int]] = {
    "gone": (session(Phase.GONE, workload=WorkloadName("w"), due_at=NOW), Phase.NEW, 2),
    "failed and over": (session(Phase.FAILED, workload=WorkloadName("w"), due_at=None), Phase.NEW, 2),
    "failed, still running": (session(Phase.FAILED, workload=WorkloadName("w"), due_at=NOW), Phase.STOPPING, 1),
    "waiting": (session(Phase.WAITING), Phase.NEW, 2),
    "starting": (session(Phase.STARTING), Phase.STOPPING, 1),
    "running": (session(Phase.RUNNING), Phase.STOPPING, 1),
    "stopping": (session(Phase.STOPPING), Phase.STOPPING, 1),
}


@pytest.mark.parametrize("case", RELAUNCHED)
def test_a_relaunch_waits_for_what_runs(case: str) -> None:
    """The next generation begins at once where nothing runs, else after the end of what does; as it was asked for."""
    before, phase, generation = RELAUNCHED[case]
    asked = replace(before, request=LaunchRequest(runtime="other"), target=Target.RUNNING)

    first = relaunch(asked, NOW).session
    last = first if first.phase is Phase.NEW else advance(first, seen(Health.GONE), RULES, NOW).session

    assert (first.phase, first.generation, first.runtime) == (
        phase,
        generation,
        "other" if generation == 2 else before.runtime,
    )
    assert (last.phase, last.generation, last.runtime, last.workload) == (Phase.NEW, 2, "other", None)
    assert (first.due_at, first.failure) == (NOW, None)


@pytest.mark.parametrize(
    ("changes", "is_kept"), [({}, False), ({"has_workspace": True}, True), ({"launched_at": NOW}, True)]
)
def test_a_folder_is_kept_where_there_was_one(changes: dict[str, object], *, is_kept: bool) -> None:
    """A next generation says that it reopens a folder only where an earlier one had one."""
    step = relaunch(session(Phase.GONE, due_at=None, **changes), NOW)

    assert step.session.has_workspace is is_kept
    assert step.events[0].message.endswith("kept from before.") is is_kept
