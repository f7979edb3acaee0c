"""Where a commit's build jobs may be, and how many calls it costs to find them there.

Covered: child pipelines, children of children, trigger jobs that have started none, other projects' pipelines,
detached and merged-results pipelines, forks. Left out: the plain cases (test_forge).
"""

from typing import Any

import pytest

from spawner.names import CommitSha
from spawner.ports import CommitBuilds, JobStatus
from spawner.testing.gitlab import ProjectHandle
from tests.contract.forge_port.conftest import World, personal
from tests.contract.forge_port.test_forge import calls
from tests.installation import wait_for

BUILD = "image_build: {script: ['true']}\n"
CHILD = "child: {trigger: {include: child.yml}}\n"


def _look(world: World, project: ProjectHandle, sha: str) -> tuple[CommitBuilds, dict[str, int]]:
    """Return what the port finds, and its calls by the last two words of their routes."""
    found: list[CommitBuilds] = []

    def look() -> None:
        forge = world.forge()
        found.append(forge.builds(personal(world.ada.token), project.id, CommitSha(sha), job_name="image_build"))

    made = calls(world, look)
    return found[0], {"/".join(route.split("/")[-2:]): count for route, count in made.items()}


def _children(world: World, project: ProjectHandle, sha: str, count: int) -> None:
    """Wait until a commit has so many child pipelines."""
    path = f"/projects/{project.id}/pipelines?source=parent_pipeline&sha={sha}"
    api = world.standin.api
    wait_for(lambda: api("GET", path, user=world.ada)[count - 1 :] or None, seconds=60, what="child pipelines")


@pytest.mark.parametrize(
    ("files", "depth", "expected"),
    [
        pytest.param(
            {".gitlab-ci.yml": CHILD, "child.yml": BUILD},
            1,
            {":sha/statuses": 1, ":id/pipelines": 1, ":pipeline_id/jobs": 2, ":pipeline_id/bridges": 1},
            id="child",
        ),
        pytest.param(
            {
                ".gitlab-ci.yml": CHILD,
                "child.yml": "below: {trigger: {include: below.yml}}\n",
                "below.yml": BUILD.replace("image_build", '"image_build: [py311]"'),
            },
            2,
            {":sha/statuses": 1, ":id/pipelines": 1, ":pipeline_id/jobs": 3, ":pipeline_id/bridges": 2},
            id="child-of-a-child",
        ),
    ],
)
def test_a_job_in_a_child_pipeline(
    world: World, request: pytest.FixtureRequest, files: dict[str, str], depth: int, expected: dict[str, int]
) -> None:
    """A job that only its trigger job leads to is found; looking at it again is one call."""
    project = world.standin.add_project(f"ada/{request.node.callspec.id}", owner=world.ada)
    sha = world.standin.commit(project, files)
    _children(world, project, sha, depth)
    found, made = _look(world, project, sha)
    assert [(job.name[:11], job.status) for job in found.jobs] == [("image_build", JobStatus.PENDING)]
    assert found.jobs[0].pipeline_id not in {pipeline.id for pipeline in found.pipelines}
    assert made == expected
    again = calls(world, lambda: world.forge().job(personal(world.ada.token), project.id, found.jobs[0].id))
    assert sum(again.values()) == 1


def test_a_trigger_job_that_waits_stands_for_what_it_may_bring(world: World) -> None:
    """Before it has started its pipeline a trigger job is what is waited for; one that never will is nothing."""
    project = world.standin.add_project("ada/waiting-trigger", owner=world.ada)
    first = "stages: [one, two]\nother: {stage: one, script: ['true']}\n"
    late = "child: {stage: two, trigger: {include: child.yml}}\n"
    files: dict[str, Any] = {".gitlab-ci.yml": first + late, "child.yml": BUILD}
    sha = world.standin.commit(project, files)
    world.standin.wait_for_pipeline(project, sha)
    found, _ = _look(world, project, sha)
    assert [(job.name, job.status) for job in found.jobs] == [("child", JobStatus.CREATED)]
    files[".gitlab-ci.yml"] = first + late.replace("stage: two", "stage: one, when: manual")
    sha = world.standin.commit(project, files)
    world.standin.wait_for_pipeline(project, sha)
    assert _look(world, project, sha)[0].jobs == ()


