"""The ladder, as a pure function: from what is known of a commit to the image it starts with, or why not yet.

For: `SessionService` asks at every reconcile; the answer is shown to the person word for word.
Promises: the same facts, policy and time give the same decision; every wait ends (each has a budget that is
counted from a time in the facts); "cannot be asked" is never "does not exist".
Must not know: how facts are collected, who waits, GitLab's or a registry's protocol.

The rungs: requested, exact, same environment, waiting for a build, then the fallback (nearest ancestor or
default). The table of job statuses and failure reasons follows GitLab's `commit_status.rb` (17.x-19.x).
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from spawner.errors import foreign
from spawner.images.model import (
    Build,
    BuildPolicy,
    ChosenImage,
    Decision,
    Facts,
    Fallback,
    FallbackPolicy,
    Found,
    ImageSource,
    Policy,
    Ready,
    Unavailable,
    Waiting,
)
from spawner.names import SHORT_SHA_LENGTH
from spawner.ports import BuildJob, ImageKind, JobStatus

LOOK_AGAIN_SECONDS = 5.0  # a wait without an end of its own is looked at this often
CANCELING_CAP_SECONDS = 60.0  # a runner's after_script; a guess
PUSHED_SECONDS = 5.0  # GitLab makes a pushed commit's pipeline within them: not a second one for `build: now`; a guess

_QUEUED = {
    JobStatus.CREATED: "waits for an earlier stage",
    JobStatus.WAITING_FOR_RESOURCE: "waits for a resource that another job holds",
    JobStatus.PREPARING: "is being prepared",
    JobStatus.WAITING_FOR_CALLBACK: "waits for an outside answer",
    JobStatus.PENDING: "waits for a runner",
    JobStatus.UNKNOWN: "has a status that this release does not know",
}
_FAILURES = {
    "script_failure": "a command of the job failed",
    "job_execution_timeout": "it ran longer than its time limit",
    "stuck_or_timeout_failure": "no runner took it, or its runner fell silent",
    "runner_system_failure": "the runner had a problem of its own",
    "runner_interrupted": "the runner was interrupted",
    "runner_unsupported": "the runner is too old for this job",
    "api_failure": "GitLab failed to run it",
    "missing_dependency_failure": "files of an earlier job are missing",
    "stale_schedule": "its delayed start came too late",
    "archived_failure": "the job is archived",
    "unmet_prerequisites": "its prerequisites were not met",
    "scheduler_failure": "GitLab could not schedule it",
    "data_integrity_failure": "GitLab's data about it is damaged",
    "forward_deployment_failure": "a newer deployment was already there",
    "user_blocked": "the person who started it is blocked",
    "project_deleted": "the project was deleted",
    "ci_quota_exceeded": "the compute quota is used up",
    "pipeline_loop_detected": "its pipelines call each other in a ring",
    "no_matching_runner": "no runner matches its tags",
    "trace_size_exceeded": "its log grew too long",
    "builds_disabled": "CI is switched off for the project",
    "environment_creation_failure": "its environment could not be created",
    "image_pull_failure": "the runner could not pull the job's own image",
}
# Ends of a wait after which another build may be begun.
BUILDABLE = frozenset({
    "build_manual", "build_scheduled", "build_failed", "build_canceled", "build_skipped", "image_missing",
    "no_build_job", "no_pipeline",
})  # fmt: skip
_SEEN = frozenset({"build_manual", "build_failed", "build_canceled", "build_skipped", "no_build_job"})
# The better a status, the earlier it stands: the job to go by is the best one, the newest within a class.
_PREFERENCE = (
    (JobStatus.SUCCESS,),
    (JobStatus.RUNNING, JobStatus.CANCELING),
    (JobStatus.PENDING, JobStatus.PREPARING, JobStatus.WAITING_FOR_CALLBACK, JobStatus.WAITING_FOR_RESOURCE),
    (JobStatus.CREATED, JobStatus.UNKNOWN),
    (JobStatus.SCHEDULED,),
    (JobStatus.MANUAL,),
    (JobStatus.FAILED, JobStatus.CANCELED, JobStatus.SKIPPED),
)
MOVING = frozenset(status for rank in _PREFERENCE[1:5] for status in rank)


def best_job(jobs: Iterable[BuildJob]) -> BuildJob | None:
    """Return the job to go by among all of the build job's name on one commit, or None."""
    ranks = {status: rank for rank, statuses in enumerate(_PREFERENCE) for status in statuses}
    return min(jobs, key=lambda job: (ranks[job.status], -job.id), default=None)


