"""The poller's thrift: one look for however many wait, and which tags count as a commit's own.

Covered: `watch` by many waiters, `poll` of what is not due, full and short tags with another commit's label.
Left out: what a look decides (test_resolve), the ladder against a real stand-in (tests/functional).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from spawner.errors import ProjectNotFound, RegistryRefused, RegistryUnavailable, TemporaryError
from spawner.images.model import Build
from spawner.images.service import ImageService, ImageSettings, Subject, Waiter
from spawner.names import CommitSha, ProjectPath, SessionName
from spawner.ports import (
    CommitBuilds,
    Credential,
    CredentialKind,
    Dispatcher,
    EnvironmentKey,
    Forge,
    ImageKind,
    Project,
    Registry,
    RegistryImage,
    TaskKind,
    Visibility,
)
from spawner.store.builds import BuildRows
from spawner.store.engine import open_engine

SHA = CommitSha("a" * 40)
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

    def now(self) -> datetime:
        return self.at

    def soon(self, kind: TaskKind, subject: str) -> None:
        self.queued.append(f"{kind} {subject}")

    def of(self, build: str) -> Iterator[Waiter]:
        del build
        yield Waiter(session=SessionName("s"), credential=ME, project=PROJECT, accepts=ENVIRONMENTS, is_waiting=True)

    def wake(self, build: str) -> None:
        """Nobody is here to be woken."""

    def tell(self, build: str) -> None:
        """Nobody is here to be told."""

    def builds(self, credential: Credential, project_id: int, sha: CommitSha, *, job_name: str) -> CommitBuilds:
        del credential, project_id, job_name
        self.asked.append(sha)
        return CommitBuilds(pipelines=(), jobs=())

    def environment_keys(self, credential: Credential, project: Project, sha: CommitSha) -> Sequence[EnvironmentKey]:
        del credential, project, sha
        return ()

    def project(self, credential: Credential, project: ProjectPath) -> Project:
        del credential
        raise ProjectNotFound(f"No {project}.")

    def find(self, reference: str, credential: Credential | None) -> RegistryImage | None:
        del credential
        if self.refusal is not None:
            raise self.refusal
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
