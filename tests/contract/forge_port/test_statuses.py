"""The launch link on a pipeline, with the real ports on the stand-in: when it is posted, what it says, and how often.

Covered: no status before the build's end, without an image or with a token that may not; one status however often it
is told, on the build job's own pipeline; a better image replaces it; several threads at once. Left out: merged results,
which the stand-in does not make.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from spawner.gitlab.registry import GitLabRegistry, RegistryHosts
from spawner.gitlab.statuses import GitLabStatuses
from spawner.images.finding import ImageFinder
from spawner.images.standing import Standings
from spawner.images.statuses import LaunchStatuses
from spawner.names import CommitSha
from spawner.ports import AccessLevel, ImageKind
from spawner.testing.gitlab.client import ProjectHandle
from spawner.wiring import SystemClock
from tests.contract.forge_port.conftest import CI, personal
from tests.functional.environment_images import push_image

if TYPE_CHECKING:
    from tests.contract.forge_port.conftest import World

FILES = {"requirements.txt": "six==1.16.0\n", ".gitlab-ci.yml": CI}
EXACT = "Opens in this commit's own image."


def teller(world: "World", token: str) -> LaunchStatuses:
    """Return what posts with a token."""
    forge = world.forge()
    registry = GitLabRegistry(gitlab_url=world.standin.url, hosts=RegistryHosts())
    finder = ImageFinder(forge=forge, registry=registry, clock=SystemClock(), defaults={}, max_age_days=30)
    return LaunchStatuses(
        forge=forge,
        statuses=GitLabStatuses(world.standin.url),
        standings=Standings(
            forge=forge, finder=finder, build_job="image_build", accepts=frozenset({ImageKind.ENVIRONMENT})
        ),
        credential=personal(token),
        build_job="image_build",
        public_url="https://slipway.test",
    )


def statuses(world: "World", project: ProjectHandle, sha: str) -> list[dict[str, Any]]:
    """Return every launch status of a commit, those that were replaced too."""
    path = f"/projects/{project.id}/repository/commits/{sha}/statuses?name=launch&all=true"
    found: list[dict[str, Any]] = world.standin.api("GET", path)
    return found


def ended(world: "World", project: ProjectHandle, sha: str) -> int:
    """Let the commit's build end; return its pipeline."""
    job = world.forge().builds(personal(world.ada.token), project.id, CommitSha(sha), job_name="image_build").jobs[0]
    world.standin.api("POST", f"/projects/{project.id}/jobs/{job.id}/cancel")
    return job.pipeline_id


@pytest.fixture
def project(world: "World", request: pytest.FixtureRequest) -> ProjectHandle:
    return world.standin.add_project(f"ada/{request.node.name.replace('_', '-')}", owner=world.ada)


def test_one_status_that_is_true(world: "World", project: ProjectHandle) -> None:
    """Nothing is said of a build that goes on or left nothing; then one link, however often it is told."""
    sha = world.standin.commit(project, FILES)
    world.standin.wait_for_pipeline(project, sha)
    robot = world.standin.add_user("robot")
    world.standin.add_member(project, robot, AccessLevel.DEVELOPER)
    told, build = teller(world, robot.token), f"default/{project.id}/{sha}"
    told.tell(build)
    pipeline = ended(world, project, sha)
    told.tell(build)
    assert statuses(world, project, sha) == []
    push_image(world.standin, project, sha, lock="")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(told.tell, [build] * 8))
    found = statuses(world, project, sha)
    assert [(row["status"], row["description"], row["target_url"], row["pipeline_id"]) for row in found] == [
        ("success", EXACT, f"https://slipway.test/launch/{project.path}/-/commit/{sha}", pipeline)
    ]
    rows = world.standin.api("GET", f"/projects/{project.id}/pipelines?sha={sha}")
    assert [(row["id"], row["source"]) for row in rows] == [(pipeline, "push")]


def test_a_better_image_replaces_it(world: "World", project: ProjectHandle) -> None:
    """The same environment first, the commit's own image later: one link is shown at a time, the true one."""
    first = world.standin.commit(project, FILES)
    world.standin.wait_for_pipeline(project, first)
    ada = personal(world.ada.token)
    seen = world.forge().project(ada, project.id)
    keys = world.forge().environment_keys(ada, seen, CommitSha(first))
    key = next(each.key for each in keys if each.kind is ImageKind.ENVIRONMENT)
    push_image(world.standin, project, first, key=key, lock="")
    sha = world.standin.commit(project, {"notes.md": "an edit"})
    world.standin.wait_for_pipeline(project, sha)
    ended(world, project, sha)
    told, build = teller(world, world.ada.token), f"default/{project.id}/{sha}"
    told.tell(build)
    told.tell(build)
    assert [row["description"] for row in statuses(world, project, sha)] == [
        "Opens in the image of the same environment."
    ]
    push_image(world.standin, project, sha, lock="", key=key)
    told.tell(build)
    shown = world.standin.api("GET", f"/projects/{project.id}/repository/commits/{sha}/statuses?name=launch")
    assert [row["description"] for row in shown] == [EXACT]


def test_a_token_without_the_right_posts_nothing(world: "World", project: ProjectHandle) -> None:
    """A reporter's token, a token without `api` and a stranger's end quietly: the build is no worse for it."""
    sha = world.standin.commit(project, FILES)
    world.standin.wait_for_pipeline(project, sha)
    ended(world, project, sha)
    push_image(world.standin, project, sha, lock="")
    reader = world.standin.add_user("reader")
    world.standin.add_member(project, reader, AccessLevel.REPORTER)
    narrow = world.standin.add_token(world.ada.id, scopes=["read_api", "read_repository", "read_registry"])
    for token in (reader.token, narrow, world.bob.token, "glpat-unknown"):
        teller(world, token).tell(f"default/{project.id}/{sha}")
    assert statuses(world, project, sha) == []
