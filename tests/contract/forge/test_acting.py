"""What people and commits set going: pipelines by push and by hand, play, retry, cancel, erase, statuses, badges.

Covered: `[skip ci]`, `ci.skip`, several commits in one push, tags, broken configuration, `allow_failure`, failed
stages, delayed and manual jobs, automatic retries, resource groups, auto-cancel. Left out: time limits (unit tests).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
from gitlab.exceptions import GitlabCreateError, GitlabJobEraseError, GitlabJobPlayError, GitlabJobRetryError

if TYPE_CHECKING:
    from spawner.testing.gitlab import ProjectHandle
    from tests.contract.forge.conftest import Cast

SLOW = "image_build: {script: [sleep 60]}\n"


def _project(cast: Cast, name: str) -> ProjectHandle:
    return cast.forge.add_project(cast.path(name), owner=cast.owner)


def _jobs(cast: Cast, project: ProjectHandle, sha: str) -> dict[str, Any]:
    found = cast.client().projects.get(project.id)
    pipeline = found.pipelines.list(sha=sha, get_all=True)[0]
    return {row.name: row for row in pipeline.jobs.list(get_all=True)}


def _status(cast: Cast, project: ProjectHandle, sha: str, wanted: str) -> str:
    """Wait until the commit's newest pipeline has a status; return the last one seen."""
    seen, ends = "", time.monotonic() + 30
    while seen != wanted and time.monotonic() < ends:
        rows = cast.client().projects.get(project.id).pipelines.list(sha=sha, get_all=True)
        seen = rows[0].status if rows else ""
        time.sleep(0.1)
    return seen


@pytest.mark.parametrize(
    ("message", "options"), [("Skip. [skip ci]", ()), ("Skip. [CI SKIP]", ()), ("Skip.", ("ci.skip",))]
)
def test_skipped_pipelines(cast: Cast, message: str, options: tuple[str, ...]) -> None:
    """A commit that says so, or a push that says so, gets a skipped pipeline without jobs."""
    project = _project(cast, "skip")
    sha = cast.forge.commit(project, {".gitlab-ci.yml": SLOW}, message, push_options=options)
    assert cast.forge.wait_for_pipeline(project, sha)["status"] == "skipped"
    assert _jobs(cast, project, sha) == {}


def test_only_the_newest_commit_of_a_push_has_a_pipeline(cast: Cast) -> None:
    """Older commits that come in the same push have none."""
    project = _project(cast, "newest")
    configuration = {".gitlab-ci.yml": "image_build: {script: ['true']}\n"}
    older = cast.forge.commit(project, configuration, "Older. [skip ci]", branch="side")
    sha = cast.forge.commit(project, {"b": "b"}, "Newer.", branch="main", parent=older)
    cast.forge.wait_for_pipeline(project, sha)
    found = cast.client().projects.get(project.id)
    assert found.pipelines.list(sha=older, ref="main", get_all=True) == []


def test_without_configuration_there_is_no_pipeline(cast: Cast) -> None:
    """A commit without `.gitlab-ci.yml` has no pipeline, and asking for one is 400."""
    project = _project(cast, "bare")
    cast.forge.commit(project, {"a": "a"}, "Nothing to run.")
    with pytest.raises(GitlabCreateError) as caught:
        cast.client().projects.get(project.id).pipelines.create({"ref": "main"})
    assert caught.value.response_code == 400
    assert "base" in str(caught.value.response_body)


def test_broken_configuration_makes_a_failed_pipeline(cast: Cast) -> None:
    """A push of a broken configuration makes a failed pipeline that says why."""
    project = _project(cast, "broken")
    sha = cast.forge.commit(project, {".gitlab-ci.yml": "job: {stage: nowhere, script: ['true']}\n"}, "Break.")
    made = cast.forge.wait_for_pipeline(project, sha)
    assert made["status"] == "failed"
    assert cast.client().projects.get(project.id).pipelines.get(made["id"]).yaml_errors


