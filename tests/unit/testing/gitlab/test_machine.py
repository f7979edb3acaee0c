"""The rules by which jobs and pipelines move.

Covered: the status of many jobs, what a created job becomes, automatic retries by reason, auto-cancel, what
people and time may not do to a finished job.
Left out: what a server adds (the forge contract).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from spawner.testing.gitlab.ci import lifecycle
from spawner.testing.gitlab.ci.machine import composite, next_status
from spawner.testing.gitlab.records import Job, Pipeline, Status
from spawner.testing.gitlab.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Project, User

_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def _job(status: str, **more: Any) -> Job:
    fields: dict[str, Any] = {
        "id": 1,
        "pipeline_id": 1,
        "project_id": 1,
        "name": "job",
        "stage": "build",
        "stage_index": 0,
        "user_id": 1,
        "created_at": _MOMENT,
        "updated_at": _MOMENT,
    }
    return Job(**(fields | {"status": Status(status)} | more))


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], None),
        (["success"], "success"),
        (["success", "skipped"], "success"),
        (["skipped"], "skipped"),
        (["success", "failed"], "failed"),
        (["success", "failed?"], "success"),
        (["failed?"], "success"),
        (["success", "canceled"], "canceled"),
        (["success", "canceled?"], "success"),
        (["failed", "running"], "running"),
        (["pending", "created"], "pending"),
        (["created"], "created"),
        (["success", "created"], "running"),
        (["success", "pending"], "running"),
        (["success", "manual"], "manual"),
        (["success", "manual?"], "success"),
        (["manual?"], "skipped"),
        (["success", "scheduled"], "scheduled"),
        (["success", "waiting_for_resource"], "waiting_for_resource"),
        (["success", "canceling"], "canceling"),
    ],
)
def test_status_of_many_jobs(statuses: list[str], expected: str | None) -> None:
    """A pipeline's status follows from its jobs'; `?` marks a job that may fail."""
    jobs = [_job(word.rstrip("?"), allow_failure=word.endswith("?")) for word in statuses]
    assert expected == composite(jobs)


@pytest.mark.parametrize(
    ("when", "before", "expected"),
    [
        ("on_success", [], "pending"),
        ("on_success", ["success"], "pending"),
        ("on_success", ["skipped"], "pending"),
        ("on_success", ["failed"], "skipped"),
        ("on_success", ["failed?"], "pending"),
        ("on_success", ["canceled"], "skipped"),
        ("on_success", ["running"], None),
        ("on_success", ["manual"], None),
        ("on_success", ["manual?"], "pending"),
        ("on_failure", ["failed"], "pending"),
        ("on_failure", ["success"], "skipped"),
        ("always", ["failed"], "pending"),
        ("always", ["canceled"], "pending"),
        ("manual", ["success"], "manual"),
        ("manual", ["failed"], "skipped"),
        ("delayed", ["success"], "scheduled"),
    ],
)
def test_next_status_by_stage(when: str, before: list[str], expected: str | None) -> None:
    """What a job of the second stage becomes follows from the first stage and its `when`."""
    earlier = [_job(word.rstrip("?"), allow_failure=word.endswith("?"), id=2, name="earlier") for word in before]
    job = _job("created", when=when, stage_index=1)
    assert expected == next_status(job, [*earlier, job])


@pytest.mark.parametrize(
    ("needs", "names", "status", "expected"),
    [
        ((), ["slow"], "running", "pending"),
        (("slow",), ["slow"], "running", None),
        (("slow",), ["slow"], "success", "pending"),
        (("slow",), ["slow"], "skipped", "skipped"),
        (("slow",), ["slow"], "failed", "skipped"),
        (("slow",), ["slow 1/2", "slow 2/2"], "running", None),
        (("slow",), ["slow: [a]"], "running", None),
        (("slow",), ["slower"], "running", "pending"),
    ],
)
def test_next_status_by_needs(needs: tuple[str, ...], names: list[str], status: str, expected: str | None) -> None:
    """A job with `needs` looks at those jobs only, whatever their stage; one name means all of a parallel job."""
    others = [_job(status, id=index + 2, name=name) for index, name in enumerate(names)]
    job = _job("created", needs=needs, stage_index=5)
    assert expected == next_status(job, [*others, job])


def _kept(instance: Instance, project: Project, user: User, **more: Any) -> Job:
    store = instance.store
    pipeline = store.put(
        Pipeline(
            id=store.next_id(Pipeline),
            sequence=1,
            project_id=project.id,
            sha="a" * 40,
            before_sha="0" * 40,
            ref="main",
            tag=False,
            source="push",
            status=Status.CREATED,
            user_id=user.id,
            created_at=_MOMENT,
            updated_at=_MOMENT,
        )
    )
    job = _job("running", id=store.next_id(Job), pipeline_id=pipeline.id, project_id=project.id, user_id=user.id)
    fields = {name: getattr(job, name) for name in Job.__dataclass_fields__}
    return store.put(Job(**(fields | more)))


@pytest.mark.parametrize(
    ("retry_max", "retry_when", "reason", "retried"),
    [
        (0, (), "script_failure", False),
        (1, (), "script_failure", True),
        (1, ("always",), "unknown_failure", True),
        (1, ("runner_system_failure",), "runner_system_failure", True),
        (1, ("runner_system_failure",), "script_failure", False),
    ],
)
def test_automatic_retry_by_reason(  # noqa: PLR0917 - a table's columns
    instance: Instance,
    project: Project,
    ada: User,
    retry_max: int,
    retry_when: tuple[str, ...],
    reason: str,
    retried: bool,  # noqa: FBT001 - a table's column
) -> None:
    """A failed job is made anew when its reason is among those to retry, and not for ever."""
    job = _kept(instance, project, ada, retry_max=retry_max, retry_when=retry_when)
    lifecycle.move(instance, job, Status.FAILED, reason=reason)
    latest = lifecycle.latest_jobs(instance, job.pipeline_id)
    assert [row.status for row in latest] == [Status.PENDING if retried else Status.FAILED]
    if retried:
        lifecycle.move(instance, latest[0], Status.FAILED, reason=reason)
        assert [row.status for row in lifecycle.latest_jobs(instance, job.pipeline_id)] == [Status.FAILED]


def test_exit_codes_that_may_fail(instance: Instance, project: Project, ada: User) -> None:
    """A failure with an allowed exit code leaves the pipeline green; another one does not."""
    outcomes = []
    for code in (42, 1):
        job = _kept(instance, project, ada, allow_failure_exit_codes=(42,))
        lifecycle.move(instance, job, Status.FAILED, reason="script_failure", exit_code=code)
        pipeline = instance.store.get(Pipeline, job.pipeline_id)
        assert pipeline
        outcomes.append(pipeline.status)
    assert outcomes == [Status.SUCCESS, Status.FAILED]


def test_retried_job_wakes_what_was_skipped(instance: Instance, project: Project, ada: User) -> None:
    """What was skipped because of a failed job waits again when that job is retried."""
    first = _kept(instance, project, ada)
    later = instance.store.put(
        _job(
            "created",
            id=instance.store.next_id(Job),
            pipeline_id=first.pipeline_id,
            project_id=project.id,
            user_id=ada.id,
            name="later",
            stage_index=1,
        )
    )
    lifecycle.move(instance, first, Status.FAILED, reason="script_failure")
    skipped = instance.store.get(Job, later.id)
    failed = instance.store.get(Job, first.id)
    assert skipped
    assert failed
    assert skipped.status is Status.SKIPPED
    fresh = lifecycle.retry(instance, failed, ada.id)
    woken = instance.store.get(Job, later.id)
    assert woken
    assert woken.status is Status.CREATED
    lifecycle.move(instance, fresh, Status.RUNNING)
    lifecycle.move(instance, fresh, Status.SUCCESS)
    started = instance.store.get(Job, later.id)
    assert started
    assert started.status is Status.PENDING


@pytest.mark.parametrize("finished", ["canceled", "failed", "success"])
@pytest.mark.parametrize("wanted", ["success", "failed", "canceled", "running"])
def test_finished_job_stays_finished(
    instance: Instance, project: Project, ada: User, finished: str, wanted: str
) -> None:
    """Who saw a job running moves it no more once it has finished."""
    seen = _kept(instance, project, ada, retry_max=2)
    ended = lifecycle.move(instance, _kept(instance, project, ada), Status(finished))
    moved = lifecycle.move(instance, replace(seen, id=ended.id), Status(wanted), reason="job_execution_timeout")
    assert moved == ended
    assert instance.store.all(Job, lambda row: row.pipeline_id == ended.pipeline_id) == [ended]


class _Interrupted(Store):
    """A store in which something else happens right after the first look at all jobs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.between: list[Callable[[], object]] = []

    def all(self, kind: Any, where: Any = None) -> list[Any]:
        rows = super().all(kind, where)
        while self.between:
            self.between.pop()()
        return rows


