"""The ladder as a table.

Covered: every job status (the list is the enum itself, a missing one fails), every failure reason with words,
the thirteen edge cases of waiting, each rung, each budget before and after its end, the three fallbacks.
Left out: how facts are collected (functional tests), the registry's and GitLab's protocols (contract tests).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from spawner.images.model import (
    Build,
    BuildPolicy,
    ChosenImage,
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
from spawner.images.resolve import _FAILURES, best_job, failure_sentence, fall, resolve
from spawner.names import CommitSha
from spawner.ports import BuildJob, ImageKind, JobStatus, Pipeline, RegistryImage

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SHA = CommitSha("a" * 40)
OTHER = CommitSha("b" * 40)
POLICY = Policy()
ENVIRONMENT = frozenset({ImageKind.ENVIRONMENT})
DEFAULT = ChosenImage(
    reference="builtin/default@sha256:" + "d" * 64,
    digest="sha256:" + "d" * 64,
    kind=ImageKind.ENVIRONMENT,
    source=ImageSource.DEFAULT,
    reason="The default image.",
)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def job(status: JobStatus, **changes: object) -> BuildJob:
    made = BuildJob(
        id=7,
        name="image_build",
        status=status,
        status_text=status.value,
        failure_reason="script_failure" if status is JobStatus.FAILED else None,
        allow_failure=False,
        web_url="http://gitlab/-/jobs/7",
        ref="main",
        pipeline_id=3,
        created_at=ago(5),
        started_at=ago(4) if status in {JobStatus.RUNNING, JobStatus.SUCCESS, JobStatus.FAILED} else None,
        finished_at=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # a table's row changes what it names


def pipeline(source: str = "push", status: str = "running") -> Pipeline:
    return Pipeline(
        id=3, status=status, source=source, ref="main", web_url="http://gitlab/-/pipelines/3", created_at=NOW
    )


def build(best: BuildJob | None, *, pipelines: tuple[Pipeline, ...] | None = None, **changes: object) -> Build:
    made = Build(
        id=f"default/1/{SHA}",
        forge="default",
        project_id=1,
        sha=SHA,
        job_name="image_build",
        first_asked_at=ago(5),
        checked_at=NOW,
        job=best,
        pipelines=(pipeline(),) if pipelines is None else pipelines,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # a table's row changes what it names


def facts(of: Build | None = None, **changes: object) -> Facts:
    made = Facts(accepts=ENVIRONMENT, asked_at=ago(5), build=of, default=DEFAULT)
    return replace(made, **changes)  # type: ignore[arg-type]  # a table's row changes what it names


def found(kind: ImageKind = ImageKind.ENVIRONMENT, commit: CommitSha = SHA) -> Found:
    image = RegistryImage(name="registry/grp/proj", digest="sha256:" + "1" * 64, labels={})
    return Found(image=image, kind=kind, tag="t", environment_key="e" * 64, built_for_commit=commit)


@dataclass(frozen=True)
class Row:
    """What a status leads to: "wait", or the code of a fallback, soon and after every budget."""

    soon: str
    late: str


STATUSES: Mapping[JobStatus, Row] = {
    JobStatus.CREATED: Row("wait", "build_not_started"),
    JobStatus.WAITING_FOR_RESOURCE: Row("wait", "build_not_started"),
    JobStatus.PREPARING: Row("wait", "build_not_started"),
    JobStatus.WAITING_FOR_CALLBACK: Row("wait", "build_not_started"),
    JobStatus.PENDING: Row("wait", "no_runner"),
    JobStatus.UNKNOWN: Row("wait", "build_not_started"),
    JobStatus.RUNNING: Row("wait", "build_too_long"),
    JobStatus.SUCCESS: Row("wait", "image_missing"),
    JobStatus.FAILED: Row("build_failed", "build_failed"),
    JobStatus.CANCELING: Row("wait", "build_canceled"),
    JobStatus.CANCELED: Row("build_canceled", "build_canceled"),
    JobStatus.SKIPPED: Row("build_skipped", "build_skipped"),
    JobStatus.MANUAL: Row("build_manual", "build_manual"),
    JobStatus.SCHEDULED: Row("wait", "build_scheduled"),
}


def outcome(of: Facts, policy: Policy, now: datetime) -> str:
    decision = resolve(of, policy, now)
    match decision:
        case Waiting():
            assert decision.reason
            assert decision.due_at > now, "a wait that is over is no wait"
            return "wait"
        case Fallback():
            assert decision.reason.endswith("."), decision.reason
            return decision.code
        case Ready():
            return decision.image.source.value
        case Unavailable():
            return f"unavailable:{decision.code}"


def test_every_status_has_a_row() -> None:
    """The table's rows are the enum's members, none missing, none besides."""
    assert set(STATUSES) == set(JobStatus)


@pytest.mark.parametrize("status", JobStatus)
def test_a_status_waits_within_its_budget_and_ends_after_it(status: JobStatus) -> None:
    """Each status leads where the table says, soon after it is seen and when its budget is spent."""
    changes = {"scheduled_at": NOW + timedelta(seconds=60)} if status is JobStatus.SCHEDULED else {}
    of = facts(build(job(status, **changes), finished_at=ago(2)))
    much_later = NOW + timedelta(days=1)

    assert (outcome(of, POLICY, NOW), outcome(of, POLICY, much_later)) == (
        STATUSES[status].soon,
        STATUSES[status].late,
    )


@pytest.mark.parametrize("reason", [*sorted(_FAILURES), "something_newer", None])
def test_a_failure_reason_becomes_a_sentence(reason: str | None) -> None:
    """Every failure reason, known or not, falls back at once with a sentence that names the job."""
    failed = job(JobStatus.FAILED, failure_reason=reason)

    sentence = failure_sentence(failed)

    assert "'image_build' (job 7) failed" in sentence
    assert sentence.endswith(".")
    assert outcome(facts(build(failed)), POLICY, NOW) == "build_failed"


# The edge cases of waiting by their number: (what is known, the policy, the outcome).
EDGE_CASES: Mapping[str, tuple[Facts, Policy, str]] = {
    "1 no pipeline yet, within the grace": (facts(build(None, pipelines=())), POLICY, "wait"),
    "1 no pipeline, grace over": (facts(build(None, pipelines=()), asked_at=ago(31)), POLICY, "no_pipeline"),
    "1 only an external pipeline": (facts(build(None, pipelines=(pipeline("external"),))), POLICY, "wait"),
    "1 a skipped pipeline": (facts(build(None, pipelines=(pipeline(status="skipped"),))), POLICY, "no_build_job"),
    "2 a pipeline without the job": (facts(build(None)), POLICY, "no_build_job"),
    "3 several pipelines, one succeeded": (
        facts(build(best_job([job(JobStatus.FAILED, id=9), job(JobStatus.SUCCESS, id=8)]), finished_at=ago(1))),
        POLICY,
        "wait",
    ),
    "4 a merge request's pipeline": (
        facts(build(job(JobStatus.RUNNING, ref="refs/merge-requests/1/head"))),
        POLICY,
        "wait",
    ),
    "5 a child pipeline hides the job": (
        facts(build(None, pipelines=(pipeline("parent_pipeline"),))),
        POLICY,
        "no_build_job",
    ),
    "6 retried: the newer job counts": (
        facts(build(best_job([job(JobStatus.FAILED, id=8), job(JobStatus.PENDING, id=9)]))),
        POLICY,
        "wait",
    ),
    "7 allowed to fail, pipeline green": (
        facts(build(job(JobStatus.FAILED, allow_failure=True), pipelines=(pipeline(status="success"),))),
        POLICY,
        "build_failed",
    ),
    "7 manual, pipeline green": (
        facts(build(job(JobStatus.MANUAL, allow_failure=True), pipelines=(pipeline(status="success"),))),
        POLICY,
        "build_manual",
    ),
    "8 a tag's pipeline": (facts(build(job(JobStatus.PENDING, ref="v1.0"))), POLICY, "wait"),
    "9 auto-cancelled by a newer push": (facts(build(job(JobStatus.CANCELED))), POLICY, "build_canceled"),
    "9 cancelled, but another of the name runs": (
        facts(build(best_job([job(JobStatus.CANCELED, id=9), job(JobStatus.RUNNING, id=8)]))),
        POLICY,
        "wait",
    ),
    "10 built long ago, image there": (facts(build(job(JobStatus.SUCCESS)), exact=found()), POLICY, "exact"),
    "11 force-pushed away, image there": (facts(exact=found()), POLICY, "exact"),
    "12 succeeded, image elsewhere": (
        facts(build(job(JobStatus.SUCCESS), finished_at=ago(16))),
        POLICY,
        "image_missing",
    ),
    "13 GitLab cannot be asked": (
        facts(build(None, checked_at=None, trouble="GitLab answers 503.")),
        POLICY,
        "wait",
    ),
    "13 GitLab cannot be asked in mid-wait": (
        facts(build(job(JobStatus.RUNNING), trouble="The project is gone.")),
        POLICY,
        "wait",
    ),
    "13 GitLab cannot be asked in mid-wait, budget over": (
        facts(build(job(JobStatus.PENDING, created_at=ago(400)), trouble="The project is gone."), asked_at=ago(301)),
        POLICY,
        "gitlab_unavailable",
    ),
    "13 GitLab cannot be asked, the end was seen": (
        facts(build(job(JobStatus.MANUAL), trouble="GitLab answers 503.")),
        POLICY,
        "build_manual",
    ),
    "13 GitLab cannot be asked, budget over": (
        facts(build(None, checked_at=None, trouble="GitLab answers 503."), asked_at=ago(301)),
        POLICY,
        "gitlab_unavailable",
    ),
}


def test_every_edge_case_has_a_row() -> None:
    """The thirteen edge cases of waiting for a build are all in the table."""
    assert {int(name.split()[0]) for name in EDGE_CASES} == set(range(1, 14))


@pytest.mark.parametrize("case", EDGE_CASES)
def test_an_edge_case_ends_as_the_table_says(case: str) -> None:
    """Each edge case of waiting leads where its row says."""
    of, policy, expected = EDGE_CASES[case]

    assert outcome(of, policy, NOW) == expected


RUNGS: Mapping[str, tuple[Facts, Policy, str]] = {
    "to be built now, pushed a moment ago": (
        facts(build(None, pipelines=()), asked_at=ago(4)),
        replace(POLICY, build=BuildPolicy.NOW),
        "wait",
    ),
    "to be built now, no pipeline comes by itself": (
        facts(build(None, pipelines=()), asked_at=ago(6)),
        replace(POLICY, build=BuildPolicy.NOW),
        "no_pipeline",
    ),
    "to be built now, pipeline on its way": (
        facts(build(None, pipelines=(), ordered_at=ago(6)), asked_at=ago(40)),
        replace(POLICY, build=BuildPolicy.NOW),
        "wait",
    ),
    "played a moment ago, asked for long ago": (
        facts(build(job(JobStatus.PENDING, created_at=ago(9000)), ordered_at=ago(6)), asked_at=ago(301)),
        POLICY,
        "wait",
    ),
    "requested and there": (facts(requested_reference="r/x:1", requested=found()), POLICY, "requested"),
    "requested, not there": (facts(requested_reference="r/x:1"), POLICY, "default"),
    "requested, wrong kind": (
        facts(requested_reference="r/x:1", requested=found(ImageKind.CONTAINER)),
        POLICY,
        "default",
    ),
    "requested, not there, no default": (
        facts(requested_reference="r/x:1", default=None),
        POLICY,
        "unavailable:requested_image_missing",
    ),
    "exact beats the same environment": (facts(exact=found(), environment=found(commit=OTHER)), POLICY, "exact"),
    "exact of a kind that cannot run": (
        facts(exact=found(ImageKind.CONTAINER), environment=found(commit=OTHER)),
        POLICY,
        "environment",
    ),
    "same environment beats a running build": (
        facts(build(job(JobStatus.RUNNING)), environment=found(commit=OTHER)),
        POLICY,
        "environment",
    ),
    "built while waiting": (
        facts(build(job(JobStatus.SUCCESS, finished_at=NOW), finished_at=NOW), exact=found()),
        POLICY,
        "built",
    ),
    "built before asking": (
        facts(build(job(JobStatus.SUCCESS, finished_at=ago(60)), finished_at=ago(60)), exact=found()),
        POLICY,
        "exact",
    ),
    "never wait": (facts(build(job(JobStatus.RUNNING))), replace(POLICY, build=BuildPolicy.NEVER), "no_image"),
    "start now": (facts(build(job(JobStatus.RUNNING))), replace(POLICY, is_start_now=True), "start_now"),
    "requested, registry down": (
        facts(requested_reference="registry/grp/proj:x", trouble="The registry is down."),
        POLICY,
        "wait",
    ),
    "requested, registry down, budget over": (
        facts(requested_reference="registry/grp/proj:x", trouble="The registry is down.", trouble_since=ago(61)),
        POLICY,
        "registry_unavailable",
    ),
    "registry down": (facts(trouble="The registry is down."), POLICY, "wait"),
    "registry down for long": (
        facts(trouble="The registry is down.", trouble_since=ago(61)),
        POLICY,
        "registry_unavailable",
    ),
    "registry down, start now": (
        facts(trouble="The registry is down."),
        replace(POLICY, is_start_now=True),
        "registry_unavailable",
    ),
    "a build that makes what cannot run, not looked at": (
        facts(None, expected_kinds=frozenset({ImageKind.CONTAINER})),
        POLICY,
        "wrong_kind",
    ),
    "a job that makes both": (
        facts(build(job(JobStatus.RUNNING)), expected_kinds=frozenset(ImageKind)),
        POLICY,
        "wait",
    ),
    "a job that makes what cannot run": (
        facts(build(job(JobStatus.RUNNING)), expected_kinds=frozenset({ImageKind.CONTAINER})),
        POLICY,
        "wrong_kind",
    ),
    "set to start, nobody says when": (facts(build(job(JobStatus.SCHEDULED))), POLICY, "wait"),
    "set to start, nobody says when, budget over": (
        facts(build(job(JobStatus.SCHEDULED)), asked_at=ago(301)),
        POLICY,
        "build_scheduled",
    ),
    "set to start in time": (
        facts(build(job(JobStatus.SCHEDULED, scheduled_at=NOW + timedelta(seconds=100)))),
        POLICY,
        "wait",
    ),
    "set to start too late": (
        facts(build(job(JobStatus.SCHEDULED, scheduled_at=NOW + timedelta(seconds=400)))),
        POLICY,
        "build_scheduled",
    ),
}


@pytest.mark.parametrize("case", RUNGS)
def test_a_rung_holds_as_the_table_says(case: str) -> None:
    """The rungs are tried in their order, each only for a kind the runtime accepts."""
    of, policy, expected = RUNGS[case]

    assert outcome(of, policy, NOW) == expected


FELL = Fallback(code="build_failed", reason="The build failed.")
FALLS: Mapping[str, tuple[FallbackPolicy, Facts, str]] = {
    "default": (FallbackPolicy.DEFAULT, facts(ancestor=found(commit=OTHER)), "default"),
    "ancestor": (FallbackPolicy.ANCESTOR, facts(ancestor=found(commit=OTHER)), "ancestor"),
    "ancestor, none": (FallbackPolicy.ANCESTOR, facts(), "default"),
    "ancestor of a kind that cannot run": (
        FallbackPolicy.ANCESTOR,
        facts(ancestor=found(ImageKind.CONTAINER)),
        "default",
    ),
    "no default": (FallbackPolicy.DEFAULT, facts(default=None), "unavailable:build_failed"),
    "fail": (FallbackPolicy.FAIL, facts(), "unavailable:build_failed"),
}


@pytest.mark.parametrize("case", FALLS)
def test_a_fallback_says_what_happened_and_what_is_used(case: str) -> None:
    """Whatever the policy takes, its reason begins with what went wrong."""
    policy, of, expected = FALLS[case]

    answer = fall(of, replace(POLICY, fallback=policy), FELL)

    match answer:
        case Ready():
            assert (answer.image.source.value, answer.image.reason.startswith(FELL.reason)) == (expected, True)
        case Unavailable():
            assert (f"unavailable:{answer.code}", answer.reason.startswith(FELL.reason)) == (expected, True)
            assert answer.remedy


def test_the_reused_commit_is_named() -> None:
    """An image reused from another commit says which commit it was built for."""
    decision = resolve(facts(environment=found(commit=OTHER)), POLICY, NOW)

    assert isinstance(decision, Ready)
    assert decision.image.reason == "Commit bbbbbbb declared the same environment, so its image is reused."
    assert decision.image.built_for_commit == OTHER