def test_pipeline_by_hand(cast: Cast) -> None:
    """A person starts a pipeline of a branch with variables; an unknown ref is 400."""
    project = _project(cast, "hand")
    configuration = "image_build: {script: ['test \"$GIVEN\" = yes']}\n"
    sha = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "By hand. [skip ci]")
    found = cast.client().projects.get(project.id)
    made = found.pipelines.create({"ref": "main", "variables": [{"key": "GIVEN", "value": "yes"}]})
    assert (made.sha, made.source) == (sha, "api")
    assert cast.forge.wait_for_job(project, sha, "image_build")["status"] == "success"
    with pytest.raises(GitlabCreateError) as caught:
        found.pipelines.create({"ref": "nope"})
    assert caught.value.response_code == 400


def test_failure_is_told_and_stops_what_follows(cast: Cast) -> None:
    """A failed job has its reason, the next stage is skipped, the pipeline failed."""
    project = _project(cast, "fail")
    configuration = """
stages: [build, test]
image_build: {stage: build, script: [exit 7]}
soft: {stage: build, script: [exit 1], allow_failure: true}
use: {stage: test, script: ['true']}
"""
    sha = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "Fail.")
    assert _status(cast, project, sha, "failed") == "failed"
    cast.forge.wait_for_job(project, sha, "soft")
    jobs = _jobs(cast, project, sha)
    assert {name: row.status for name, row in jobs.items()} == {
        "image_build": "failed",
        "soft": "failed",
        "use": "skipped",
    }
    assert jobs["image_build"].failure_reason == "script_failure"


def test_allowed_failure_leaves_the_pipeline_green(cast: Cast) -> None:
    """A pipeline whose only failure is allowed succeeds: the job must be looked at."""
    project = _project(cast, "soft")
    configuration = "image_build: {script: [exit 1], allow_failure: true}\n"
    sha = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "Fail softly.")
    assert _status(cast, project, sha, "success") == "success"
    assert _jobs(cast, project, sha)["image_build"].status == "failed"


def test_manual_job_is_played(cast: Cast) -> None:
    """A manual job waits for a person, runs with their variables, and cannot be played twice."""
    project = _project(cast, "ask")
    configuration = "ask: {script: ['echo played with $ANSWER'], when: manual}\n"
    sha = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "Ask.")
    asked = cast.forge.wait_for_job(project, sha, "ask", statuses=["manual"])
    assert asked["allow_failure"] is True
    body = {"job_variables_attributes": [{"key": "ANSWER", "value": "42"}]}
    path = f"/projects/{project.id}/jobs/{asked['id']}/play"
    assert cast.forge.api("POST", path, user=cast.owner, body=body)["id"] == asked["id"]
    cast.forge.wait_for_job(project, sha, "ask", statuses=["success"])
    job = cast.client().projects.get(project.id).jobs.get(asked["id"])
    assert b"played with 42" in job.trace()
    with pytest.raises(GitlabJobPlayError) as caught:
        job.play()
    assert (caught.value.response_code, caught.value.error_message) == (400, "400 Bad request - Unplayable Job")


def test_retry_makes_a_new_job(cast: Cast) -> None:
    """A retried job is hidden behind a new one of the same name; it cannot be retried again."""
    project = _project(cast, "retry")
    sha = cast.forge.commit(project, {".gitlab-ci.yml": "image_build: {script: ['true']}\n"}, "Once.")
    old = cast.forge.wait_for_job(project, sha, "image_build")
    found = cast.client().projects.get(project.id)
    fresh: Any = found.jobs.get(old["id"]).retry()
    assert fresh["id"] > old["id"]
    cast.forge.wait_for_job(project, sha, "image_build", statuses=["success"])
    pipeline = found.pipelines.list(sha=sha, get_all=True)[0]
    assert [row.id for row in pipeline.jobs.list(get_all=True)] == [fresh["id"]]
    assert {row.id for row in pipeline.jobs.list(include_retried=True, get_all=True)} == {old["id"], fresh["id"]}
    assert [row.id for row in found.commits.get(sha).statuses.list(get_all=True)] == [fresh["id"]]
    with pytest.raises(GitlabJobRetryError) as caught:
        found.jobs.get(old["id"]).retry()
    assert caught.value.response_code == 403


