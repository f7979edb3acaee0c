"""The session machine: the only place where a phase changes.

For: `reconcile` loads a session, collects facts, asks `advance`, saves its answer and then performs its
actions. Promises: pure; the same input gives the same answer; every answer may be performed twice (a crash
after the save is mended by the next call, which returns the same action again); a phase never flashes FAILED
and back; every phase but the ended ones has a `due_at`.
Must not know: how facts are collected or actions performed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from spawner.images.model import ChosenImage, ImageSource, Ready, Unavailable, Waiting
from spawner.ports import Health, Observation
from spawner.sessions.model import EventKind, Failure, NewEvent, Phase, Session, Target


class Action(StrEnum):
    """What the service does after the save. Each is idempotent."""

    WATCH_BUILD = "watch_build"
    START = "start"
    STOP = "stop"
    RELEASE = "release"  # credential, stored bearer, the person's place


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The times of a session's life, from the settings."""

    start_budget_seconds: float = 120.0
    stop_grace_seconds: float = 10.0
    retention_seconds: float = 7 * 86400.0
    observe_seconds: float = 10.0
    restarts_limit: int = 3
    restarts_window_seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found out for one step. `decision` is there in NEW and WAITING only.

    `observation` is None while nothing was started or seen.
    """

    decision: Ready | Waiting | Unavailable | None = None
    observation: Observation | None = None
    failure: Failure | None = None  # a permanent error while collecting facts or starting
    build_status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The machine's answer: the session to save, the events to save with it, the actions to perform then."""

    session: Session
    events: tuple[NewEvent, ...] = ()
    actions: tuple[Action, ...] = ()


LESSER = frozenset({ImageSource.DEFAULT, ImageSource.ANCESTOR})
"""Images that stand in for the commit's own: who runs on one may be moved."""


def advance(  # noqa: PLR0911 - one return per phase
    session: Session, facts: Facts, rules: Rules, now: datetime
) -> Step:
    """Return the next step of a session."""
    if session.target is Target.GONE:
        return _towards_gone(session, facts, rules, now)
    match session.phase:
        case Phase.NEW | Phase.WAITING | Phase.QUEUED:
            return _choose_image(session, facts, now)
        case Phase.STARTING:
            return _starting(session, facts, rules, now)
        case Phase.RUNNING:
            return _running(session, facts, rules, now)
        case Phase.STOPPING:
            return _stopping(session, facts, rules, now)
        case Phase.FAILED:
            return _failed(session, facts, rules, now)
        case Phase.GONE:
            return _released(session)
        case Phase.HIBERNATING | Phase.HIBERNATED:
            # Hibernation has no rule yet: nothing puts a session there.
            return Step(session=replace(session, due_at=None))
        case _:
            assert_never(session.phase)


# -------------------------------------------------------------------- towards RUNNING


def _choose_image(session: Session, facts: Facts, now: datetime) -> Step:
    if facts.failure is not None:
        return _fail(session, facts.failure, now)
    match facts.decision:
        case None:
            return Step(session=session)
        case Unavailable() as unavailable:
            failure = Failure(code=unavailable.code, message=unavailable.reason, remedy=unavailable.remedy)
            return _fail(session, failure, now)
        case Waiting() as waiting:
            return _wait(session, waiting, facts, now)
        case Ready() as ready:
            return _start(session, ready.image, now)
        case _:
            assert_never(facts.decision)


def _wait(session: Session, waiting: Waiting, facts: Facts, now: datetime) -> Step:
    trouble = waiting.reason if waiting.is_trouble else ""
    since = (session.trouble_since or now) if trouble else None
    after = replace(session, due_at=waiting.due_at, reason=waiting.reason, trouble=trouble, trouble_since=since)
    events: list[NewEvent] = []
    if session.phase is not Phase.WAITING:
        after, event = _enter(after, Phase.WAITING, waiting.reason, now)
        events.append(event)
    elif session.reason != waiting.reason:
        data = {"status": facts.build_status, "can_build_now": waiting.can_build_now}
        events.append(NewEvent(kind=EventKind.BUILD, message=waiting.reason, data=data))
    actions = () if waiting.is_trouble else (Action.WATCH_BUILD,)
    return Step(session=after, events=tuple(events), actions=actions)


