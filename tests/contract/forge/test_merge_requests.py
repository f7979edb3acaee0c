"""Merge requests, forks and moves with python-gitlab.

Covered: open, find, by commit, change, merge, conflicts; detached and merged-results pipelines with their variables;
forks and whose project runs their pipelines; renamed projects by GET, by other methods and by Git.
Left out: approvals, merge trains (paid editions have them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests
from gitlab.exceptions import GitlabCreateError, GitlabMRClosedError, GitlabUpdateError

from spawner.testing.gitlab import ProjectHandle
from tests.functional.environment_images import push_image
from tests.installation import wait_for

if TYPE_CHECKING:
    from gitlab.v4.objects import Project, ProjectMergeRequest

    from spawner.testing.gitlab import StandIn
    from tests.contract.forge.conftest import Cast

CI = """
workflow: {rules: [{if: $CI_PIPELINE_SOURCE == "merge_request_event"}, {if: $CI_COMMIT_BRANCH}]}
image_build:
  rules:
    - if: $CI_PIPELINE_SOURCE == "merge_request_event"
  script:
    - echo "iid=$CI_MERGE_REQUEST_IID kind=$CI_MERGE_REQUEST_EVENT_TYPE head=$CI_MERGE_REQUEST_SOURCE_BRANCH_SHA"
    - echo "ref=$CI_COMMIT_REF_NAME branch=$CI_COMMIT_BRANCH"
    - test "$(git rev-parse HEAD)" = "$CI_COMMIT_SHA"
branches: {rules: [{if: $CI_COMMIT_BRANCH}], script: ["true"]}
"""


def _project(cast: Cast, name: str) -> tuple[ProjectHandle, Project]:
    made = cast.forge.add_project(cast.path(name), owner=cast.owner)
    cast.forge.commit(made, {".gitlab-ci.yml": CI, "README.md": "one\n"}, "Begin. [skip ci]")
    return made, cast.client().projects.get(made.id)


def _opened(project: Project, branch: str, **more: Any) -> ProjectMergeRequest:
    given = {"source_branch": branch, "target_branch": "main", "title": f"Merge {branch}", **more}
    return project.mergerequests.create(given)


def _pipeline(request: ProjectMergeRequest, source: str = "merge_request_event") -> Any:
    """Wait for a merge request's own pipeline."""

    def look() -> Any:
        return next((row for row in request.pipelines.list(get_all=True) if row.source == source), None)

    return wait_for(look, seconds=60, what="a merge request's pipeline")


def _log(cast: Cast, made: ProjectHandle, sha: str) -> str:
    job = cast.forge.wait_for_job(made, sha, "image_build")
    assert job["status"] == "success", job
    text: bytes = cast.client().projects.get(made.id).jobs.get(job["id"]).trace()
    return text.decode()


def test_a_merge_request_is_found_changed_and_merged(cast: Cast) -> None:
    """One is opened once, found by branch and by commit, and merged by who may push."""
    made, project = _project(cast, "merged")
    head = cast.forge.commit(made, {"a": "a"}, "Add. [skip ci]", branch="topic")
    request = _opened(project, "topic")
    with pytest.raises(GitlabCreateError) as caught:
        _opened(project, "topic")
    assert (caught.value.response_code, request.iid, request.sha, request.state) == (409, 1, head, "opened")
    assert [row.iid for row in project.mergerequests.list(source_branch="topic", state="opened", get_all=True)] == [1]
    assert [row["iid"] for row in project.commits.get(head).merge_requests(get_all=True)] == [1]
    assert project.commits.get("main").merge_requests(get_all=True) == []

    request.title = "Another title"
    request.save()
    merged = request.merge()
    assert (merged["state"], merged["title"]) == ("merged", "Another title")
    assert set(project.commits.get("main").parent_ids) >= {head}
    assert [row["iid"] for row in project.commits.get(head).merge_requests(get_all=True)] == [1]
    with pytest.raises(GitlabMRClosedError) as again:
        request.merge()
    assert again.value.response_code == 405


def test_a_conflict_is_not_merged(cast: Cast) -> None:
    """A head that conflicts with its target is shown as such and refused."""
    made, project = _project(cast, "conflict")
    cast.forge.commit(made, {"README.md": "two\n"}, "Two. [skip ci]", branch="topic")
    cast.forge.commit(made, {"README.md": "three\n"}, "Three. [skip ci]")
    request = _opened(project, "topic")
    assert (request.has_conflicts, request.detailed_merge_status) == (True, "conflict")
    with pytest.raises(GitlabMRClosedError) as caught:
        request.merge()
    assert caught.value.response_code == 422


