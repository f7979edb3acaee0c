"""The poller's thrift: one look for however many wait, and which tags count as a commit's own.

Covered: `watch` by many waiters, `poll` of what is not due, a job that has just succeeded, a project that has moved, a
waiter whom the registry refuses, full and short tags with another commit's label.
Left out: what a look decides (test_resolve), the ladder against a real stand-in (tests/functional).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from spawner.errors import ProjectNotFound, RegistryRefused, RegistryUnavailable, TemporaryError
from spawner.images.model import Build
from spawner.images.service import ImageService, ImageSettings, Subject, Waiter
from spawner.names import CommitSha, ProjectPath, SessionName
from spawner.ports import (
    BuildJob,
    CommitBuilds,
    Credential,
    CredentialKind,
    Dispatcher,
    EnvironmentKey,
    Forge,
    ImageKind,
    JobStatus,
    Project,
    Registry,
    RegistryImage,
    TaskKind,
    Visibility,
)
from spawner.store.builds import BuildRows
from spawner.store.engine import open_engine

SHA = CommitSha("a" * 40)
JOB_URL = "https://gitlab.example.com/a/b/-/jobs/7"
ENVIRONMENTS = frozenset({ImageKind.ENVIRONMENT})
ME = Credential(forge="default", token="t", kind=CredentialKind.OAUTH)
PROJECT = Project(
    id=1,
    path=ProjectPath("a/b"),
    name="b",
    default_branch="main",
    visibility=Visibility.PRIVATE,
    web_url="",
    git_url="",
    registry_image="registry.example.com/a/b",
)


@dataclass
class World:
    """Everything the service asks, in memory but for its rows; time stands still until a test moves it."""

    at: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    asked: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    images: dict[str, RegistryImage] = field(default_factory=dict)
    refusal: TemporaryError | None = None
    job_now: BuildJob | None = None
    project_now: Project | None = None
    refused: Credential | None = None  # whom the registry refuses
    credentials: tuple[Credential, ...] = (ME,)

    def now(self) -> datetime:
        return self.at

    def soon(self, kind: TaskKind, subject: str) -> None:
        self.queued.append(f"{kind} {subject}")

    def of(self, build: str) -> Iterator[Waiter]:
        del build
        for one in self.credentials:
            name = SessionName(one.token)
            yield Waiter(session=name, credential=one, project=PROJECT, accepts=ENVIRONMENTS, is_waiting=True)

    def wake(self, build: str) -> None:
        """Nobody is here to be woken."""

    def tell(self, build: str) -> None:
        """Nobody is here to be told."""

    def builds(self, credential: Credential, project_id: int, sha: CommitSha, *, job_name: str) -> CommitBuilds:
        del credential, project_id, job_name
        self.asked.append(sha)
        return CommitBuilds(pipelines=(), jobs=() if self.job_now is None else (self.job_now,))

    def job(self, credential: Credential, project_id: int, job_id: int) -> BuildJob | None:
        del credential, project_id, job_id
        return self.job_now

    def job_log(self, credential: Credential, project_id: int, job_id: int) -> bytes:
        del credential, project_id, job_id
        return b""

    def environment_keys(self, credential: Credential, project: Project, sha: CommitSha) -> Sequence[EnvironmentKey]:
        del credential, project, sha
        return ()

    def project(self, credential: Credential, project: ProjectPath) -> Project:
        del credential
        if self.project_now is None:
            raise ProjectNotFound(f"No {project}.")
        return self.project_now

    def find(self, reference: str, credential: Credential | None) -> RegistryImage | None:
        if self.refusal is not None:
            raise self.refusal
        if credential is not None and credential == self.refused:
            raise RegistryRefused("401")
        return self.images.get(reference)


@pytest.fixture
def world() -> World:
    """A world at rest."""
    return World()


@pytest.fixture
def rows(sqlite_url: str) -> Iterator[BuildRows]:
    """The builds of a database."""
    engine = open_engine(sqlite_url)
    yield BuildRows(engine)
    engine.dispose()


@pytest.fixture
def service(world: World, rows: BuildRows) -> ImageService:
    """The service over that world."""
    return ImageService(
        forge=cast("Forge", world),
        registry=cast("Registry", world),
        builds=rows,
        waiters=world,
        dispatcher=cast("Dispatcher", world),
        clock=world,
        settings=ImageSettings(),
    )


def subject(world: World, accepts: frozenset[ImageKind] = ENVIRONMENTS) -> Subject:
    """Return a launch of the commit."""
    return Subject(project=PROJECT, forge="default", sha=SHA, requested=None, accepts=accepts, asked_at=world.at)


def watched(rows: BuildRows) -> Build:
    """Return the commit's row."""
    found = rows.get(f"default/1/{SHA}")
    assert found is not None
    return found


def test_many_waiters_are_one_look(service: ImageService, world: World, rows: BuildRows) -> None:
    """Any number of waiters that ask for a look while one is due leave the row alone, and it is looked at once."""
    for _ in range(10):
        service.watch(subject(world))
    before = watched(rows)
    for _ in range(10):
        service.poll(before.id)
    after = watched(rows)

    assert (before.version, after.version, len(world.asked), len(set(world.queued))) == (0, 1, 1, 1)
    assert after.due_at is not None
    assert after.due_at > world.at + timedelta(seconds=1)


