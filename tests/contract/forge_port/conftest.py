"""One stand-in for the suite: Ada owns a private, an internal and a public project; Bob is a stranger to all."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from spawner.gitlab.client import GitLabForge
from spawner.names import CommitSha, ProjectPath
from spawner.ports import Credential, CredentialKind, Project
from spawner.testing.gitlab import ProjectHandle, StandIn, UserHandle

CI = """\
image_build:
  stage: build
  script: [echo built]
unit:
  stage: test
  script: [echo tested]
"""
MANUAL_CI = CI.replace("  script: [echo built]", "  when: manual\n  script: [echo built]")
MATRIX_CI = CI.replace("image_build:", "image_build:\n  parallel: 2")
FAILING_CI = CI.replace("echo built", "exit 3")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The stand-in and what is in it."""

    standin: StandIn
    ada: UserHandle
    bob: UserHandle
    private: ProjectHandle
    internal: ProjectHandle
    public: ProjectHandle
    first: CommitSha
    second: CommitSha
    cache: Path

    def forge(self, *, cache: Path | None = None, application_ids: frozenset[str] = frozenset()) -> GitLabForge:
        """Return a forge port on the stand-in."""
        return GitLabForge(
            self.standin.url,
            key_cache=cache or self.cache,
            registry_host=self.standin.registry_url.partition("//")[2],
            application_ids=application_ids,
        )

    def project(self, handle: ProjectHandle, credential: Credential) -> Project:
        """Return a project as somebody sees it."""
        return self.forge().project(credential, ProjectPath(handle.path))


def personal(token: str) -> Credential:
    return Credential(forge="default", token=token, kind=CredentialKind.PERSONAL)


def oauth(token: str) -> Credential:
    return Credential(forge="default", token=token, kind=CredentialKind.OAUTH)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("forge")
    with StandIn.start(data=folder / "gitlab", runner=False) as standin:
        ada = standin.add_user("ada", password="ada-password-1")
        bob = standin.add_user("bob")
        standin.add_group("lab", owner=ada)
        standin.add_group("lab/sub", owner=ada)
        private = standin.add_project("lab/sub/flights", owner=ada)
        internal = standin.add_project("ada/internal", owner=ada, visibility="internal")
        public = standin.add_project("ada/public", owner=ada, visibility="public")
        first = standin.commit(private, {"README.md": "one", "requirements.txt": "numpy==2.0.0\n"}, "First.")
        second = standin.commit(private, {"README.md": "two", ".gitlab-ci.yml": CI}, "Second.")
        for project in (internal, public):
            standin.commit(project, {"README.md": project.path, "requirements.txt": "numpy==2.0.0\n"})
        yield World(
            standin=standin,
            ada=ada,
            bob=bob,
            private=private,
            internal=internal,
            public=public,
            first=CommitSha(first),
            second=CommitSha(second),
            cache=folder / "keys",
        )