@pytest.mark.parametrize(
    ("fields", "meanwhile"),
    [
        ({"status": Status.SCHEDULED, "scheduled_at": _MOMENT}, Status.CANCELED),
        ({"status": Status.RUNNING, "started_at": _MOMENT}, Status.SUCCESS),
        ({"status": Status.PENDING, "queued_at": _MOMENT}, Status.CANCELED),
    ],
)
def test_time_does_not_move_what_has_finished(
    instance: Instance, project: Project, ada: User, tmp_path: Path, fields: Any, meanwhile: Status
) -> None:
    """A job that ends while time is being kept is neither started nor failed."""
    store = _Interrupted(tmp_path / "interrupted.sqlite3")
    instance = replace(instance, store=store)
    job = _kept(instance, project, ada, **fields)
    store.between = [lambda: lifecycle.move(instance, job, meanwhile)]
    lifecycle.tick(instance)
    assert [row.status for row in store.all(Job)] == [meanwhile]
    store.close()


def test_what_was_retried_or_played_is_not_again(instance: Instance, project: Project, ada: User) -> None:
    """Two people who see the same failed or manual job make one new job, and start it once."""
    failed = lifecycle.move(instance, _kept(instance, project, ada), Status.FAILED, reason="script_failure")
    lifecycle.retry(instance, failed, ada.id)
    with pytest.raises(lifecycle.WrongStateError):
        lifecycle.retry(instance, failed, ada.id)
    assert len(lifecycle.latest_jobs(instance, failed.pipeline_id)) == 1
    manual = _kept(instance, project, ada, status=Status.MANUAL)
    lifecycle.play(instance, manual, ada, ())
    with pytest.raises(lifecycle.WrongStateError):
        lifecycle.play(instance, manual, ada, ())
