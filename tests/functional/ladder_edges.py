"""The scenarios of the ladder beyond one branch and a GitLab that answers.

Where jobs hide, what becomes of the project, hooks and how they come, limits, silence, and logs that begin anew.
For: `test_ladder`, by way of `ladder_scenarios.SCENARIOS`; most are played on one way only. Promises and must not know:
as there.
"""

import time
from collections.abc import Callable
from functools import partial

from spawner.testing.gitlab.client import ProjectHandle
from tests.functional.ladder import NOBODY, Stage, Told
from tests.functional.ladder_scenarios import (
    BUILT,
    LAUNCH_CALLS,
    WAIT_CALLS,
    WAITED,
    arrive,
    builds,
    falls,
    row,
    scenario,
)
from tests.installation import wait_for

once = partial(scenario, once=True)
row_once = partial(row, once=True)

CHILD = "child:\n  trigger: {include: child.yml}\n"
FOR_REQUESTS = (
    "image_build:\n  rules: [{if: $CI_MERGE_REQUEST_IID}]\n  script: [sleep 3]\n"
    "other:\n  rules: [{if: $CI_COMMIT_BRANCH == 'main'}]\n  script: ['true']\n"
)


def _child(job: str) -> dict[str, str | None]:
    return {"child.yml": f"image_build:\n{job}\n"}


def _held(status: str) -> Callable[[Stage], Told]:
    """Keep the job in a state in which GitLab alone puts jobs, while the launch waits."""

    def play(stage: Stage) -> Told:
        sha = stage.built(f"  {NOBODY}\n  script: ['true']")
        stage.stand_in.hold_job(stage.job(sha, "pending")["id"], status)
        return stage.watch(stage.launch(sha))

    return play


row_once(
    "a job that is prepared", _held("preparing"), "preparing", source="build_not_started", reason="is being prepared"
)
row_once(
    "a job that waits for an answer",
    _held("waiting_for_callback"),
    "waiting_for_callback",
    source="build_not_started",
    reason="waits for an outside answer",
)


@once("canceling", source="build_canceled", reason="was cancelled")
def a_job_that_is_being_cancelled(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 60]\n  after_script: [sleep 4]")
    job = stage.job(sha, "running")
    stage.api("POST", f"/jobs/{job['id']}/cancel")
    told = stage.watch(stage.launch(sha))
    assert any("is being cancelled" in str(event["message"]) for event in told.events), told.events
    return told


@once("canceled", "case 9", "case 6", source="built", reason=BUILT, phases=WAITED)
def a_cancelled_job_that_somebody_retried(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 3]")
    stage.stand_in.wait_for_job(stage.project, sha, "image_build", statuses=["pending", "running"])
    first = stage.jobs(sha)[0]
    stage.api("POST", f"/jobs/{first['id']}/cancel")
    stage.job(sha, "canceled")
    stage.api("POST", f"/jobs/{first['id']}/retry")
    return builds(stage, sha)


# ---------------------------------------------------------------- where jobs hide


@scenario("case 5", source="built", reason=BUILT, phases=WAITED, log="built below", calls=2 * WAIT_CALLS)
def a_job_in_a_child_pipeline(stage: Stage) -> Told:
    sha = stage.built(CHILD, files=_child("  script: [sleep 3, 'echo built below']"))
    name = stage.launch(sha)
    return stage.watch(name, at="log", act=lambda: _arrive_below(stage, sha))


def _arrive_below(stage: Stage, sha: str) -> None:
    """Push the image when the job in the child pipeline has succeeded."""

    def is_done() -> bool | None:
        rows = stage.api("GET", "/jobs?scope[]=success")
        return any(job["name"] == "image_build" and job["commit"]["id"] == sha for job in rows) or None

    wait_for(is_done, seconds=60, what="a job in a child pipeline that succeeds")
    stage.push_image(sha)


@once("case 5", source="build_failed", reason="a command of the job failed", calls=2 * WAIT_CALLS)
def a_job_that_fails_in_a_child_pipeline(stage: Stage) -> Told:
    return stage.watch(stage.launch(stage.built(CHILD, files=_child("  script: [sleep 1, exit 1]"))))


@once("case 5", source="build_not_started", reason="'child'", calls=LAUNCH_CALLS + 3 * 5)
def a_child_pipeline_that_is_not_started(stage: Stage) -> Told:
    first = f"stages: [one, two]\nother:\n  stage: one\n  {NOBODY}\n  script: ['true']\n"
    sha = stage.built(first + CHILD.replace("  trigger", "  stage: two\n  trigger"), files=_child("  script: ['true']"))
    return stage.watch(stage.launch(sha))