def resolve(facts: Facts, policy: Policy, now: datetime) -> Decision:
    """Decide which image a commit starts with, or what is awaited and until when."""
    if facts.requested_reference is not None:
        is_unknown = bool(facts.trouble) and facts.requested is None
        return _troubled(facts, policy, now) if is_unknown else _requested(facts, facts.requested_reference)
    found = _rung(facts)
    if found is not None:
        return found
    if facts.trouble:
        return _troubled(facts, policy, now)
    if policy.is_start_now:
        return Fallback(code="start_now", reason="You chose to start now instead of waiting for the build.")
    if policy.build is BuildPolicy.NEVER:
        return Fallback(code="no_image", reason="This commit has no image, and the launch asked not to wait for one.")
    return _wait(facts, policy, now)


def _rung(facts: Facts) -> Ready | None:
    for found, source in ((facts.exact, ImageSource.EXACT), (facts.environment, ImageSource.ENVIRONMENT)):
        if found is not None and found.kind in facts.accepts:
            return Ready(image=_chosen(found, _arrived(source, facts)))
    return None


def _troubled(facts: Facts, policy: Policy, now: datetime) -> Waiting | Fallback:
    patience = (facts.trouble_since or now) + timedelta(seconds=policy.registry_budget_seconds)
    if now < patience and not policy.is_start_now:
        return Waiting(reason=facts.trouble, due_at=_soon(now, patience), is_trouble=True)
    return Fallback(code="registry_unavailable", reason=facts.trouble)


def fall(facts: Facts, policy: Policy, fallback: Fallback) -> Ready | Unavailable:
    """Take the rung below waiting that the policy names; `facts.ancestor` is looked at only where it may be."""
    if policy.fallback is FallbackPolicy.FAIL:
        return Unavailable(
            code=fallback.code,
            reason=fallback.reason,
            remedy="Mend the build, or launch with the fallback 'default'.",
        )
    ancestor = facts.ancestor
    if policy.fallback is FallbackPolicy.ANCESTOR and ancestor is not None and ancestor.kind in facts.accepts:
        chosen = _chosen(ancestor, ImageSource.ANCESTOR)
        return Ready(image=_because(chosen, f"{fallback.reason} {chosen.reason}"))
    if facts.default is None:
        return Unavailable(
            code=fallback.code,
            reason=f"{fallback.reason} No default image is set.",
            remedy="Ask whoever runs this service to set a default image, or mend the build.",
        )
    return Ready(image=_because(facts.default, f"{fallback.reason} The default image is used instead."))


def _requested(facts: Facts, reference: str) -> Decision:
    found = facts.requested
    if found is not None and found.kind in facts.accepts:
        return Ready(image=_chosen(found, ImageSource.REQUESTED))
    why = (
        f"The requested image {foreign(reference)} is a {found.kind} image, which this runtime cannot start."
        if found is not None
        else f"The requested image {foreign(reference)} does not exist, or you may not pull it."
    )
    if facts.default is None:
        return Unavailable(code="requested_image_missing", reason=why, remedy="Launch without naming an image.")
    return Ready(image=_because(facts.default, f"{why} The default image is used instead."))


def _arrived(source: ImageSource, facts: Facts) -> ImageSource:
    """Say BUILT for the commit's own image when its build ended while this launch was waiting."""
    build = facts.build
    if source is ImageSource.EXACT and build is not None and build.job is not None:
        finished_at = build.job.finished_at or build.finished_at
        if build.job.status is JobStatus.SUCCESS and finished_at is not None and finished_at >= facts.asked_at:
            return ImageSource.BUILT
    return source


