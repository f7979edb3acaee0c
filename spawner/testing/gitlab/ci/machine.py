"""The rules by which pipelines and jobs move: pure functions of statuses.

Promises: the same answers as GitLab's `Gitlab::Ci::Status::Composite` and atomic processing (18.x) for what jobs
here can be.
Must not know: the store, time, runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab.records import FINISHED, Job, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WARNING = "success_with_warnings"
_IGNORED = "ignored"
_READY = {
    "on_success": {Status.SUCCESS, Status.SKIPPED},
    "on_failure": {Status.FAILED},
    "always": {Status.SUCCESS, Status.FAILED, Status.SKIPPED, Status.CANCELED},
    "manual": {Status.SUCCESS, Status.SKIPPED},
    "delayed": {Status.SUCCESS, Status.SKIPPED},
}
# In this order: the first row whose set holds every status decides.
_ONLY: tuple[tuple[frozenset[str], Status], ...] = (
    (frozenset({"skipped", _IGNORED}), Status.SKIPPED),
    (frozenset({"success", "skipped", _WARNING, _IGNORED}), Status.SUCCESS),
    (frozenset({"created", _WARNING, _IGNORED}), Status.CREATED),
    (frozenset({"preparing", _WARNING, _IGNORED}), Status.PREPARING),
    (frozenset({"canceled", "success", "skipped", _WARNING, _IGNORED}), Status.CANCELED),
    (frozenset({"pending", "created", "skipped", _WARNING, _IGNORED}), Status.PENDING),
)
# Then: the first status that occurs decides.
_ANY: tuple[tuple[frozenset[str], Status], ...] = (
    (frozenset({"canceling"}), Status.CANCELING),
    (frozenset({"running", "pending"}), Status.RUNNING),
    (frozenset({"waiting_for_resource"}), Status.WAITING_FOR_RESOURCE),
    (frozenset({"waiting_for_callback"}), Status.WAITING_FOR_CALLBACK),
    (frozenset({"manual"}), Status.MANUAL),
    (frozenset({"scheduled"}), Status.SCHEDULED),
    (frozenset({"preparing"}), Status.PREPARING),
    (frozenset({"created"}), Status.RUNNING),
)


def composite(jobs: Iterable[Job]) -> Status | None:
    """Return the one status of many jobs, or None when there are none."""
    present = {_weight(job) for job in jobs}
    if not present:
        return None
    for allowed, status in _ONLY:
        if present <= allowed:
            return status
    for wanted, status in _ANY:
        if present & wanted:
            return status
    return Status.FAILED


def next_status(job: Job, latest: Sequence[Job]) -> Status | None:
    """Return what a created job becomes now, given the latest jobs of its pipeline, or None when it goes on waiting.

    `PENDING` means that nothing holds it but a runner and its resource group.
    """
    before = _before(job, latest)
    by_needs = job.needs is not None
    status = composite(before) or Status.SUCCESS
    if by_needs and any(_weight(row) == Status.SKIPPED for row in before):
        status = Status.SKIPPED
    if status not in FINISHED:
        return None
    wanted = _READY.get(job.when, set())
    if by_needs and job.when in {"on_success", "manual", "delayed"}:
        wanted = {Status.SUCCESS}
    if status not in wanted:
        return Status.SKIPPED
    match job.when:
        case "manual":
            return Status.MANUAL
        case "delayed":
            return Status.SCHEDULED
    return Status.PENDING


def _before(job: Job, latest: Sequence[Job]) -> list[Job]:
    if job.needs is not None:
        return [row for row in latest if names_of(row.name) & set(job.needs)]
    return [row for row in latest if row.stage_index < job.stage_index and not row.external]


def names_of(name: str) -> set[str]:
    """Return the names a job answers to: `needs: [test]` means every one of `test 1/3` and `test: [a]`."""
    names = {name, name.split(": [", 1)[0]}
    head, _, tail = name.rpartition(" ")
    if head and "/" in tail and tail.replace("/", "").isdigit():
        names.add(head)
    return names


def _weight(job: Job) -> str:
    if job.allow_failure and job.status in {Status.FAILED, Status.CANCELED}:
        return _WARNING
    if job.allow_failure and job.status is Status.MANUAL:
        return _IGNORED
    return job.status.value