@once("case 5", source="no_build_job", reason="has no job named 'image_build'", calls=2 * WAIT_CALLS)
def a_job_in_another_projects_pipeline(stage: Stage) -> Told:
    there = stage.stand_in.add_project(f"{stage.project.path}-there", owner=stage.project.owner)
    stage.stand_in.commit(there, {".gitlab-ci.yml": "image_build:\n  script: ['true']\n"}, "Begin. [skip ci]")
    sha = stage.built(f"go:\n  trigger: {there.path}\n")
    stage.stand_in.wait_for_pipeline(
        there, stage.stand_in.api("GET", f"/projects/{there.id}/repository/commits")[0]["id"]
    )
    return stage.watch(stage.launch(sha))


@once("case 4", source="built", reason=BUILT, phases=WAITED)
def a_pipeline_of_a_merge_request(stage: Stage) -> Told:
    stage.commit(FOR_REQUESTS)
    sha = stage.commit("", branch="topic")
    stage.open_request("topic")
    return builds(stage, sha, branch="topic")


@once("case 4", "case 3", source="built", reason=BUILT, phases=WAITED)
def a_pipeline_of_a_merge_request_beside_a_failed_one(stage: Stage) -> Told:
    test = 'if [ -z "$CI_MERGE_REQUEST_IID" ]; then exit 1; fi'
    stage.commit(f"image_build:\n  script: ['{test}', sleep 3]\n", push_options=["ci.skip"])
    sha = stage.commit("", branch="topic")
    stage.job(sha, "failed")
    stage.open_request("topic")
    return builds(stage, sha, branch="topic")


@scenario("case 4", source="built", reason=BUILT, phases=WAITED, calls=2 * WAIT_CALLS)
def a_pipeline_on_the_merged_result(stage: Stage) -> Told:
    stage.commit(FOR_REQUESTS)
    stage.api("PUT", "", {"merge_pipelines_enabled": True})
    sha = stage.commit("", branch="topic")
    merged = stage.open_request("topic")["sha"]
    assert merged != sha
    name = stage.launch(sha, branch="topic")

    def act() -> None:
        stage.job(merged, "success")
        stage.push_image(sha)

    return stage.watch(name, at="WAITING", act=act)


@once("case 4", source="no_pipeline", reason="made no pipeline", calls=LAUNCH_CALLS + 1 + 3 * 5)
def a_forks_merge_request(stage: Stage) -> Told:
    stage.commit(FOR_REQUESTS)
    stranger = stage.stand_in.add_user(f"fork-{stage.project.id}")
    stage.stand_in.add_member(stage.project, stranger, 20)
    made = stage.stand_in.api("POST", f"/projects/{stage.project.id}/fork", user=stranger)
    fork = ProjectHandle(
        path=made["path_with_namespace"], id=made["id"], http_url=made["http_url_to_repo"], owner=stranger
    )
    sha = stage.stand_in.commit(fork, {"a": "a"}, branch="topic")
    pipeline = stage.open_request("topic", source=fork)
    assert pipeline["project_id"] == fork.id
    return stage.watch(stage.launch(sha, branch="topic"))


@once("case 6", source="built", reason=BUILT, phases=WAITED)
def a_job_that_was_renamed_by_its_matrix(stage: Stage) -> Told:
    sha = stage.built("  parallel: {matrix: [{PYTHON: [py311]}]}\n  script: [sleep 3]")
    name = stage.launch(sha)

    def act() -> None:
        stage.stand_in.wait_for_job(stage.project, sha, "image_build: [py311]", statuses=["success"])
        stage.push_image(sha)

    return stage.watch(name, at="WAITING", act=act)


row_once(
    "a job of another name",
    falls("build_image:\n  script: ['true']\n"),
    "case 6",
    source="no_build_job",
    reason="has no job named 'image_build'",
)


# ---------------------------------------------------------------- what becomes of the project and of who waits


@once("project_moved", "case 13", source="built", reason=BUILT, phases=WAITED)
def the_project_moves_in_mid_wait(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 4]")
    name = stage.launch(sha)

    def act() -> None:
        stage.arm("project_moved", times=1)
        stage.job(sha, "success")
        stage.moved()
        stage.push_image(sha)

    return stage.watch(name, at="WAITING", act=act)


@once("access_lost", "case 13", source="gitlab_unavailable", reason="or you may not see it")
def access_is_lost_in_mid_wait(stage: Stage) -> Told:
    name = stage.launch(stage.built(f"  {NOBODY}\n  script: ['true']"))
    return stage.watch(name, at="WAITING", act=lambda: stage.arm("access_lost"))


@once("access_lost", "case 13", source="built", reason=BUILT, phases=WAITED)
def access_is_lost_for_a_moment(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 3]")
    name = stage.launch(sha)

    def act() -> None:
        stage.arm("access_lost", times=1)
        stage.struck()  # the spawner, not the question whether the job has ended
        arrive(stage, sha)

    return stage.watch(name, at="WAITING", act=act)


