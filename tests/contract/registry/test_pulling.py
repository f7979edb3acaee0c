"""Whose token fetches a container image, on the stand-in, its registry and a real database.

Covered: the person's own, the project's made by a maintainer, reuse, rotation, a token that was ended in GitLab, an
image of another project, two makers at once, a registry that is away. Left out: SQLite and PostgreSQL side by side
(tests/contract/store), what GitLab checks (tests/contract/forge).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from spawner.errors import RegistryUnavailable
from spawner.gitlab.client import GitLabForge
from spawner.gitlab.registry import GitLabRegistry, RegistryHosts
from spawner.images.pulling import OWN, PROJECTS, Pull, PullService
from spawner.ports import Credential, CredentialKind, PullToken, RegistryImage
from spawner.store.engine import open_engine
from spawner.store.pulltokens import PullTokenRows
from spawner.testing.gitlab import ProjectHandle, StandIn, UserHandle
from tests.contract.registry.test_registry import credential, push

KEY = b"0123456789abcdefghijklmnopqrstuvwxyz-pulls"
MAKES = "POST /api/v4/projects/:id/deploy_tokens"
API, READS = frozenset({"api"}), frozenset({"read_api", "read_registry"})
DAYS = 30


@dataclass
class Hand:
    """A clock that a test moves."""

    passed: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.passed


@dataclass(kw_only=True)
class World:
    """The stand-in, a project with an image, its owner and a developer; the service and its parts."""

    standin: StandIn
    ada: UserHandle
    dev: UserHandle
    project: ProjectHandle
    reference: str
    forge: GitLabForge
    registry: GitLabRegistry
    tokens: PullTokenRows
    clock: Hand

    def service(self, life_days: int = DAYS, forge: GitLabForge | None = None) -> PullService:
        return PullService(
            forge=forge or self.forge, registry=self.registry, tokens=self.tokens, clock=self.clock,
            life_days=life_days,
        )  # fmt: skip

    def pull(self, person: UserHandle, scopes: frozenset[str] = API, reference: str = "", days: int = DAYS) -> Pull:
        """Launch as somebody."""
        wanted = reference or self.reference
        return self.service(days).for_image(wanted, self.project.id, credential(person.token), scopes)

    def made(self) -> int:
        """Count the tokens that were made."""
        return self.standin.requests().get(MAKES, 0)

    def kept(self) -> PullToken:
        found = self.tokens.get("default", self.project.id)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with StandIn.start(data=tmp_path_factory.mktemp("pulling") / "gitlab", runner=False) as started:
        yield started


@pytest.fixture(scope="module")
def people(standin: StandIn) -> tuple[UserHandle, UserHandle]:
    return standin.add_user("ada"), standin.add_user("dev")


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = open_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def world(standin: StandIn, people: tuple[UserHandle, UserHandle], engine: Engine, tmp_path: Path) -> World:
    ada, dev = people
    project = standin.add_project(f"ada/{tmp_path.name.lower().replace('_', '-')}", owner=ada)
    standin.add_member(project, dev, 30)
    digest = push(standin, ada, project.path, "latest")
    host = standin.registry_url.partition("//")[2]
    hosts = RegistryHosts()
    return World(
        standin=standin,
        ada=ada,
        dev=dev,
        project=project,
        reference=f"{host}/{project.path}@{digest}",
        forge=GitLabForge(standin.url, key_cache=tmp_path / "keys", learn_registry=hosts.learn),
        registry=GitLabRegistry(gitlab_url=standin.url, hosts=hosts, timeout_seconds=10),
        tokens=PullTokenRows(engine, [KEY]),
        clock=Hand(),
    )


def test_nothing_is_made_unless_the_operator_says_so(world: World) -> None:
    """Without a life for tokens everybody fetches as themselves, and is told so."""
    before = world.made()
    assert world.pull(world.ada, days=0) == Pull(credential=credential(world.ada.token), message=OWN)
    assert world.made() == before


def test_a_maintainers_launch_makes_one_for_all(world: World) -> None:
    """It is made once, reads the image, and serves those who could not have made it."""
    before = world.made()
    assert world.pull(world.dev) == Pull(credential=credential(world.dev.token), message=OWN)
    assert world.pull(world.ada, READS).message == OWN
    first = world.pull(world.ada)
    assert (first.message, first.credential.kind) == (PROJECTS, CredentialKind.DEPLOY)
    assert first.credential.username.startswith("gitlab+deploy-token-")
    assert world.registry.find(world.reference, first.credential) is not None
    assert [world.pull(world.ada), world.pull(world.dev, READS)] == [first, first]
    assert world.made() == before + 2  # the developer tried in vain
    assert "gldt-" not in repr(first) + repr(world.kept())


def test_it_is_replaced_while_it_is_still_good(world: World) -> None:
    """With a third of its life left, a maintainer's launch makes another; others use the old one to its last hour."""
    first = world.pull(world.ada)
    world.clock.passed = timedelta(days=DAYS * 2 / 3, hours=1)
    assert world.pull(world.dev, READS) == first
    second = world.pull(world.ada)
    assert second.message == PROJECTS
    assert second.credential.token != first.credential.token
    assert world.pull(world.dev, READS) == second
    world.clock.passed += timedelta(days=DAYS, hours=-0.5)
    assert world.pull(world.dev, READS).message == OWN