def test_another_projects_pipeline_is_not_this_ones(world: World) -> None:
    """A job of the name in a pipeline that was started elsewhere writes to another registry, and does not count."""
    there = world.standin.add_project("ada/there", owner=world.ada)
    world.standin.commit(there, {".gitlab-ci.yml": BUILD}, "Begin. [skip ci]")
    project = world.standin.add_project("ada/here", owner=world.ada)
    sha = world.standin.commit(project, {".gitlab-ci.yml": "go: {trigger: ada/there}\n"})
    path = f"/projects/{there.id}/pipelines?source=pipeline"
    api = world.standin.api
    wait_for(lambda: api("GET", path, user=world.ada) or None, seconds=60, what="a pipeline elsewhere")
    found, _ = _look(world, project, sha)
    assert (len(found.pipelines), found.jobs) == (1, ())


MERGE_CI = "image_build: {rules: [{if: $CI_MERGE_REQUEST_IID}], script: ['true']}\n"


def _request(world: World, source: ProjectHandle, target: ProjectHandle) -> dict[str, Any]:
    body = {"source_branch": "topic", "target_branch": "main", "title": "Merge.", "target_project_id": target.id}
    made: dict[str, Any] = world.standin.api(
        "POST", f"/projects/{source.id}/merge_requests", user=source.owner, body=body
    )
    path = f"/projects/{target.id}/merge_requests/{made['iid']}/pipelines"
    api = world.standin.api
    rows: list[dict[str, Any]] = wait_for(
        lambda: [row for row in api("GET", path) if row["source"] == "merge_request_event"] or None,
        seconds=60,
        what="a merge request's pipeline",
    )
    return rows[0]


def test_a_detached_pipeline_is_one_call(world: World) -> None:
    """A merge request's pipeline on the head itself is among the commit's statuses."""
    project = world.standin.add_project("ada/detached", owner=world.ada)
    world.standin.commit(project, {".gitlab-ci.yml": MERGE_CI}, "Begin. [skip ci]")
    sha = world.standin.commit(project, {"a": "a"}, branch="topic")
    pipeline = _request(world, project, project)
    found, made = _look(world, project, sha)
    assert [(job.pipeline_id, job.ref) for job in found.jobs] == [(pipeline["id"], "refs/merge-requests/1/head")]
    assert made == {":sha/statuses": 1}


def test_a_merged_results_pipeline_is_found_by_its_merge_request(world: World) -> None:
    """A job on a merge that GitLab made is the head's, and not its target's."""
    project = world.standin.add_project("ada/results", owner=world.ada)
    base = world.standin.commit(project, {".gitlab-ci.yml": MERGE_CI}, "Begin. [skip ci]")
    world.standin.api("PUT", f"/projects/{project.id}", user=world.ada, body={"merge_pipelines_enabled": True})
    sha = world.standin.commit(project, {"a": "a"}, "Add.", branch="topic")
    pipeline = _request(world, project, project)
    found, made = _look(world, project, sha)
    assert [(job.name, job.pipeline_id) for job in found.jobs] == [("image_build", pipeline["id"])]
    assert made == {
        ":sha/statuses": 1,
        ":id/pipelines": 1,
        ":sha/merge_requests": 1,
        ":merge_request_iid/pipelines": 1,
        "commits/:sha": 1,
        ":pipeline_id/jobs": 1,
    }
    assert _look(world, project, base)[0].jobs == ()


def test_a_forks_pipeline_counts_in_the_fork_alone(world: World) -> None:
    """A fork's merge request is built in the fork: nothing of that is the target's, until a member has it run there."""
    target = world.standin.add_project("ada/target", owner=world.ada)
    world.standin.commit(target, {".gitlab-ci.yml": MERGE_CI}, "Begin. [skip ci]")
    world.standin.add_member(target, world.bob, 20)
    made = world.standin.api("POST", f"/projects/{target.id}/fork", user=world.bob, body={"path": "copy"})
    copy = ProjectHandle(path="bob/copy", id=made["id"], http_url=made["http_url_to_repo"], owner=world.bob)
    sha = world.standin.commit(copy, {"a": "a"}, branch="topic")
    _request(world, copy, target)
    merge_request = world.forge().open_merge_request(personal(world.ada.token), target.id, CommitSha(sha))
    assert merge_request is not None
    assert merge_request.source_branch == "topic"
    assert _look(world, target, sha)[0] == CommitBuilds(pipelines=(), jobs=())
    path = f"/projects/{target.id}/merge_requests/{merge_request.number}/pipelines"
    run = world.standin.api("POST", path, user=world.ada)
    assert [job.pipeline_id for job in _look(world, target, sha)[0].jobs] == [run["id"]]
