"""Whole values for the store's tests: every field away from its default, so that a forgotten column shows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from spawner.images.model import Build, BuildPolicy, ChosenImage, FallbackPolicy, ImageSource
from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName
from spawner.ports import BuildJob, ImageKind, JobStatus, Pipeline, Project, RefKind, Visibility
from spawner.sessions.model import EventKind, Failure, LaunchRequest, NewEvent, Phase, Session, Target

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
SHA = CommitSha("0123456789abcdef0123456789abcdef01234567")


def at(seconds: float) -> datetime:
    """Return the time that many seconds after `AT`."""
    return AT + timedelta(seconds=seconds)


class FixedClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = AT

    def now(self) -> datetime:
        """Return the time that was set."""
        return self.time

    def pass_seconds(self, seconds: float) -> datetime:
        """Let time pass, and return it."""
        self.time += timedelta(seconds=seconds)
        return self.time


PROJECT = Project(
    id=77,
    path=ProjectPath("Group/Sub/Weather-Näh"),
    name="Weather",
    default_branch="main",
    visibility=Visibility.INTERNAL,
    web_url="https://gitlab.example.org/Group/Sub/Weather",
    git_url="https://gitlab.example.org/Group/Sub/Weather.git",
    registry_image="registry.example.org/group/sub/weather",
    is_archived=True,
    forked_from_id=5,
)

FULL = Session(
    name=SessionName("ada-weather-01234567"),
    instance="slipway",
    forge="default",
    user_id=UserId("user-ada"),
    username="ada",
    project=PROJECT,
    branch="feature/ünï",
    ref_kind=RefKind.TAG,
    sha=SHA,
    request=LaunchRequest(
        image="registry.example.org/a:b",
        build=BuildPolicy.NOW,
        fallback=FallbackPolicy.ANCESTOR,
        runtime="standalone",
        resource_class_id=3,
        storage_gigabytes=2.5,
        default_url="/tree",
        fetches_lfs=True,
        environment={"A": "1", "B": "zwei = 2"},
        notebook="notebooks/one.ipynb",
    ),
    runtime="standalone",
    target=Target.RUNNING,
    phase=Phase.WAITING,
    phase_since=at(-5),
    created_at=at(-10),
    generation=3,
    workload=WorkloadName("weather-0123456-abc"),
    workspace="weather-0123456-def",
    image=ChosenImage(
        reference="registry.example.org/a@sha256:1",
        digest="sha256:1",
        kind=ImageKind.ENVIRONMENT,
        source=ImageSource.ANCESTOR,
        reason="the nearest ancestor's",
        tag="env-1",
        environment_key="1" * 64,
        built_for_commit=CommitSha("f" * 40),
    ),
    build_id=f"default/77/{SHA}",
    is_start_now=True,
    wants_built_image=True,
    reason="the image is being built",
    step="cloning",
    failure=Failure(code="x", message="It failed.", remedy="Try again."),
    warnings=("one", "two"),
    restarts=(at(-8), at(-7.5)),
    image_asked_at=at(-9),
    launched_at=at(-4),
    ready_at=at(-3),
    due_at=at(1),
    retain_until=at(1000),
    has_workspace=True,
    trouble="GitLab is away",
    trouble_since=at(-2),
)

PLAIN = Session(
    name=SessionName("plain"),
    instance="slipway",
    forge="default",
    user_id=UserId("user-ada"),
    username="ada",
    project=replace(PROJECT, id=1, path=ProjectPath("ada/one"), registry_image=None, forked_from_id=None),
    branch="main",
    ref_kind=RefKind.BRANCH,
    sha=SHA,
    request=LaunchRequest(),
    runtime="standalone",
    target=Target.RUNNING,
    phase=Phase.NEW,
    phase_since=AT,
    created_at=AT,
    due_at=AT,
)

JOB = BuildJob(
    id=9,
    name="image_build",
    status=JobStatus.FAILED,
    status_text="failed",
    failure_reason="script_failure",
    allow_failure=True,
    web_url="https://gitlab.example.org/-/jobs/9",
    ref="main",
    pipeline_id=4,
    created_at=at(1),
    started_at=at(2),
    finished_at=at(3),
    scheduled_at=at(4),
    is_protected_ref=True,
)

BUILD = Build(
    id=f"default/77/{SHA}",
    forge="default",
    project_id=77,
    sha=SHA,
    job_name="image_build",
    first_asked_at=AT,
    job=JOB,
    pipelines=(
        Pipeline(id=4, status="failed", source="push", ref="main", web_url="https://x/4", created_at=at(1)),
        Pipeline(id=3, status="weird", source="web", ref="main", web_url="https://x/3", created_at=None),
    ),
    checked_at=at(5),
    due_at=at(6),
    looks=7,
    log_bytes=8,
    trouble="rate limited",
    is_over=False,
    finished_at=at(9),
    ordered_at=at(8),
)


def named(name: str, **changes: Any) -> Session:
    """Return a plain session of that name, changed."""
    return replace(PLAIN, name=SessionName(name), **changes)


def event(message: str, kind: EventKind = EventKind.STEP, **data: Any) -> NewEvent:
    """Return an event about to be saved."""
    return NewEvent(kind=kind, message=message, data=data)
