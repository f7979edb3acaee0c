"""Pipelines that trigger jobs start, with python-gitlab.

Covered: a child pipeline and a child of a child, where they are listed and where not, what depends on how they end,
another project's pipeline, one that cannot be made. Left out: dynamic children (an artifact as configuration).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.installation import wait_for

if TYPE_CHECKING:
    from gitlab.v4.objects import Project

    from tests.contract.forge.conftest import Cast

PARENT = """
stages: [start, after]
child:
  stage: start
  variables: {FROM: parent}
  trigger: {include: ci/child.yml, strategy: depend}
last: {stage: after, script: ["true"]}
"""
CHILD = """
image_build:
  script: ['test "$CI_PIPELINE_SOURCE" = parent_pipeline', 'test "$FROM" = parent']
below: {trigger: {include: ci/below.yml}}
"""
BELOW = "deep: {script: ['true']}\ntoo_deep: {trigger: {include: ci/below.yml}}\n"


def _started(project: Project, pipeline_id: int, name: str, *statuses: str) -> dict[str, Any]:
    """Wait until a trigger job has one of the statuses; return it."""

    def look() -> dict[str, Any] | None:
        rows = project.pipelines.get(pipeline_id, lazy=True).bridges.list(get_all=True)
        return next((row.attributes for row in rows if row.name == name and row.status in statuses), None)

    return wait_for(look, seconds=60, what=f"trigger job {name} in {'/'.join(statuses)}")


def test_child_pipelines(cast: Cast) -> None:
    """A child is found through its bridge alone, runs with the parent's variables, and the parent waits for it."""
    made = cast.forge.add_project(cast.path("family"), owner=cast.owner)
    files = {".gitlab-ci.yml": PARENT, "ci/child.yml": CHILD, "ci/below.yml": BELOW}
    sha = cast.forge.commit(made, files)
    parent = cast.forge.wait_for_pipeline(made, sha)
    project = cast.client().projects.get(made.id)

    bridge = _started(project, parent["id"], "child", "success")
    child = project.pipelines.get(bridge["downstream_pipeline"]["id"])
    below = _started(project, child.id, "below", "success")["downstream_pipeline"]
    too_deep = _started(project, below["id"], "too_deep", "failed")

    assert (child.source, child.sha, child.ref, child.status) == ("parent_pipeline", sha, "main", "success")
    assert {row.name for row in child.jobs.list(get_all=True)} == {"image_build"}
    assert (too_deep["downstream_pipeline"], too_deep["failure_reason"]) == (
        None,
        "downstream_pipeline_creation_failed",
    )
    last = cast.forge.wait_for_job(made, sha, "last")
    assert last["status"] == "success"
    assert [row.id for row in project.pipelines.list(sha=sha, get_all=True)] == [parent["id"]]
    children = project.pipelines.list(sha=sha, source="parent_pipeline", get_all=True)
    assert {row.id for row in children} == {child.id, below["id"]}
    # A commit's statuses are those of its own pipelines; the trigger job is one of them, a child's jobs are not.
    assert {row.name for row in project.commits.get(sha).statuses.list(get_all=True)} == {"child", "last"}
    assert {row.name for row in project.jobs.list(get_all=True)} == {"image_build", "deep", "last"}


def test_a_child_that_fails_fails_what_depends_on_it(cast: Cast) -> None:
    """With `strategy: depend` the trigger job ends as its child; cancelling the parent cancels a child that runs."""
    made = cast.forge.add_project(cast.path("failing"), owner=cast.owner)
    sha = cast.forge.commit(made, {".gitlab-ci.yml": PARENT, "ci/child.yml": "image_build: {script: [exit 1]}\n"})
    project = cast.client().projects.get(made.id)
    assert _started(project, cast.forge.wait_for_pipeline(made, sha)["id"], "child", "failed", "success")["status"] == (
        "failed"
    )
    sha = cast.forge.commit(made, {"ci/child.yml": "image_build: {tags: [nobody], script: [exit 1]}\n"})
    parent = project.pipelines.get(cast.forge.wait_for_pipeline(made, sha)["id"])
    below = _started(project, parent.id, "child", "running")["downstream_pipeline"]
    parent.cancel()
    assert project.pipelines.get(below["id"]).status == "canceled"


def test_another_projects_pipeline(cast: Cast) -> None:
    """A trigger of a project makes a pipeline there; one of a project that one may not see cannot."""
    there = cast.forge.add_project(cast.path("there"), owner=cast.owner)
    head = cast.forge.commit(there, {".gitlab-ci.yml": "job: {script: ['true']}\n"}, "Begin. [skip ci]")
    hidden = cast.forge.add_project(f"{cast.stranger.username}/hidden-{there.id}", owner=cast.stranger)
    here = cast.forge.add_project(cast.path("here"), owner=cast.owner)
    text = f"go: {{trigger: {there.path}}}\nrefused: {{trigger: {hidden.path}}}\n"
    pipeline = cast.forge.wait_for_pipeline(here, cast.forge.commit(here, {".gitlab-ci.yml": text}))
    project = cast.client().projects.get(here.id)
    below = _started(project, pipeline["id"], "go", "success")["downstream_pipeline"]
    assert (below["project_id"], below["sha"], below["source"]) == (there.id, head, "pipeline")
    assert _started(project, pipeline["id"], "refused", "failed")["downstream_pipeline"] is None