def test_cancel_stops_a_running_job(cast: Cast) -> None:
    """A canceled job ends; its runner is free for the next one; a job that has run cannot be played."""
    project = _project(cast, "cancel")
    sha = cast.forge.commit(project, {".gitlab-ci.yml": SLOW}, "Slow.")
    running = cast.forge.wait_for_job(project, sha, "image_build", statuses=["running"])
    found = cast.client().projects.get(project.id)
    found.jobs.get(running["id"]).cancel()
    assert found.jobs.get(running["id"]).status in {"canceled", "canceling"}
    assert _status(cast, project, sha, "canceled") == "canceled"
    quick = cast.forge.commit(project, {".gitlab-ci.yml": "image_build: {script: ['true']}\n"}, "Quick.")
    assert cast.forge.wait_for_job(project, quick, "image_build")["status"] == "success"


def test_a_running_job_is_canceling_first(cast: Cast) -> None:
    """Its runner sees to its after_script, then it is canceled; a maintainer need not wait for that."""
    project = _project(cast, "canceling")
    text = "image_build: {script: [sleep 60], after_script: [echo see you]}\n"
    sha = cast.forge.commit(project, {".gitlab-ci.yml": text}, "Slow.")
    jobs = cast.client().projects.get(project.id).jobs
    running = cast.forge.wait_for_job(project, sha, "image_build", statuses=["running"])
    jobs.get(running["id"]).cancel()
    assert jobs.get(running["id"]).status == "canceling"
    ended = cast.forge.wait_for_job(project, sha, "image_build")
    assert (ended["status"], b"see you" in jobs.get(ended["id"]).trace()) == ("canceled", True)
    again = jobs.get(ended["id"]).retry()
    cast.forge.wait_for_job(project, sha, "image_build", statuses=["running"])
    path = f"/projects/{project.id}/jobs/{again['id']}/cancel"
    assert cast.forge.api("POST", path, user=cast.owner)["status"] == "canceling"
    assert cast.forge.api("POST", path, user=cast.owner, body={"force": True})["status"] == "canceled"


def test_erase_empties_the_log(cast: Cast) -> None:
    """An erased job has no log and no artifacts, and cannot be erased twice."""
    project = _project(cast, "erase")
    configuration = "image_build: {script: [echo hello > a.txt], artifacts: {paths: [a.txt]}}\n"
    sha = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "Erase.")
    done = cast.forge.wait_for_job(project, sha, "image_build")
    job = cast.client().projects.get(project.id).jobs.get(done["id"])
    assert job.trace()
    job.erase()
    erased = cast.client().projects.get(project.id).jobs.get(done["id"])
    assert (erased.trace(), erased.erased_at is not None) == (b"", True)
    with pytest.raises(GitlabJobEraseError) as caught:
        erased.erase()
    assert caught.value.response_code == 403


def test_a_stranger_and_a_reporter_cannot_act(cast: Cast) -> None:
    """A reporter sees a job and may not retry it; who is no member does not see it."""
    identifier = _jobs(cast, cast.project, cast.sha)["image_build"].id
    base = f"{cast.forge.url}/api/v4/projects/{cast.project.id}/jobs/{identifier}"
    headers = {"PRIVATE-TOKEN": cast.stranger.token}
    assert requests.post(f"{base}/retry", headers=headers, timeout=20).status_code == 404
    cast.forge.add_member(cast.project, cast.stranger, 20)
    try:
        assert requests.get(base, headers=headers, timeout=20).status_code == 200
        assert requests.post(f"{base}/retry", headers=headers, timeout=20).status_code == 403
    finally:
        cast.forge.api("DELETE", f"/projects/{cast.project.id}/members/{cast.stranger.id}")


def test_automatic_retry(cast: Cast) -> None:
    """A job that may be retried once runs twice and then fails for good."""
    project = _project(cast, "again")
    sha = cast.forge.commit(project, {".gitlab-ci.yml": "image_build: {script: [exit 1], retry: 1}\n"}, "Retry.")
    assert _status(cast, project, sha, "failed") == "failed"
    pipeline = cast.client().projects.get(project.id).pipelines.list(sha=sha, get_all=True)[0]
    rows = pipeline.jobs.list(include_retried=True, get_all=True)
    assert [row.status for row in rows] == ["failed", "failed"]


