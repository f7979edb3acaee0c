"""What an anonymous visitor learns of a commit, with the real forge and registry ports on the stand-in.

Covered: every standing of a public commit, pipelines that are members' only, internal and private projects; that no
token is sent. Left out: how often it is asked (functional/api/test_badges).
"""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from spawner.errors import ProjectNotFound
from spawner.gitlab.registry import GitLabRegistry, RegistryHosts
from spawner.images.finding import ImageFinder
from spawner.images.standing import Standing, Standings
from spawner.names import CommitSha, ProjectPath
from spawner.ports import ImageKind, nobody
from spawner.wiring import SystemClock
from tests.contract.forge_port.conftest import CI
from tests.functional.environment_images import push_image

if TYPE_CHECKING:
    from tests.contract.forge_port.conftest import World

NOBODY = nobody("default")
REQUIREMENTS = {"requirements.txt": "six==1.16.0\n", "README.md": "one"}


def standing(world: "World", path: str, sha: str) -> Standing:
    """Return how a commit stands for nobody."""
    forge = world.forge()
    registry = GitLabRegistry(
        gitlab_url=world.standin.url, hosts=RegistryHosts([urlsplit(world.standin.registry_url).netloc])
    )
    finder = ImageFinder(forge=forge, registry=registry, clock=SystemClock(), defaults={}, max_age_days=30)
    eyes = Standings(forge=forge, finder=finder, build_job="image_build", accepts=frozenset({ImageKind.ENVIRONMENT}))
    return eyes.of(forge.project(NOBODY, ProjectPath(path)), CommitSha(sha), NOBODY)


def test_a_public_commit(world: "World") -> None:
    """Being built, ready, the same environment as one that is ready, and none: all are told to anybody."""
    standin = world.standin
    project = standin.add_project("ada/open", owner=world.ada, visibility="public")
    bare = standin.commit(project, {"notes.md": "no environment"})
    assert standing(world, project.path, bare) is Standing.NONE
    first = standin.commit(project, {**REQUIREMENTS, ".gitlab-ci.yml": CI})
    standin.wait_for_pipeline(project, first)
    assert standing(world, project.path, first) is Standing.BUILDING
    keys = world.forge().environment_keys(
        NOBODY, world.forge().project(NOBODY, ProjectPath(project.path)), CommitSha(first)
    )
    key = next(each.key for each in keys if each.kind is ImageKind.ENVIRONMENT)
    push_image(standin, project, first, key=key, lock="")
    assert standing(world, project.path, first) is Standing.READY
    second = standin.commit(project, {"README.md": "two"})
    assert standing(world, project.path, second) is Standing.ENVIRONMENT


def test_pipelines_of_members_only(world: "World") -> None:
    """Where the project keeps its pipelines to its members, nobody learns whether an image is being built."""
    project = world.standin.add_project("ada/quiet", owner=world.ada, visibility="public")
    world.standin.api("PUT", f"/projects/{project.id}", user=world.ada, body={"public_jobs": False})
    sha = world.standin.commit(project, {**REQUIREMENTS, ".gitlab-ci.yml": CI})
    world.standin.wait_for_pipeline(project, sha)
    assert standing(world, project.path, sha) is Standing.UNKNOWN


@pytest.mark.parametrize("path", ["ada/internal", "lab/sub/flights", "ada/absent"])
def test_hidden_projects_are_not_there(world: "World", path: str) -> None:
    """Internal, private and absent projects are the same to nobody."""
    with pytest.raises(ProjectNotFound) as caught:
        world.forge().project(NOBODY, ProjectPath(path))
    assert caught.value.message == "There is no such project, or you may not see it."