def test_a_detached_pipeline(cast: Cast) -> None:
    """It runs on the head, under the merge request's ref, in no branch; the branch's own pipeline knows of it."""
    made, project = _project(cast, "detached")
    head = cast.forge.commit(made, {"a": "a"}, "Add. [skip ci]", branch="topic")
    request = _opened(project, "topic")
    found = _pipeline(request)
    assert (found.sha, found.ref, found.project_id) == (head, "refs/merge-requests/1/head", made.id)
    text = _log(cast, made, head)
    assert "iid=1 kind=detached head=\n" in text.replace("\r", "")
    assert "ref=topic branch=\n" in text.replace("\r", "")
    newer = cast.forge.commit(made, {"a": "b"}, branch="topic")
    wait_for(
        lambda: [row for row in request.pipelines.list(get_all=True) if row.sha == newer][1:] or None,
        seconds=60,
        what="a branch's and a merge request's pipeline of the newer head",
    )
    rows = project.pipelines.list(sha=newer, get_all=True)
    assert {(row.source, row.ref) for row in rows} == {
        ("push", "topic"),
        ("merge_request_event", "refs/merge-requests/1/head"),
    }


def test_a_merged_results_pipeline(cast: Cast) -> None:
    """It runs on a commit that nobody pushed: not found by the head's SHA, but by the merge request."""
    made, project = _project(cast, "results")
    project.merge_pipelines_enabled = True
    project.save()
    head = cast.forge.commit(made, {"a": "a"}, "Add. [skip ci]", branch="topic")
    request = _opened(project, "topic")
    found = _pipeline(request)
    assert (found.ref, found.sha == head) == ("refs/merge-requests/1/merge", False)
    assert head in project.commits.get(found.sha).parent_ids
    assert [row.source for row in project.pipelines.list(sha=head, get_all=True)] == ["push"]  # skipped
    assert f"kind=merged_result head={head}" in _log(cast, made, found.sha)


def test_a_forks_merge_request_runs_in_the_fork(cast: Cast) -> None:
    """A fork knows its origin; its merge request runs in the fork, and in the target when a member asks."""
    made, project = _project(cast, "origin")
    cast.forge.add_member(made, cast.stranger, 20)
    copied = cast.client(cast.stranger).projects.get(made.id).forks.create({"path": f"copy-{made.id}"})
    copy = cast.client(cast.stranger).projects.get(copied.id)
    assert copy.forked_from_project["id"] == made.id
    assert [row.id for row in project.forks.list(get_all=True)] in ([], [copied.id])
    head = cast.forge.commit(_handle(cast, copy), {"a": "a"}, "Add. [skip ci]", branch="topic")
    request = _opened(copy, "topic", target_project_id=made.id)
    shown = project.mergerequests.get(request.iid)
    assert (shown.source_project_id, shown.target_project_id, shown.sha) == (copied.id, made.id, head)
    assert _pipeline(shown).project_id == copied.id
    mine = shown.pipelines.create({})
    assert (mine.project_id, mine.ref, mine.sha) == (made.id, f"refs/merge-requests/{shown.iid}/head", head)
    assert cast.forge.wait_for_job(made, head, "image_build")["status"] == "success"


def _handle(cast: Cast, project: Any) -> ProjectHandle:
    return ProjectHandle(
        path=project.path_with_namespace, id=project.id, http_url=project.http_url_to_repo, owner=cast.stranger
    )


def test_a_renamed_project_is_found_by_its_old_path(cast: Cast) -> None:
    """GET is redirected to the id, other methods are refused, Git goes on, and a stranger learns nothing."""
    made, project = _project(cast, "before")
    project.path = f"after-{made.id}"
    project.save()
    old = f"{cast.forge.url}/api/v4/projects/{quote(made.path, safe='')}"
    headers = {"PRIVATE-TOKEN": cast.owner.token}
    answer = requests.get(f"{old}/repository/branches?per_page=5", headers=headers, timeout=20, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (
        301,
        f"{cast.forge.url}/api/v4/projects/{made.id}/repository/branches?per_page=5",
    )
    assert cast.client().projects.get(made.path).path_with_namespace == f"{cast.owner.username}/after-{made.id}"
    assert requests.put(old, headers=headers, json={"description": "x"}, timeout=20).status_code == 405
    stranger = {"PRIVATE-TOKEN": cast.stranger.token}
    assert requests.get(old, headers=stranger, timeout=20).status_code == 404
    cast.forge.commit(made, {"b": "b"}, "By the old address. [skip ci]")


def test_a_project_with_images_stays(stand_in: StandIn, cast: Cast) -> None:
    """A project whose registry holds a tag is not renamed: its images' names would break."""
    made, project = _project(cast, "images")
    push_image(stand_in, made, "", tags=["one"], lock="")
    project.path = f"elsewhere-{made.id}"
    with pytest.raises(GitlabUpdateError, match="container registry tags"):
        project.save()