def test_what_sleeps_is_woken(service: ImageService, world: World, rows: BuildRows) -> None:
    """A row that nobody looks at any more is due again as soon as somebody waits."""
    rows.add(
        Build(id=f"default/1/{SHA}", forge="default", project_id=1, sha=SHA, job_name="j", first_asked_at=world.at)
    )

    service.watch(subject(world))

    assert watched(rows).due_at == world.at
    assert world.queued == [f"build default/1/{SHA}"]


@pytest.mark.parametrize(("seconds_ago", "looks"), [(1, 0), (60, 1)])
def test_an_end_just_seen_is_not_looked_at_again(
    service: ImageService, world: World, rows: BuildRows, seconds_ago: int, looks: int
) -> None:
    """A waiter that decided before the end was seen does not reopen the build; one that comes later does."""
    checked_at = world.at - timedelta(seconds=seconds_ago)
    rows.add(
        Build(
            id=f"default/1/{SHA}",
            forge="default",
            project_id=1,
            sha=SHA,
            job_name="j",
            first_asked_at=checked_at,
            checked_at=checked_at,
            is_over=True,
        )
    )

    service.watch(subject(world))

    assert len(world.queued) == looks


@pytest.mark.parametrize(
    ("tag", "kind", "counts"),
    [
        (f"{SHA}-environment", ImageKind.ENVIRONMENT, True),
        (SHA, ImageKind.CONTAINER, True),
        (SHA[:8], ImageKind.CONTAINER, False),
        (SHA[:7], ImageKind.CONTAINER, False),
    ],
)
def test_a_label_speaks_against_short_tags_only(
    service: ImageService, world: World, tag: str, kind: ImageKind, *, counts: bool
) -> None:
    """A job that reuses an image puts it, label and all, under the commit's full tag: that is the commit's image."""
    labels = {"org.opencontainers.image.revision": "b" * 40}
    image = RegistryImage(name=str(PROJECT.registry_image), digest="sha256:" + "0" * 64, labels=labels)
    world.images[f"{PROJECT.registry_image}:{tag}"] = image

    found = service.facts(subject(world, frozenset({kind})), ME).exact

    assert (found is not None) is counts


@pytest.mark.parametrize("reference", ["registry.example.com/never/seen:tag", f"registry.example.com/a/hidden:{SHA}"])
def test_what_a_person_may_not_know_of_would_not_start(service: ImageService, world: World, reference: str) -> None:
    """A registry that refuses the person has no such image for them; one that is away says nothing."""
    world.refusal = RegistryRefused("401")
    assert not service.would_start(reference, ENVIRONMENTS, ME)
    world.refusal = RegistryUnavailable("503")
    with pytest.raises(RegistryUnavailable):
        service.would_start(reference, ENVIRONMENTS, ME)


def job(status: JobStatus, world: World) -> BuildJob:
    """Return the commit's job as GitLab tells it."""
    return BuildJob(
        id=7,
        name="image_build",
        status=status,
        status_text=status.value,
        failure_reason=None,
        allow_failure=False,
        web_url=JOB_URL,
        ref="main",
        pipeline_id=3,
        created_at=world.at,
        started_at=world.at,
        finished_at=None,
    )


def ended(service: ImageService, world: World, rows: BuildRows, *, url: str = JOB_URL) -> Build:
    """Watch a job that runs, and look again when it has succeeded; return what is known then."""
    world.job_now = job(JobStatus.RUNNING, world)
    service.watch(subject(world))
    service.poll(f"default/1/{SHA}")
    world.job_now = replace(job(JobStatus.SUCCESS, world), web_url=url)
    return looked(service, world, rows)


def looked(service: ImageService, world: World, rows: BuildRows) -> Build:
    """Look again when the next look is due; return what is known then."""
    due_at = watched(rows).due_at
    assert due_at is not None
    world.at = due_at
    service.poll(f"default/1/{SHA}")
    return watched(rows)


def arrived(world: World, registry_image: str | None = PROJECT.registry_image) -> None:
    """Let the commit's image be there."""
    image = RegistryImage(name=str(registry_image), digest="sha256:" + "0" * 64, labels={})
    world.images[f"{registry_image}:{SHA}-environment"] = image


def test_a_job_that_succeeded_is_not_looked_for_again(service: ImageService, world: World, rows: BuildRows) -> None:
    """While its image is on its way the registry is asked, and GitLab is not: no job could be better."""
    ended(service, world, rows)
    asked = len(world.asked)
    for _ in range(3):
        assert looked(service, world, rows).found is None
    arrived(world)
    assert looked(service, world, rows).found is not None
    assert (asked, len(world.asked)) == (1, 1)


def test_an_image_is_looked_for_where_the_project_is_now(service: ImageService, world: World, rows: BuildRows) -> None:
    """A job's own address tells that its project has moved: its image has the new name."""
    world.project_now = replace(PROJECT, path=ProjectPath("c/d"), registry_image="registry.example.com/c/d")
    arrived(world, "registry.example.com/c/d")
    found = ended(service, world, rows, url="https://gitlab.example.com/c/d/-/jobs/7").found
    assert found is not None
    assert found.image.name == "registry.example.com/c/d"


def test_a_waiter_whom_the_registry_refuses_stops_nobody(service: ImageService, world: World, rows: BuildRows) -> None:
    """The next waiter's credential finds the image."""
    world.refused = replace(ME, token="lost")
    world.credentials = (world.refused, ME)
    arrived(world)
    assert ended(service, world, rows).found is not None
