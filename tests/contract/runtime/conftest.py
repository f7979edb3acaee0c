"""Every runtime there is, ready to be held to one contract.

A line in `RUNTIMES` and a fixture of that name is all that a new runtime needs.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName
from spawner.ports import (
    Checkout,
    Credential,
    CredentialKind,
    Health,
    ImageKind,
    Login,
    Observation,
    RefKind,
    Registry,
    Resources,
    Runtime,
    State,
    Workload,
    WorkloadImage,
)
from spawner.runtimes.docker import create as make_docker
from spawner.runtimes.docker import spawner_socket
from spawner.runtimes.docker.runtime import DockerRuntime
from spawner.runtimes.standalone import StandaloneRuntime, create
from spawner.testing.runtime import FakeRuntime
from tests.containers.daemon import Daemon
from tests.containers.layout import Image
from tests.containers.registry import PASSWORDS, Guarded
from tests.contract.runtime.looking import until
from tests.contract.runtime.places import Place, make_repository

RUNTIMES = ("fake", "standalone", "docker")
ADMITTING = ("fake", "standalone")  # those that cannot always keep people apart
_CREDENTIAL = "session-credential-canary-5b1f"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One runtime and what makes workloads for it."""

    runtime: Runtime
    place: Place
    commits: list[CommitSha]
    image: WorkloadImage | None = None

    def workload(self, name: str, **changes: object) -> Workload:
        """Make a workload; `changes` replace its fields."""
        fields: dict[str, object] = {
            "name": WorkloadName(f"{name}-{os.urandom(3).hex()}"),
            "generation": 1,
            "session": SessionName(f"alice-sample-{name}"[:42]),
            "user_id": UserId("7"),
            "username": "alice",
            "workspace": f"workspace-{name}-{os.urandom(3).hex()}",
            "image": self.image,
            "checkout": self.checkout(),
            "credential": self.place.credential,
            "report_url": self.place.url,
            "default_url": "/lab",
            "environment": {"GREETING": "hello"},
            "resources": Resources(cpu_cores=1, memory_bytes=0, storage_bytes=0),
            "annotations": {"project": "group/sample"},
            **changes,
        }
        return Workload(**fields)  # type: ignore[arg-type] # the fields' types are Workload's own

    def checkout(self, **changes: object) -> Checkout:
        """Make a checkout of the first commit, which is not the newest."""
        fields: dict[str, object] = {
            "relay_url": self.place.relay_url,
            "replaces": ("http://gitlab.invalid/group/sample", "git@gitlab.invalid:group/sample"),
            "project": ProjectPath("group/sample"),
            "branch": "main",
            "ref_kind": RefKind.BRANCH,
            "sha": self.commits[0],
            "author_name": "Alice Example",
            "author_email": "alice@example.org",
            **changes,
        }
        return Checkout(**fields)  # type: ignore[arg-type] # as above

    def run(self, workload: Workload) -> State:
        """Start a workload and return its last saved state."""
        *_, last = self.runtime.start(workload)
        return last.state

    def until(self, state: State, *health: Health, within_seconds: float = 60) -> Observation:
        """Look until a workload is in one of these states of health; fails when time is up."""
        return until(
            lambda: next((o for o in self.runtime.observe([state]) if o.health in health), None),
            what=f"{health}",
            within_seconds=within_seconds,
        )


class _NoRegistry:
    """The default environment needs none."""


class _Door:
    """A registry that is only asked who may pull from it: Ada."""

    def login(self, reference: str, credential: Credential | None) -> Login | None:
        """Return Ada's password for her token."""
        del reference
        return Login(username="ada", password=PASSWORDS["ada"]) if credential is not None else None


@pytest.fixture(scope="session")
def shared_root() -> Iterator[Path]:
    """Make a folder that every user can pass through: sessions of root's runtime have users of their own."""
    folder = Path(tempfile.mkdtemp(prefix="standalone-"))
    folder.chmod(0o711)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False, timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def repository(shared_root: Path) -> tuple[Path, list[CommitSha]]:
    """Make one served repository with two commits."""
    return make_repository(shared_root / "repository")


@pytest.fixture(scope="session")
def place(repository: tuple[Path, list[CommitSha]]) -> Iterator[Place]:
    """Serve Git, and listen to agents."""
    with Place(credential=_CREDENTIAL, served=repository[0].parents[1]) as place:
        yield place


@pytest.fixture(scope="session")
def make_standalone(shared_root: Path) -> Callable[..., StandaloneRuntime]:
    """Return what makes the real runtime; all of them share one cache of downloads."""

    def make(name: str = "data", **options: object) -> StandaloneRuntime:
        registry: Registry = _NoRegistry()  # type: ignore[assignment] # nothing may ask it
        cache = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
        values: dict[str, object] = {
            "registry": registry,
            "variables": {**os.environ, "UV_CACHE_DIR": cache},
            **options,
        }
        return create(root=shared_root / name, instance="tests", **values)  # type: ignore[arg-type] # create's own

    return make


@pytest.fixture(scope="session")
def fake() -> FakeRuntime:
    """Make the runtime in memory."""
    return FakeRuntime()


@pytest.fixture(scope="session")
def standalone(make_standalone: Callable[..., StandaloneRuntime]) -> StandaloneRuntime:
    """Make the real runtime of one machine."""
    return make_standalone()


@pytest.fixture(scope="session")
def docker(shared_root: Path, docker_daemon: Daemon, place: Place) -> Iterator[DockerRuntime]:
    """Make the runtime of a real Docker daemon, which finds the place at its socket."""
    root = shared_root / "docker"
    place.listen_at(spawner_socket(root))
    registry: Registry = _Door()  # type: ignore[assignment] # nothing else of it may be asked
    yield make_docker(root=root, instance="tests", registry=registry, host=docker_daemon.address)
    docker_daemon.run("network", "prune", "--force")  # its bridge would outlive the daemon


@pytest.fixture(scope="session")
def container_image(notebook_image: Image, container_registry: Guarded) -> WorkloadImage:
    """Push an image that a session can run to a registry which wants to know who pulls."""
    client = container_registry.client()
    digest = notebook_image.push(client, "bases/notebook", "1")
    client.close()
    return WorkloadImage(
        reference=f"{container_registry.address}/bases/notebook@{digest}",
        digest=digest,
        kind=ImageKind.CONTAINER,
        pull_credential=Credential(forge="default", token="adas-token", kind=CredentialKind.OAUTH),
    )


@pytest.fixture(params=RUNTIMES)
def bench(request: pytest.FixtureRequest, place: Place, repository: tuple[Path, list[CommitSha]]) -> Iterator[Bench]:
    """Yield each runtime in turn, and end what a test left running."""
    runtime: Runtime = request.getfixturevalue(request.param)
    takes_containers = ImageKind.CONTAINER in runtime.image_kinds
    image = request.getfixturevalue("container_image") if takes_containers else None
    yield from _tidy(Bench(runtime=runtime, place=place, commits=repository[1], image=image))


@pytest.fixture
def real(standalone: StandaloneRuntime, place: Place, repository: tuple[Path, list[CommitSha]]) -> Iterator[Bench]:
    """Yield the real runtime, and end what a test left running."""
    yield from _tidy(Bench(runtime=standalone, place=place, commits=repository[1]))


def _tidy(bench: Bench) -> Iterator[Bench]:
    yield bench
    owned = list(bench.runtime.inventory())
    for found in owned:
        bench.runtime.stop(found.state, grace_seconds=0)
    for found in owned:
        bench.until(found.state, Health.GONE, within_seconds=20)