def _start(session: Session, image: ChosenImage, now: datetime) -> Step:
    after = replace(
        session, image=image, reason="", due_at=now, failure=None, launched_at=None, trouble="", trouble_since=None
    )
    after, entered = _enter(after, Phase.STARTING, "Starting.", now)
    chosen = NewEvent(
        kind=EventKind.IMAGE,
        message=image.reason,
        data={
            "source": image.source.value,
            "reference": image.reference,
            "built_for_commit": image.built_for_commit,
            "environment_key": image.environment_key,
        },
    )
    return Step(session=after, events=(chosen, entered), actions=(Action.START,))


def _starting(session: Session, facts: Facts, rules: Rules, now: datetime) -> Step:
    seen = facts.observation
    if facts.failure is not None:
        return _fail(session, facts.failure, now)
    if seen is not None and seen.health is Health.READY:
        return _ready(session, rules, now)
    if session.launched_at is not None and seen is not None and seen.health in {Health.EXITED, Health.GONE}:
        return _fail(session, _cause(seen, "ended before it answered"), now)
    end = (session.launched_at or now) + timedelta(seconds=rules.start_budget_seconds)
    if session.launched_at is not None and now >= end:
        failure = Failure(
            code="start_too_long",
            message=f"The session did not answer within {rules.start_budget_seconds:.0f} s.",
            remedy="Look at its log, then launch again.",
        )
        return _fail(session, failure, now)
    if session.launched_at is None:
        return Step(session=replace(session, due_at=_later(now, rules.observe_seconds)), actions=(Action.START,))
    return Step(session=replace(session, due_at=min(end, _later(now, rules.observe_seconds))))


def _ready(session: Session, rules: Rules, now: datetime) -> Step:
    after = replace(session, ready_at=now, due_at=_later(now, rules.observe_seconds), step="")
    after, entered = _enter(after, Phase.RUNNING, "Running.", now)
    waited = (now - session.image_asked_at).total_seconds() if session.image_asked_at else None
    ready = NewEvent(kind=EventKind.READY, message="Ready.", data={"seconds": waited})
    return Step(session=after, events=(entered, ready))


def _running(session: Session, facts: Facts, rules: Rules, now: datetime) -> Step:
    if session.wants_built_image and session.image is not None and session.image.source in LESSER:
        after = replace(session, due_at=_later(now, 1))
        after, event = _enter(after, Phase.STOPPING, "Stopping, to start again with the built image.", now)
        return Step(session=after, events=(event,), actions=(Action.STOP,))
    seen = facts.observation
    if seen is None or seen.health not in {Health.EXITED, Health.GONE}:
        return Step(session=replace(session, due_at=_later(now, rules.observe_seconds)))
    cause = _cause(seen, "ended by itself")
    recent = _recent(session.restarts, rules, now)
    if seen.is_out_of_memory or len(recent) >= rules.restarts_limit:
        return _fail(session, cause, now)
    warning = NewEvent(
        kind=EventKind.WARNING, message=f"{cause.message} It is started again on the same workspace.", data={}
    )
    after = replace(
        session,
        generation=session.generation + 1,
        workload=None,
        launched_at=None,
        restarts=(*recent, now),
        due_at=now,
        warnings=(warning.message,),
        has_workspace=True,
    )
    after, entered = _enter(after, Phase.STARTING, "Starting again.", now)
    return Step(session=after, events=(warning, entered), actions=(Action.START,))


def _recent(restarts: Sequence[datetime], rules: Rules, now: datetime) -> tuple[datetime, ...]:
    since = now - timedelta(seconds=rules.restarts_window_seconds)
    return tuple(at for at in restarts if at >= since)


# -------------------------------------------------------------------- towards GONE


def _towards_gone(session: Session, facts: Facts, rules: Rules, now: datetime) -> Step:
    match session.phase:
        case Phase.GONE:
            return _released(session)
        case Phase.STOPPING:
            return _stopping(session, facts, rules, now)
        case _ if session.workload is None or _is_gone(facts.observation):
            return _gone(session, rules, now)
        case _:
            after, event = _enter(replace(session, due_at=_later(now, 1)), Phase.STOPPING, "Stopping.", now)
            return Step(session=after, events=(event,), actions=(Action.STOP,))


