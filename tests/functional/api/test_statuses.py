"""When a launch link is posted on a commit: after hooks and after builds that are watched, and only where it is wanted.

Covered: a commit that nobody waits for, one that somebody does, repeats, builds that go on, merged results, no token.
Left out: GitLab's own rules of statuses (contract/forge_port/test_statuses).
"""

import json
from dataclasses import dataclass, field, replace

import pytest
from flask.testing import FlaskClient

from spawner.images.finding import ImageFinder
from spawner.images.standing import Standings
from spawner.images.statuses import LaunchStatuses
from spawner.names import CommitSha
from spawner.ports import (
    CommitStatus,
    Credential,
    CredentialKind,
    JobStatus,
    NumberedPage,
    PageKind,
    Shown,
)
from tests.functional.api.test_servers import launch
from tests.functional.api.world import HOOK_SECRET, OLD_SHA, SHA, World

LINK = CommitStatus(
    state="success",
    description="Opens in this commit's own image.",
    target_url=f"https://slipway.test/launch/grp/proj/-/commit/{SHA}",
)


@dataclass
class Statuses:
    """The statuses of commits, in memory."""

    posted: list[tuple[str, int, CommitStatus]] = field(default_factory=list)

    def newest(
        self, credential: Credential, project_id: int, sha: CommitSha, *, name: str, pipeline_id: int
    ) -> CommitStatus | None:
        del credential, project_id, name
        found = [status for at, pipeline, status in self.posted if (at, pipeline) == (sha, pipeline_id)]
        return found[-1] if found else None

    def post(
        self,
        credential: Credential,
        project_id: int,
        sha: CommitSha,
        status: CommitStatus,
        *,
        name: str,
        pipeline_id: int,
    ) -> None:
        del credential, project_id
        assert name == "launch"
        self.posted.append((sha, pipeline_id, status))


@pytest.fixture
def statuses(world: World) -> Statuses:
    """What is posted, by a spawner that has a token to post with."""
    found = Statuses()
    finder = ImageFinder(forge=world.forge, registry=world.registry, clock=world.clock, defaults={}, max_age_days=30)
    world.services.images._statuses = LaunchStatuses(
        forge=world.forge,
        statuses=found,
        standings=Standings(
            forge=world.forge, finder=finder, build_job="image_build", accepts=world.runtime.image_kinds
        ),
        credential=Credential(forge="default", token="token-ada", kind=CredentialKind.PERSONAL),
        build_job="image_build",
        public_url="https://slipway.test",
    )
    return found


def hook(client: FlaskClient, number: int, *, sha: str = SHA) -> None:
    """Deliver a job hook; each number is a delivery of its own."""
    payload = {
        "object_kind": "build",
        "sha": sha,
        "project_id": 42,
        "pipeline_id": 800,
        "build_id": 900,
        "build_name": "image_build",
        "build_status": "success",
        "build_duration": number,
    }
    sent = {"X-Gitlab-Event": "Job Hook", "X-Gitlab-Token": HOOK_SECRET}
    answer = client.post("/hooks/gitlab", data=json.dumps(payload), content_type="application/json", headers=sent)
    assert answer.status_code == 204


def after_hooks(world: World, client: FlaskClient, *, sha: str = SHA) -> None:
    """Deliver two hooks, and wait until both have been worked on."""
    for number in range(2):
        asked = world.forge.asked
        hook(client, number, sha=sha)
        world.until(lambda asked=asked: world.forge.asked > asked)  # type: ignore[misc]
    world.dispatcher.stop(timeout_seconds=10)


def test_a_commit_that_nobody_waits_for(world: World, nobody: FlaskClient, statuses: Statuses) -> None:
    """A hook is enough; a second one posts nothing more."""
    world.add_job(world.forge.projects[42], JobStatus.SUCCESS)
    world.add_image()
    after_hooks(world, nobody)
    assert statuses.posted == [(SHA, 800, LINK)]


@pytest.mark.parametrize(("status", "has_image"), [(JobStatus.RUNNING, True), (JobStatus.FAILED, False)])
def test_nothing_to_say(
    world: World, nobody: FlaskClient, statuses: Statuses, status: JobStatus, *, has_image: bool
) -> None:
    """While a build goes on, or when it left nothing, nothing is posted."""
    world.add_job(world.forge.projects[42], status)
    if has_image:
        world.add_image()
    after_hooks(world, nobody)
    assert statuses.posted == []


def test_a_build_that_is_watched(world: World, ada: FlaskClient, statuses: Statuses) -> None:
    """The end of a build that somebody waits for is enough, without any hook."""
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.RUNNING)
    launch(ada)
    world.until(lambda: world.services.images.build(f"default/42/{SHA}"))
    world.add_image()
    world.add_job(project, JobStatus.SUCCESS)
    assert world.until(lambda: statuses.posted) == [(SHA, 800, LINK)]


def test_a_merged_result(world: World, nobody: FlaskClient, statuses: Statuses) -> None:
    """On a merge commit that no branch holds, the link launches the merge request's head."""
    project = world.forge.projects[42]
    job = world.add_job(project, JobStatus.SUCCESS, sha=OLD_SHA)
    project.jobs[OLD_SHA] = [replace(job, ref="refs/merge-requests/5/merge")]
    project.pages[NumberedPage(kind=PageKind.MERGE_REQUEST, number=5)] = Shown(sha=SHA, ref="feature/x")
    world.add_image()
    after_hooks(world, nobody, sha=OLD_SHA)
    assert statuses.posted == [(OLD_SHA, 800, LINK)]


def test_not_without_a_token(world: World, nobody: FlaskClient) -> None:
    """Unless the operator gave a token, a hook about a commit that nobody waits for costs GitLab nothing."""
    world.add_job(world.forge.projects[42], JobStatus.SUCCESS)
    world.add_image()
    asked = world.forge.asked
    hook(nobody, 1)
    world.dispatcher.stop(timeout_seconds=10)
    assert world.forge.asked == asked