def test_one_that_was_ended_in_gitlab_is_forgotten(world: World) -> None:
    """That launch goes on with the person's own; the next maintainer's makes another."""
    first = world.pull(world.ada)
    world.standin.api("DELETE", f"/projects/{world.project.id}/deploy_tokens/{world.kept().id}", user=world.ada)
    fresh = GitLabRegistry(gitlab_url=world.standin.url, hosts=RegistryHosts(), timeout_seconds=10)
    fresh.find(world.reference, credential(world.ada.token))  # a process that has no token of the registry yet
    world.registry = fresh
    assert world.pull(world.dev, READS).message == OWN
    second = world.pull(world.ada)
    assert second.message == PROJECTS
    assert second.credential.token != first.credential.token


def test_an_image_of_elsewhere_is_fetched_as_oneself(world: World) -> None:
    """A project's token opens its own images, so for others none is made, nor for a stranger to the project."""
    before = world.made()
    other = world.standin.add_project(f"{world.project.path}-more", owner=world.ada)
    digest = push(world.standin, world.ada, other.path, "latest")
    name = world.reference.partition("@")[0]
    assert world.pull(world.ada, reference=f"{name}-more@{digest}").message == OWN
    stranger = world.standin.add_user(f"bob-{world.project.id}")
    assert world.pull(stranger).message == OWN
    assert world.made() == before


class Meanwhile(GitLabForge):
    """A forge where, while it makes a token, another process keeps one."""

    tokens: PullTokenRows

    def make_pull_token(self, credential: Credential, project_id: int, *, expires_at: datetime) -> PullToken:
        other = super().make_pull_token(credential, project_id, expires_at=expires_at)
        assert self.tokens.put(credential.forge, project_id, other, instead_of=None)
        return super().make_pull_token(credential, project_id, expires_at=expires_at)


def test_of_two_makers_one_token_stays(world: World, tmp_path: Path) -> None:
    """The slower process ends its own and uses the other's."""
    hosts = RegistryHosts()
    forge = Meanwhile(world.standin.url, key_cache=tmp_path / "other", learn_registry=hosts.learn)
    forge.tokens = world.tokens
    world.registry = GitLabRegistry(gitlab_url=world.standin.url, hosts=hosts, timeout_seconds=10)
    service = world.service(forge=forge)
    found = service.for_image(world.reference, world.project.id, credential(world.ada.token), API)
    assert found.credential.token == world.kept().token
    rows = world.standin.api("GET", f"/projects/{world.project.id}/deploy_tokens", user=world.ada)
    assert {row["id"]: row["revoked"] for row in rows} == {world.kept().id: False, world.kept().id + 1: True}


class Away(GitLabRegistry):
    """A registry that cannot be asked."""

    def find(self, reference: str, credential: Credential | None) -> RegistryImage | None:
        del reference, credential
        raise RegistryUnavailable("The registry is away.")


def test_a_registry_that_is_away_costs_no_launch(world: World) -> None:
    """Where the token cannot be tried, the person's own is given, and the token stays."""
    world.pull(world.ada)
    kept = world.kept()
    world.registry = Away(gitlab_url=world.standin.url, hosts=RegistryHosts())
    assert world.pull(world.ada) == Pull(credential=credential(world.ada.token), message=OWN)
    assert world.kept() == kept
