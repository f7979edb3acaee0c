"""Every engine there is, held to one contract: real builds, a real registry that wants tokens, real base images.

A line in `ENGINES` is all that a new engine needs, if it needs no server of its own.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.build import Policy, Target, build
from builder.cli import run
from builder.container import ContainerMaker, Options
from builder.engines.choosing import EngineName, choose
from builder.entries import Kind
from builder.environment import this_platform
from builder.errors import UsageError
from builder.key import Key, environment_key
from builder.oci import Credentials, Manifest, RegistryClient
from builder.report import Report
from tests.containers.layout import Image
from tests.containers.registry import PASSWORDS, Guarded
from tests.unit.builder.commits import Repository

ENGINES = ("buildah", "docker")
TINY = "bases/tiny:1"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A CI job of one project: a checkout, a registry with the right to push, an engine, a folder for its report."""

    engine: EngineName
    repository: Repository
    registry: Guarded
    client: RegistryClient
    project: str
    temporary: Path
    folder: Path

    @property
    def tiny(self) -> str:
        """The reference of the base image with a shell and nothing else."""
        return f"{self.registry.address}/{TINY}"

    def run(self, *arguments: str) -> int:
        """Run `builder build` with this engine; its exit code."""
        return run(["build", str(self.repository.path), "--engine", str(self.engine), *arguments])

    def report(self) -> dict[str, Any]:
        """Read the report that the last build left."""
        document: dict[str, Any] = json.loads((self.folder / "slipway-report.json").read_text())
        return document

    def manifest(self, tag: str) -> Manifest:
        """Get what a tag of the project names."""
        found = self.client.manifest(self.project, tag)
        assert found is not None, f"{tag} does not exist"
        return found

    def configuration(self, tag: str) -> dict[str, Any]:
        """Read the configuration of an image of the project."""
        digest = str(self.manifest(tag).document()["config"]["digest"])
        document: dict[str, Any] = json.loads(self.client.blob(self.project, digest, largest_bytes=1 << 20))
        found: dict[str, Any] = document["config"]
        return found

    def key(self, sha: str) -> Key:
        """Compute a commit's key."""
        with self.repository.tree(sha) as tree:
            return environment_key(tree.tree, tree.read, kind=Kind.CONTAINER, platform=this_platform())

    def build(self, sha: str, key: Key, say: Callable[[str], None] = lambda _: None) -> Report:
        """Build a commit by a key of the caller's."""
        credentials = Credentials(username="ada", password=PASSWORDS["ada"])
        target = Target(registry=self.client, repository=self.project, commit=sha, credentials=credentials)
        with self.repository.tree(sha) as tree:
            return build(tree, key, target, Policy(), ContainerMaker(self.engine, Options()), say=say)


@pytest.fixture(scope="session")
def stocked(container_registry: Guarded, tiny_image: Image) -> Guarded:
    """The registry, with the small base image in it."""
    client = container_registry.client()
    tiny_image.push(client, *TINY.split(":"))
    client.close()
    return container_registry


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EngineName:
    """Each engine in turn; Docker gets a daemon of its own."""
    name = str(request.param)
    if name == EngineName.DOCKER:
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("docker_daemon").address)
    try:
        return choose(name)
    except UsageError as error:
        pytest.skip(f"{error} `scripts/install --dev` brings it")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where builds may leave nothing behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def job(
    engine: EngineName, stocked: Guarded, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Job]:
    """A job in a project of its own."""
    path = tmp_path / "repository"
    path.mkdir()
    repository = Repository(path=path)
    repository.git("init", "--quiet", "--initial-branch=main")
    for name in list(os.environ):
        if name.startswith(("CI", "UV_", "PIP_", "DOCKER_AUTH", "REGISTRY_AUTH", "SLIPWAY_")):
            monkeypatch.delenv(name)
    project = f"group/{tmp_path.name.lower()}"
    for name, value in {
        "HOME": str(tmp_path), "CI_REGISTRY_IMAGE": f"{stocked.address}/{project}", "CI_REGISTRY_USER": "ada",
        "CI_REGISTRY_PASSWORD": PASSWORDS["ada"], "CI_SERVER_URL": f"http://{stocked.token_host}",
        "CI_PROJECT_URL": "https://gitlab.example.com/group/tides",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    client = stocked.client()
    yield Job(
        engine=engine, repository=repository, registry=stocked, client=client, project=project,
        temporary=temporary, folder=tmp_path / "job",
    )  # fmt: skip
    client.close()
    assert list(temporary.iterdir()) == [], "a build left something behind"