def _chosen(found: Found, source: ImageSource) -> ChosenImage:
    commit = (found.built_for_commit or "")[:SHORT_SHA_LENGTH]
    sentence = {
        ImageSource.REQUESTED: "The image you asked for.",
        ImageSource.EXACT: "This commit's own image.",
        ImageSource.BUILT: "This commit's own image, just built.",
        ImageSource.ENVIRONMENT: f"Commit {commit or 'another'} declared the same environment, so its image is reused.",
        ImageSource.ANCESTOR: f"The image of the nearest ancestor that has one, {commit}, is used instead.",
        ImageSource.DEFAULT: "The default image.",
    }[source]
    return ChosenImage(
        reference=found.image.pinned,
        digest=found.image.digest,
        kind=found.kind,
        source=source,
        reason=f"{sentence} ({found.note})" if found.note else sentence,
        tag=found.tag,
        environment_key=found.environment_key,
        built_for_commit=found.built_for_commit,
    )


def _because(image: ChosenImage, reason: str) -> ChosenImage:
    return ChosenImage(
        reference=image.reference,
        digest=image.digest,
        kind=image.kind,
        source=image.source,
        reason=reason,
        tag=image.tag,
        environment_key=image.environment_key,
        built_for_commit=image.built_for_commit,
    )


def _wait(facts: Facts, policy: Policy, now: datetime) -> Waiting | Fallback:
    build = facts.build
    if facts.expected_kinds and not facts.expected_kinds & facts.accepts:
        kinds = " and ".join(f"{kind} images" for kind in sorted(facts.expected_kinds))
        reason = f"This commit's slipway.toml says that its build makes {kinds}, which this runtime cannot start."
        return Fallback(code="wrong_kind", reason=reason)
    if build is None or build.checked_at is None:
        return _budgeted(
            "Asking GitLab for this commit's build.",
            started_at=facts.asked_at,
            seconds=policy.queue_budget_seconds,
            now=now,
            spent=Fallback(code="gitlab_unavailable", reason=f"GitLab could not be asked. {_trouble(build)}".strip()),
        )
    decision = _by_row(build, facts, policy, now)
    return _with_trouble(decision, build.trouble) if build.trouble else decision


def _with_trouble(decision: Waiting | Fallback, trouble: str) -> Waiting | Fallback:
    """Say that what is known of the build is old, because GitLab cannot be asked; what was seen to end has ended."""
    if isinstance(decision, Waiting):
        return replace(decision, reason=f"{decision.reason} GitLab cannot be asked just now: {trouble}")
    if decision.code in _SEEN:
        return decision
    return Fallback(code="gitlab_unavailable", reason=f"GitLab could not be asked. {trouble}")


def _by_row(build: Build, facts: Facts, policy: Policy, now: datetime) -> Waiting | Fallback:
    if build.job is None:
        return _without_job(build, facts, policy, now)
    return _by_status(build, build.job, facts, policy, now)


def _without_job(build: Build, facts: Facts, policy: Policy, now: datetime) -> Waiting | Fallback:
    if any(pipeline.source != "external" for pipeline in build.pipelines):
        pipeline = build.pipelines[0]
        return Fallback(
            code="no_build_job",
            reason=f"Pipeline {pipeline.id} of this commit has no job named '{build.job_name}' ({pipeline.status}).",
        )
    is_ordered = build.ordered_at is not None and build.ordered_at >= facts.asked_at
    is_impatient = policy.build is BuildPolicy.NOW and not is_ordered
    return _budgeted(
        "GitLab has made no pipeline for this commit yet.",
        started_at=max(facts.asked_at, build.ordered_at or facts.asked_at),
        seconds=min(policy.grace_seconds, PUSHED_SECONDS) if is_impatient else policy.grace_seconds,
        now=now,
        spent=Fallback(code="no_pipeline", reason="GitLab made no pipeline for this commit."),
        can_build_now=True,
    )


