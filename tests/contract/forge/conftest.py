"""A GitLab to talk to, the people and the projects of this suite, and real python-gitlab clients.

The suite runs on the stand-in. `--gitlab-url URL --gitlab-token-file FILE` (an administrator's token) runs it on a
real GitLab too (hooks to local addresses have to be allowed there, and a runner with a shell has to serve it); without
them nothing of that is collected. What only the stand-in can do uses the fixture `stand_in`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gitlab
import pytest

from spawner.testing.gitlab import Forge, ProjectHandle, StandIn, UserHandle

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATION = """
stages: [build, test]
image_build:
  stage: build
  script:
    - echo "building for $CI_COMMIT_SHORT_SHA"
    - echo "IMAGE_KEY=abc123" > image.env
    - echo content > result.txt
  artifacts:
    paths: [result.txt]
    reports: {dotenv: image.env}
use:
  stage: test
  script:
    - test "$IMAGE_KEY" = abc123
    - test "$(cat result.txt)" = content
ask:
  stage: test
  when: manual
  script: ["echo played with $ANSWER"]
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the address of a real GitLab."""
    parser.addoption("--gitlab-url", help="also run the forge contract on this GitLab")
    parser.addoption("--gitlab-token-file", help="a file with an administrator's token of that GitLab")
    parser.addoption("--openapi", help="GitLab's own openapi_v2.yaml, of the release to compare with")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Collect each test for the stand-in, and for a real GitLab only when one is named."""
    if "forge" in metafunc.fixturenames:
        real = ["gitlab"] if metafunc.config.getoption("--gitlab-url", default=None) else []
        metafunc.parametrize("forge", ["stand-in", *real], indirect=True, scope="session")


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A running stand-in with a runner."""
    with StandIn.start(data=tmp_path_factory.mktemp("gitlab") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def forge(request: pytest.FixtureRequest) -> Forge:
    """The GitLab under test."""
    if request.param == "stand-in":
        found: Forge = request.getfixturevalue("stand_in")
        return found
    token = Path(request.config.getoption("--gitlab-token-file")).read_text().strip()
    admin = UserHandle(username="root", id=1, token=token, is_admin=True)
    return Forge(url=request.config.getoption("--gitlab-url").rstrip("/"), admin=admin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who and what the tests play with: a private project with a finished pipeline, and a stranger."""

    forge: Forge
    owner: UserHandle
    stranger: UserHandle
    project: ProjectHandle
    first: str
    sha: str

    def client(self, user: UserHandle | None = None) -> gitlab.Gitlab:
        """A python-gitlab client of the owner, or of somebody else."""
        return gitlab.Gitlab(self.forge.url, private_token=(user or self.owner).token, timeout=20)

    def path(self, name: str) -> str:
        """A new path in the owner's namespace."""
        return f"{self.owner.username}/{name}-{secrets.token_hex(3)}"


@pytest.fixture(scope="session")
def cast(forge: Forge) -> Cast:
    """The owner, the stranger, and a project whose pipeline has run."""
    mark = secrets.token_hex(3)
    owner, stranger = forge.add_user(f"ada-{mark}"), forge.add_user(f"bob-{mark}")
    project = forge.add_project(f"{owner.username}/demo-{mark}", owner=owner)
    first = forge.commit(project, {"README.md": "one\n", "data/a b.txt": "x\n"}, "Begin.\n\nWith a body.")
    sha = forge.commit(project, {".gitlab-ci.yml": CONFIGURATION, "README.md": "two\n"}, "Build.")
    forge.wait_for_job(project, sha, "use")
    return Cast(forge=forge, owner=owner, stranger=stranger, project=project, first=first, sha=sha)