def _stopping(session: Session, facts: Facts, rules: Rules, now: datetime) -> Step:
    if session.workload is not None and not _is_gone(facts.observation):
        return Step(session=replace(session, due_at=_later(now, 1)), actions=(Action.STOP,))
    if session.target is Target.GONE:
        return _gone(session, rules, now)
    return again(session, now)


def relaunch(session: Session, now: datetime) -> Step:
    """Return the first step of a session that is launched again: its next generation, once nothing of this one runs."""
    is_over = session.phase is Phase.GONE or (session.phase is Phase.FAILED and session.due_at is None)
    if is_over or session.workload is None:
        return again(session, now)
    after = replace(session, due_at=now, failure=None, reason="", step="", retain_until=None)
    if session.phase is Phase.STOPPING:
        return Step(session=after)
    after, event = _enter(after, Phase.STOPPING, "Stopping, to launch again.", now)
    return Step(session=after, events=(event,))


def again(session: Session, now: datetime) -> Step:
    """Return the first step of a session's next generation, as it was last asked for, on the workspace it has."""
    has_workspace = session.has_workspace or session.launched_at is not None
    after = replace(
        session,
        generation=session.generation + 1,
        runtime=session.request.runtime or session.runtime,
        workload=None,
        image=None,
        launched_at=None,
        ready_at=None,
        failure=None,
        reason="",
        step="",
        trouble="",
        trouble_since=None,
        restarts=(),
        image_asked_at=now,
        retain_until=None,
        due_at=now,
        has_workspace=has_workspace,
    )
    message = "Launching again on the workspace kept from before." if has_workspace else "Launching again."
    after, event = _enter(after, Phase.NEW, message, now)
    return Step(session=after, events=(event,))


def _gone(session: Session, rules: Rules, now: datetime) -> Step:
    after = replace(session, due_at=now, retain_until=_later(now, rules.retention_seconds), reason="", step="")
    after, entered = _enter(after, Phase.GONE, "Stopped.", now)
    days = rules.retention_seconds / 86400
    message = f"The session has ended; its folder is kept for {days:g} days." if session.launched_at else "Stopped."
    gone = NewEvent(kind=EventKind.GONE, message=message)
    return Step(session=after, events=(entered, gone), actions=(Action.RELEASE,))


def _fail(session: Session, failure: Failure, now: datetime) -> Step:
    after = replace(session, failure=failure, due_at=now, reason="", step="")
    after, entered = _enter(after, Phase.FAILED, failure.message, now)
    failed = NewEvent(
        kind=EventKind.FAILED, message=failure.message, data={"code": failure.code, "remedy": failure.remedy}
    )
    actions = (Action.STOP, Action.RELEASE) if session.workload else (Action.RELEASE,)
    return Step(session=after, events=(entered, failed), actions=actions)


def _failed(session: Session, facts: Facts, rules: Rules, now: datetime) -> Step:
    retain_until = session.retain_until or _later(now, rules.retention_seconds)
    if session.workload is None or _is_gone(facts.observation):
        return _released(replace(session, retain_until=retain_until))
    return Step(session=replace(session, due_at=_later(now, 1), retain_until=retain_until), actions=(Action.STOP,))


def _released(session: Session) -> Step:
    """Ask for the last action of an ended session until it is done: whoever does it then clears `due_at`."""
    return Step(session=session, actions=() if session.due_at is None else (Action.RELEASE,))


# -------------------------------------------------------------------- words


def _enter(session: Session, phase: Phase, message: str, now: datetime) -> tuple[Session, NewEvent]:
    event = NewEvent(kind=EventKind.PHASE, message=message, data={"from": session.phase.value, "to": phase.value})
    return replace(session, phase=phase, phase_since=now), event


def _is_gone(observation: Observation | None) -> bool:
    return observation is not None and observation.health is Health.GONE


def _cause(seen: Observation, what: str) -> Failure:
    if seen.is_out_of_memory:
        return Failure(
            code="out_of_memory",
            message="The session used more memory than it has and was ended.",
            remedy="Launch again with a larger resource class, or load less data at once.",
        )
    if seen.message:
        return Failure(code="session_ended", message=seen.message, remedy="Look at its log, then launch again.")
    status = f" with exit code {seen.exit_code}" if seen.exit_code is not None else ""
    return Failure(
        code="session_ended", message=f"The session {what}{status}.", remedy="Look at its log, then launch again."
    )


def _later(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)