def _by_status(  # noqa: PLR0911 - one return per class of status: the table reads as the table it implements
    build: Build, job: BuildJob, facts: Facts, policy: Policy, now: datetime
) -> Waiting | Fallback:
    where = f"'{job.name}' (job {job.id})"
    match job.status:
        case (
            JobStatus.CREATED
            | JobStatus.WAITING_FOR_RESOURCE
            | JobStatus.PREPARING
            | JobStatus.WAITING_FOR_CALLBACK
            | JobStatus.PENDING
            | JobStatus.UNKNOWN
        ):
            return _queued(build, job, facts, policy, now)
        case JobStatus.RUNNING:
            return _budgeted(
                f"The build job {where} is running.",
                started_at=job.started_at or facts.asked_at,
                seconds=policy.build_budget_seconds,
                now=now,
                spent=Fallback(code="build_too_long", reason=f"The build job {where} ran longer than we wait for one."),
            )
        case JobStatus.SUCCESS:
            return _budgeted(
                f"The build job {where} succeeded; waiting for the registry to show its image.",
                started_at=build.finished_at or facts.asked_at,
                seconds=policy.push_lag_seconds,
                now=now,
                spent=Fallback(
                    code="image_missing",
                    reason=f"The build job {where} succeeded, but no image of this commit is in the registry.",
                ),
            )
        case JobStatus.CANCELING:
            return _budgeted(
                f"The build job {where} is being cancelled.",
                started_at=build.finished_at or facts.asked_at,
                seconds=CANCELING_CAP_SECONDS,
                now=now,
                spent=Fallback(code="build_canceled", reason=f"The build job {where} was cancelled."),
            )
        case JobStatus.FAILED:
            return Fallback(code="build_failed", reason=failure_sentence(job))
        case JobStatus.CANCELED:
            return Fallback(code="build_canceled", reason=f"The build job {where} was cancelled.")
        case JobStatus.SKIPPED:
            return Fallback(code="build_skipped", reason=f"The build job {where} was skipped.")
        case JobStatus.MANUAL:
            return Fallback(code="build_manual", reason=f"The build job {where} waits for somebody to start it.")
        case JobStatus.SCHEDULED:
            return _scheduled(job, facts, policy, now)
        case _:
            assert_never(job.status)


def _queued(build: Build, job: BuildJob, facts: Facts, policy: Policy, now: datetime) -> Waiting | Fallback:
    # The person's wait counts from when they asked: a job that was queued long before may still start now.
    # One that the launch has had played counts from then, when it was queued.
    started_at = max(at for at in (job.created_at, facts.asked_at, build.ordered_at) if at is not None)
    says = _QUEUED[job.status] + (f": {foreign(job.status_text)}" if job.status is JobStatus.UNKNOWN else "")
    return _budgeted(
        f"The build job '{job.name}' (job {job.id}) {says}.",
        started_at=started_at,
        seconds=policy.queue_budget_seconds,
        now=now,
        spent=Fallback(
            code="no_runner" if job.status is JobStatus.PENDING else "build_not_started",
            reason=f"The build job '{job.name}' (job {job.id}) still {says} after {policy.queue_budget_seconds:.0f} s.",
        ),
    )


def _scheduled(job: BuildJob, facts: Facts, policy: Policy, now: datetime) -> Waiting | Fallback:
    end = facts.asked_at + timedelta(seconds=policy.queue_budget_seconds)
    # GitLab's REST API does not tell when (openapi_v2.yaml of 19.x): what is not known may be soon.
    may_be_soon = job.scheduled_at is None or job.scheduled_at < end
    if may_be_soon and now < end:
        return Waiting(
            reason=f"The build job '{job.name}' (job {job.id}) is set to start later.",
            due_at=_soon(now, end),
            can_build_now=True,
        )
    return Fallback(
        code="build_scheduled", reason=f"The build job '{job.name}' (job {job.id}) is set to start too late to wait."
    )


def failure_sentence(job: BuildJob) -> str:
    """Say why a failed job failed, in words; unknown reasons are shown as GitLab wrote them."""
    reason = job.failure_reason or "unknown_failure"
    words = _FAILURES.get(reason, f"GitLab says {foreign(reason)}")
    return f"The build job '{job.name}' (job {job.id}) failed: {words}."


def _trouble(build: Build | None) -> str:
    return build.trouble if build is not None else ""


def _budgeted(
    reason: str,
    *,
    started_at: datetime,
    seconds: float,
    now: datetime,
    spent: Fallback,
    can_build_now: bool = False,
) -> Waiting | Fallback:
    end = started_at + timedelta(seconds=seconds)
    if now >= end:
        return spent
    return Waiting(reason=reason, due_at=end, can_build_now=can_build_now)


def _soon(now: datetime, end: datetime) -> datetime:
    return min(end, now + timedelta(seconds=LOOK_AGAIN_SECONDS))


def default_kind(accepts: frozenset[ImageKind]) -> ImageKind:
    """Return the kind to take a default image of: environments where they run, as they are lighter."""
    return ImageKind.ENVIRONMENT if ImageKind.ENVIRONMENT in accepts else ImageKind.CONTAINER