def test_delayed_job_waits_and_runs(cast: Cast) -> None:
    """A delayed job is scheduled until its time comes."""
    project = _project(cast, "later")
    configuration = "image_build: {script: ['true'], when: delayed, start_in: 2 seconds}\n"
    sha = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "Later.")
    assert cast.forge.wait_for_job(project, sha, "image_build", statuses=["scheduled"])["started_at"] is None
    assert cast.forge.wait_for_job(project, sha, "image_build")["status"] == "success"


def test_resource_group_lets_one_run(cast: Cast) -> None:
    """Of two pipelines with one resource group, the second waits for the first."""
    project = _project(cast, "group")
    configuration = "image_build: {script: [sleep 60], resource_group: one}\n"
    first = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "First.", branch="main")
    running = cast.forge.wait_for_job(project, first, "image_build", statuses=["running"])
    second = cast.forge.commit(project, {"b": "b"}, "Second.", branch="other")
    waiting = cast.forge.wait_for_job(project, second, "image_build", statuses=["waiting_for_resource"])
    found = cast.client().projects.get(project.id)
    found.jobs.get(running["id"]).cancel()
    freed = cast.forge.wait_for_job(project, second, "image_build", statuses=["pending", "running"])
    assert freed["id"] == waiting["id"]
    found.jobs.get(waiting["id"]).cancel()


@pytest.mark.parametrize(("interruptible", "ends"), [("true", "canceled"), ("false", "running")])
def test_newer_push_cancels_what_may_be_interrupted(cast: Cast, interruptible: str, ends: str) -> None:
    """A running job of an older commit is canceled by a newer push only when it is interruptible."""
    project = _project(cast, "redundant")
    configuration = f"image_build: {{script: [sleep 60], interruptible: {interruptible}}}\n"
    older = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "Older.")
    running = cast.forge.wait_for_job(project, older, "image_build", statuses=["running"])
    newer = cast.forge.commit(project, {"b": "b"}, "Newer.")
    cast.forge.wait_for_pipeline(project, newer)
    assert cast.forge.wait_for_job(project, older, "image_build", statuses=[ends])["id"] == running["id"]
    for pipeline in cast.client().projects.get(project.id).pipelines.list(get_all=True):
        pipeline.cancel()


def test_job_time_limit(cast: Cast) -> None:
    """A job that takes longer than its `timeout` fails and says so."""
    project = _project(cast, "limit")
    configuration = "image_build: {script: [sleep 60], timeout: 2 seconds}\n"
    sha = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "Too slow.")
    ended = cast.forge.wait_for_job(project, sha, "image_build")
    assert (ended["status"], ended["failure_reason"]) == ("failed", "job_execution_timeout")


def test_included_project(cast: Cast) -> None:
    """A configuration includes a private project that its author may read; who may not read it gets an error."""
    template = _project(cast, "template")
    included = {"build.yml": "image_build: {script: [echo from the template]}\n"}
    cast.forge.commit(template, included, "Template.")
    configuration = {".gitlab-ci.yml": f"include: {{project: {template.path}, ref: main, file: /build.yml}}\n"}
    mine = _project(cast, "including")
    sha = cast.forge.commit(mine, configuration, "Include.")
    assert cast.forge.wait_for_job(mine, sha, "image_build")["status"] == "success"
    theirs = cast.forge.add_project(f"{cast.stranger.username}/{mine.path.split('/')[1]}", owner=cast.stranger)
    sha = cast.forge.commit(theirs, configuration, "Include.")
    assert cast.forge.wait_for_pipeline(theirs, sha)["status"] == "failed"


