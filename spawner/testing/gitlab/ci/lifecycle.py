"""Moves jobs and pipelines from state to state, and tells the hooks.

Promises: every change of a job brings its pipeline up to date in the same transaction, releases its resource group,
retries what is to be retried and starts or skips what waited for it. Each change is announced once, after it is
kept. A finished job never changes its state; whether a step may be taken is decided on the job as it is by then, not
as its caller saw it.
Must not know: HTTP, runners' requests.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from spawner.testing.gitlab.ci.machine import composite, next_status
from spawner.testing.gitlab.hooks import events
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import ALIVE, FINISHED, Job, Pipeline, Status, User

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

_HOLDS_RESOURCE = frozenset({Status.PENDING, Status.RUNNING, Status.PREPARING, Status.CANCELING})
_CANCELABLE = ALIVE | {Status.SCHEDULED, Status.MANUAL}
_PLAYABLE = frozenset({Status.MANUAL, Status.SCHEDULED})
_RETRYABLE = frozenset({Status.SUCCESS, Status.FAILED, Status.CANCELED})


class WrongStateError(Exception):
    """A job is in a state in which it cannot be played or retried."""


def latest_jobs(instance: Instance, pipeline_id: int) -> list[Job]:
    """Return the jobs of a pipeline without those that were retried."""
    return instance.store.all(Job, lambda job: job.pipeline_id == pipeline_id and not job.retried)


def move(
    instance: Instance, job: Job, status: Status, *, reason: str | None = None, exit_code: int | None = None
) -> Job:
    """Put a job in a state, with everything that follows; one that is there, or has finished, stays as it is."""
    with instance.store as store:
        present = store.get(Job, job.id)
        if present is None or present.status is status or present.status in FINISHED:
            return present or job
        if present.status is Status.CANCELING and status in {Status.SUCCESS, Status.FAILED}:
            status, reason = Status.CANCELED, None
        moved = store.put(_stamped(present, status, reason, exit_code))
        events.job_changed(instance, moved)
        if status is Status.FAILED:
            _retry_by_itself(instance, moved)
        if status not in _HOLDS_RESOURCE and moved.resource_group:
            _release(instance, moved)
        advance(instance, moved.pipeline_id)
        return store.get(Job, job.id) or moved


def bridged(instance: Instance, bridge: Job, downstream: Pipeline) -> Job:
    """Note what a trigger job has started; it is done with that, unless it depends on how the other one ends."""
    with instance.store as store:
        noted = store.change(bridge, downstream_id=downstream.id)
        if noted.trigger and noted.trigger.depends and downstream.status not in FINISHED:
            return move(instance, noted, Status.RUNNING)
        return move(instance, noted, _as_bridge(noted, downstream.status))


def advance(instance: Instance, pipeline_id: int) -> None:
    """Start, skip or hold what can move in a pipeline, then bring its own status up to date."""
    with instance.store as store:
        waiting = True
        while waiting:
            latest = latest_jobs(instance, pipeline_id)
            steps = [(job, next_status(job, latest)) for job in latest if job.status is Status.CREATED]
            due = [(job, status) for job, status in steps if status is not None]
            for job, status in due:
                _enter(instance, job, status)
            waiting = bool(due)
        pipeline = store.get(Pipeline, pipeline_id)
        if pipeline is not None:
            _update(instance, pipeline)


def enqueue(instance: Instance, job: Job) -> Job:
    """Give a job to the runners, or let it wait for its resource group."""
    with instance.store as store:
        if job.resource_group and _holder(instance, job):
            waiting = store.change(job, status=Status.WAITING_FOR_RESOURCE, updated_at=now())
            events.job_changed(instance, waiting)
            return waiting
        queued = store.change(job, status=Status.PENDING, queued_at=now(), updated_at=now())
        events.job_changed(instance, queued)
        return queued


def play(instance: Instance, job: Job, user: User, variables: tuple[tuple[str, str], ...]) -> Job:
    """Start a manual or delayed job for a person; raises WrongStateError for any other."""
    with instance.store as store:
        present = store.get(Job, job.id)
        if present is None or present.status not in _PLAYABLE:
            raise WrongStateError
        started = store.change(present, user_id=user.id, variables=present.variables + variables, scheduled_at=None)
        queued = enqueue(instance, started)
        advance(instance, job.pipeline_id)
        return queued


def retry(instance: Instance, job: Job, user_id: int, *, by_itself: bool = False) -> Job:
    """Make a new job of the same name, with a new id; what was skipped because of the old one waits for it again.

    Raises:
        WrongStateError: it has not finished, or was retried before.
    """
    with instance.store as store:
        present = store.get(Job, job.id)
        if present is None or present.status not in _RETRYABLE or present.retried:
            raise WrongStateError
        store.change(present, retried=True)
        moment = now()
        fresh = store.put(
            replace(
                _untouched(job),
                id=store.next_id(Job),
                user_id=user_id,
                created_at=moment,
                updated_at=moment,
                retries_count=job.retries_count + 1 if by_itself else 0,
            )
        )
        for later in latest_jobs(instance, job.pipeline_id):
            depends = job.name in later.needs if later.needs is not None else later.stage_index > job.stage_index
            if later.status is Status.SKIPPED and depends:
                store.put(replace(_untouched(later), updated_at=moment))
        events.job_changed(instance, fresh)
        queued = enqueue(instance, fresh)
        advance(instance, job.pipeline_id)
        return queued


def cancel_job(instance: Instance, job: Job) -> Job:
    """Cancel a job that has not finished; cancelling it twice is no error.

    One that runs is `canceling` until its runner has seen to its after_script, where the runner can do that.
    """
    if job.status is Status.RUNNING and job.cancels_gracefully:
        return move(instance, job, Status.CANCELING)
    return move(instance, job, Status.CANCELED) if job.status in _CANCELABLE else job


def hold(instance: Instance, job: Job, status: Status) -> Job:
    """Keep a job that no runner has yet in a state of GitLab's own (`preparing`, `waiting_for_callback`).

    Raises:
        WrongStateError: a runner has it, or it has finished.
    """
    with instance.store as store:
        present = store.get(Job, job.id)
        if present is None or present.status not in ALIVE - {Status.RUNNING}:
            raise WrongStateError
        if status is Status.PENDING:
            held = enqueue(instance, present)
        else:
            held = store.change(present, status=status, updated_at=now())
            events.job_changed(instance, held)
        advance(instance, job.pipeline_id)
        return held


def cancel_pipeline(instance: Instance, pipeline: Pipeline) -> Pipeline:
    """Cancel everything in a pipeline and its child pipelines that has not finished."""
    with instance.store as store:
        # Latest stages first, so that nothing is skipped in passing that a person asked to cancel.
        for job in sorted(latest_jobs(instance, pipeline.id), key=lambda row: -row.stage_index):
            if job.status in _CANCELABLE and not (job.status is Status.MANUAL and job.allow_failure):
                cancel_job(instance, job)
        for child in _children(instance, pipeline):
            cancel_pipeline(instance, child)
        return store.get(Pipeline, pipeline.id) or pipeline


def cancel_redundant(instance: Instance, pipeline: Pipeline) -> None:
    """Cancel older pipelines of the same ref, unless a job that may not be interrupted has started in them."""
    older = instance.store.all(
        Pipeline,
        lambda row: (
            row.project_id == pipeline.project_id
            and row.ref == pipeline.ref
            and row.id < pipeline.id
            and row.sha != pipeline.sha
            and row.status in ALIVE | {Status.SCHEDULED}
        ),
    )
    for row in older:
        jobs = latest_jobs(instance, row.id)
        if all(job.interruptible or job.started_at is None for job in jobs):
            cancel_pipeline(instance, row)


def tick(instance: Instance) -> None:
    """Do what time brings: delayed jobs start, long ones and stuck ones end."""
    for seen in instance.store.all(Job, lambda row: row.status not in FINISHED and not row.external):
        with instance.store as store:
            job = store.get(Job, seen.id)
            if job is not None:
                _keep_time(instance, job)


def _keep_time(instance: Instance, job: Job) -> None:
    moment, stuck_after = now(), timedelta(seconds=instance.limits.stuck_seconds)
    if job.status is Status.SCHEDULED and job.scheduled_at and job.scheduled_at <= moment:
        enqueue(instance, job)
        advance(instance, job.pipeline_id)
    elif job.status in {Status.RUNNING, Status.CANCELING} and job.started_at:
        _end_running(instance, job)
    elif job.status is Status.PENDING and job.queued_at and moment - job.queued_at > stuck_after:
        move(instance, job, Status.FAILED, reason="stuck_or_timeout_failure")


def _end_running(instance: Instance, job: Job) -> None:
    moment = now()
    if job.started_at and moment - job.started_at > timedelta(seconds=job.timeout_seconds):
        move(instance, job, Status.FAILED, reason="job_execution_timeout")
    elif moment - job.updated_at > timedelta(seconds=instance.limits.abandoned_seconds):
        move(instance, job, Status.FAILED, reason="stuck_or_timeout_failure")


def _stamped(job: Job, status: Status, reason: str | None, exit_code: int | None) -> Job:
    moment = now()
    moved = replace(job, status=status, updated_at=moment)
    if status is Status.RUNNING:
        moved = replace(moved, started_at=moment)
    if status in FINISHED and status is not Status.SKIPPED:
        moved = replace(moved, finished_at=moment)
    if status is Status.FAILED:
        forgiven = job.allow_failure or (exit_code in job.allow_failure_exit_codes)
        moved = replace(moved, failure_reason=reason or "unknown_failure", exit_code=exit_code, allow_failure=forgiven)
    return moved


def _untouched(job: Job) -> Job:
    return replace(
        job,
        status=Status.CREATED,
        retried=False,
        scheduled_at=None,
        queued_at=None,
        started_at=None,
        finished_at=None,
        erased_at=None,
        failure_reason=None,
        exit_code=None,
        runner_id=None,
        token=None,
        held=False,
        artifacts=(),
        artifacts_expire_at=None,
        dotenv=(),
        downstream_id=None,
    )


def _enter(instance: Instance, job: Job, status: Status) -> None:
    if status is Status.PENDING:
        enqueue(instance, job)
        return
    fields: dict[str, object] = {"status": status, "updated_at": now()}
    if status is Status.SCHEDULED:
        fields["scheduled_at"] = now() + timedelta(seconds=job.start_in_seconds or 0)
    events.job_changed(instance, instance.store.change(job, **fields))


def _update(instance: Instance, pipeline: Pipeline) -> None:
    jobs = latest_jobs(instance, pipeline.id)
    status = composite(jobs) or pipeline.status
    starts = [job.started_at for job in jobs if job.started_at]
    fields: dict[str, object] = {"started_at": pipeline.started_at or min(starts, default=None)}
    if status in FINISHED:
        fields["finished_at"] = pipeline.finished_at or now()
    else:
        fields["finished_at"] = None
    if status is not pipeline.status or fields["started_at"] != pipeline.started_at:
        changed = instance.store.change(pipeline, status=status, updated_at=now(), **fields)
        if status is not pipeline.status:
            events.pipeline_changed(instance, changed)
            _end_bridge(instance, changed)


def _end_bridge(instance: Instance, pipeline: Pipeline) -> None:
    """End the trigger job that depends on this pipeline, as it has ended."""
    bridge = instance.store.get(Job, pipeline.bridge_id) if pipeline.bridge_id else None
    if bridge and pipeline.status in FINISHED and bridge.status is Status.RUNNING:
        move(instance, bridge, _as_bridge(bridge, pipeline.status))


def _as_bridge(bridge: Job, status: Status) -> Status:
    is_bad = status in {Status.FAILED, Status.CANCELED} and bridge.trigger is not None and bridge.trigger.depends
    return Status.FAILED if is_bad else Status.SUCCESS


def _children(instance: Instance, pipeline: Pipeline) -> list[Pipeline]:
    started = {job.downstream_id for job in latest_jobs(instance, pipeline.id) if job.downstream_id}
    return instance.store.all(Pipeline, lambda row: row.id in started and row.source == "parent_pipeline")


def _retry_by_itself(instance: Instance, job: Job) -> None:
    reasons = set(job.retry_when or ("always",))
    if job.retries_count < job.retry_max and reasons & {"always", job.failure_reason}:
        retry(instance, job, job.user_id, by_itself=True)


def _holder(instance: Instance, job: Job) -> Job | None:
    return instance.store.first(
        Job,
        lambda row: (
            row.project_id == job.project_id
            and row.resource_group == job.resource_group
            and row.id != job.id
            and row.status in _HOLDS_RESOURCE
        ),
    )


def _release(instance: Instance, job: Job) -> None:
    waiting = instance.store.first(
        Job,
        lambda row: (
            row.project_id == job.project_id
            and row.resource_group == job.resource_group
            and row.status is Status.WAITING_FOR_RESOURCE
        ),
    )
    if waiting and not _holder(instance, waiting):
        enqueue(instance, waiting)
        advance(instance, waiting.pipeline_id)