# ---------------------------------------------------------------- a GitLab that is slow, silent or out of patience


# The image is there before GitLab tells of the job's end: whichever is seen first.
@scenario("down", "case 13", source="built|exact", reason="This commit's own image", phases=WAITED)
def gitlab_is_down_and_comes_back(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 2]")
    name = stage.launch(sha)

    def act() -> None:
        stage.arm("down", seconds=6)
        stage.push_image(sha)

    return stage.watch(name, at="WAITING", act=act)


@once("down", "case 13", source="gitlab_unavailable", reason="cannot be reached")
def gitlab_stays_down(stage: Stage) -> Told:
    name = stage.launch(stage.built(f"  {NOBODY}\n  script: ['true']"))
    return stage.watch(name, at="WAITING", act=lambda: stage.arm("down"))


@once("slow", source="built", reason=BUILT, phases=WAITED)
def gitlab_is_slow(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 2]")
    name = stage.launch(sha)

    def act() -> None:
        stage.arm("slow", times=3, seconds=1.5)
        stage.push_image(sha)

    return stage.watch(name, at="WAITING", act=act)


@once("rate_limited_rack", source="built", reason=BUILT, phases=WAITED)
def a_limit_that_says_when_to_come_back(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 2]")
    name = stage.launch(sha)

    def act() -> None:
        stage.arm("rate_limited_rack", times=1)
        stage.push_image(sha)

    return stage.watch(name, at="WAITING", act=act)


@once("rate_limited_application", source="built", reason=BUILT, phases=WAITED, calls=2 * WAIT_CALLS)
def a_limit_that_says_nothing(stage: Stage) -> Told:
    stage.hook()
    sha = stage.built("  script: [sleep 4]")
    name = stage.launch(sha)

    def act() -> None:
        stage.arm("rate_limited_application", times=1)
        stage.struck()
        arrive(stage, sha)

    return stage.watch(name, at="WAITING", act=act)


# ---------------------------------------------------------------- hooks that come, and how


def _hooked(fault: str, **more: float) -> Callable[[Stage], Told]:
    def play(stage: Stage) -> Told:
        stage.hook()
        stage.arm(fault, **more)
        return builds(stage, stage.built("  script: [sleep 2]"))

    return play


for _name, _fault, _more in (
    ("hooks that come twice", "hook_doubled", {}),
    ("hooks that come in another order", "hook_reordered", {"seconds": 2}),
    ("hooks that come late", "hook_slow", {"seconds": 2}),
):
    row_once(_name, _hooked(_fault, **_more), _fault, source="built", reason=BUILT, phases=WAITED, calls=2 * WAIT_CALLS)


@scenario("hook", source="built", reason=BUILT, phases=WAITED, calls=2 * WAIT_CALLS)
def a_hook_that_hastens(stage: Stage) -> Told:
    stage.hook()
    first = "stages: [one, two]\nfirst:\n  stage: one\n  when: manual\n  allow_failure: false\n  script: ['true']\n"
    sha = stage.commit(first + "image_build:\n  stage: two\n  script: [sleep 2]\n")
    job = stage.stand_in.wait_for_job(stage.project, sha, "first", statuses=["manual"])
    name = stage.launch(sha)

    def act() -> None:
        # GitLab is asked after 0, 2 and 7 s, and then after 17 s: later than a queued job is waited for here.
        time.sleep(8)
        stage.api("POST", f"/jobs/{job['id']}/play")
        arrive(stage, sha)

    return stage.watch(name, at="WAITING", act=act)


# ---------------------------------------------------------------- logs that begin anew, and long ones


@scenario("case 6", source="built", reason=BUILT, phases=WAITED, log="the second try", calls=2 * WAIT_CALLS)
def a_retried_job_has_a_log_of_its_own(stage: Stage) -> Told:
    tried = stage.work / "tried"
    first = "for n in 1 2 3 4 5; do echo the first try $n; done; sleep 3; exit 1"
    sha = stage.built(
        f"  retry: 1\n  script:\n    - if mkdir '{tried}'; then {first}; fi\n    - echo the second try\n    - sleep 3"
    )
    told = builds(stage, sha, at="log")
    kept = stage.kept_log()
    assert "the first try 3" in told.log, told.log
    assert "the second try" in kept, kept
    assert "the first try 3" not in kept, kept
    return told


@once("running", source="built", reason=BUILT, phases=WAITED, log="the first line")
def a_log_of_four_megabytes(stage: Stage) -> Told:
    lines = "head -c 3900000 /dev/zero | tr '\\0' x | fold -w 99"
    sha = stage.built(f"  script:\n    - echo the first line\n    - {lines}\n    - echo\n    - echo the last line")
    told = builds(stage, sha)
    assert len(told.log) < 1_100_000, len(told.log)
    assert "the last line" in stage.kept_log()
    return told