def test_tag_pipeline(cast: Cast) -> None:
    """A pushed tag is a ref with a pipeline of its own; `rules:changes` holds for it."""
    project = _project(cast, "tagged")
    configuration = "image_build: {script: ['test -z \"$CI_COMMIT_BRANCH\"'], rules: [{if: $CI_COMMIT_TAG}]}\n"
    sha = cast.forge.commit(project, {".gitlab-ci.yml": configuration}, "Tag me.")
    cast.forge.tag(project, "v1.0", sha, message="First.")
    assert cast.forge.wait_for_job(project, sha, "image_build")["status"] == "success"
    found = cast.client().projects.get(project.id)
    (pipeline,) = found.pipelines.list(sha=sha, get_all=True)
    assert (pipeline.ref, found.pipelines.get(pipeline.id).tag) == ("v1.0", True)
    tag = found.tags.get("v1.0")
    assert (tag.commit["id"], tag.message, tag.target != sha) == (sha, "First.", True)
    assert {"type": "tag", "name": "v1.0"} in found.commits.get(sha).refs("all")


def test_external_status(cast: Cast) -> None:
    """A status from outside makes a pipeline of its own, without an `image_build`."""
    project = _project(cast, "external")
    sha = cast.forge.commit(project, {"a": "a"}, "Outside.")
    found = cast.client().projects.get(project.id)
    made = found.commits.get(sha).statuses.create(
        {"state": "success", "name": "launch", "target_url": "https://example.com/launch"}
    )
    assert (made.status, made.name) == ("success", "launch")
    (pipeline,) = found.pipelines.list(sha=sha, get_all=True)
    assert (pipeline.source, pipeline.status) == ("external", "success")
    assert found.commits.get(sha).statuses.list(name="image_build", get_all=True) == []


def test_a_commit_made_through_the_api(cast: Cast) -> None:
    """Files are created, changed and removed in one commit on a new branch, which gets a pipeline as a push would."""
    project = _project(cast, "written")
    cast.forge.commit(project, {"a": "a\n", "b": "b\n"}, "Begin.")
    found = cast.client().projects.get(project.id)
    actions = [
        {"action": "create", "file_path": ".gitlab-ci.yml", "content": "image_build: {script: ['true']}\n"},
        {"action": "update", "file_path": "a", "content": "changed\n"},
        {"action": "delete", "file_path": "b"},
    ]
    made = found.commits.create(
        {"branch": "side", "start_branch": "main", "commit_message": "Build.", "actions": actions}
    )
    assert cast.forge.wait_for_pipeline(project, made.id)["ref"] == "side"
    assert sorted(row["path"] for row in found.repository_tree(ref="side")) == [".gitlab-ci.yml", "a"]
    assert found.files.get("a", ref="side").decode() == b"changed\n"
    with pytest.raises(GitlabCreateError) as caught:
        found.commits.create({"branch": "side", "commit_message": "Again.", "actions": actions[:1]})
    assert caught.value.response_code == 400
    found.branches.delete("side")
    assert [row.name for row in found.branches.list(get_all=True)] == ["main"]


def test_badges_of_a_group(cast: Cast) -> None:
    """An owner's badge of a group is one of each project in it, and says that it is the group's."""
    path = f"club-{cast.owner.username}"
    client = cast.client()
    group = client.groups.get(cast.forge.add_group(path, owner=cast.owner))
    project = client.projects.get(cast.forge.add_project(f"{path}/one", owner=cast.owner).id)
    made = group.badges.create({"link_url": "https://a.example/%{project_path}", "image_url": "https://a.example/b"})
    assert [(row.id, row.kind) for row in group.badges.list(get_all=True)] == [(made.id, "group")]
    assert [(row.kind, row.rendered_link_url) for row in project.badges.list(get_all=True)] == [
        ("group", f"https://a.example/{path}/one")
    ]


def test_badges(cast: Cast) -> None:
    """A badge's placeholders are filled in with the project's newest commit."""
    found = cast.client().projects.get(cast.project.id)
    link = "https://spawner.example.com/launch/%{project_path}?ref=%{default_branch}&sha=%{commit_sha}"
    badge = found.badges.create({"link_url": link, "image_url": "https://spawner.example.com/badge.svg"})
    assert badge.rendered_link_url == (
        f"https://spawner.example.com/launch/{cast.project.path}?ref=main&sha={cast.sha}"
    )
    assert [row.id for row in found.badges.list(get_all=True)] == [badge.id]
    assert found.badges.render(link, "https://example.com/x.svg")["rendered_link_url"] == badge.rendered_link_url
    badge.delete()
    assert found.badges.list(get_all=True) == []
