"""Every scenario of the ladder that the stand-in plays: what happens at GitLab, and how a launch must be decided.

For: `test_ladder`, which plays each and asks that no row is missing. `rows` name what a scenario is for: a job
status, an edge case of waiting (`case 1` to `case 13`), a fault of the stand-in, or a thing that a person may do.
Promises: a scenario plays on a project of its own, so that all may be played at once.
Must not know: any insides of the spawner.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.functional.ladder import NOBODY, Stage, Told

Play = Callable[[Stage], Told]
FELL = ("NEW", "WAITING", "FAILED")
WAITED = ("NEW", "WAITING", "STARTING")
AT_ONCE = ("NEW", "STARTING")
LAUNCH_CALLS = 4  # the project, the branch, the commit, the refs that hold it
QUEUE_CALLS = LAUNCH_CALLS + 3  # looks after 0, 2 and 7 s of the 15 s that a job may be queued here
WAIT_CALLS = LAUNCH_CALLS + 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is played, and what it must come to. `source` is an image's source, or the code of a failure.

    `calls` is the most that GitLab is asked about the project until then: four for each launch, then looks at the pace
    of the plan, each one call where it knows the job, and two or three more where something changed. `is_once`: another
    database and dispatcher would add nothing, so it is played on one way.
    """

    name: str
    rows: tuple[str, ...]
    play: Play
    source: str
    reason: str
    phases: tuple[str, ...]
    calls: int
    log: str = ""
    is_once: bool = False


SCENARIOS: list[Scenario] = []


def scenario(
    *rows: str,
    source: str,
    reason: str,
    phases: tuple[str, ...] = FELL,
    log: str = "",
    calls: int = 0,
    once: bool = False,
) -> Callable[[Play], Play]:
    """Put a play into the table."""

    def keep(play: Play) -> Play:
        name = play.__name__.replace("_", " ").strip()
        row(name, play, *rows, source=source, reason=reason, phases=phases, log=log, calls=calls, once=once)
        return play

    return keep


def falls(ci: str) -> Play:
    """Push a commit with this job, and launch it when GitLab has made its pipeline."""

    def play(stage: Stage) -> Told:
        return stage.watch(stage.launch(stage.built(ci)))

    return play


def row(
    name: str,
    play: Play,
    *rows: str,
    source: str,
    reason: str,
    phases: tuple[str, ...] = FELL,
    log: str = "",
    calls: int = 0,
    once: bool = False,
) -> None:
    """Put a play into the table; without `calls`, at most those of a launch, or of one short wait."""
    most = calls or (LAUNCH_CALLS if phases == AT_ONCE else WAIT_CALLS)
    SCENARIOS.append(
        Scenario(
            name=name,
            rows=rows,
            play=play,
            source=source,
            reason=reason,
            phases=phases,
            log=log,
            calls=most,
            is_once=once,
        )
    )


def builds(stage: Stage, sha: str, *, at: str = "WAITING", **fields: str) -> Told:
    """Launch, and let the image arrive as soon as the job has succeeded, while the launch waits."""
    return stage.watch(stage.launch(sha, **fields), at=at, act=lambda: arrive(stage, sha))


def arrive(stage: Stage, sha: str) -> None:
    """Push the image when its job has succeeded."""
    stage.job(sha, "success")
    stage.push_image(sha)


# ---------------------------------------------------------------- statuses that end a wait

row(
    "nobody runs it",
    falls(f"  {NOBODY}\n  script: ['true']"),
    "pending",
    source="no_runner",
    reason="waits for a runner after",
    calls=QUEUE_CALLS,
)
row(
    "an earlier stage is not done",
    falls(f"  stage: test\n  script: ['true']\nother:\n  stage: build\n  {NOBODY}\n  script: ['true']"),
    "created",
    source="build_not_started",
    reason="waits for an earlier stage",
    calls=QUEUE_CALLS,
)
row(
    "a resource is held",
    falls(
        f"  resource_group: one\n  stage: test\n  needs: []\n  script: ['true']\n"
        f"other:\n  stage: build\n  {NOBODY}\n  resource_group: one\n  script: ['true']"
    ),
    "waiting_for_resource",
    source="build_not_started",
    reason="waits for a resource",
    calls=QUEUE_CALLS,
)
row(
    "an earlier stage failed",
    falls("  stage: test\n  script: ['true']\nother:\n  stage: build\n  script: [exit 1]"),
    "skipped",
    source="build_skipped",
    reason="was skipped",
)
row(
    "a manual job",
    falls("  when: manual\n  script: ['true']"),
    "manual",
    source="build_manual",
    reason="waits for somebody to start it",
    calls=LAUNCH_CALLS + 1,
)
row(
    "a delay that is too long",
    falls("  when: delayed\n  start_in: 1 hour\n  script: ['true']"),
    "scheduled",
    source="build_scheduled",
    reason="too late to wait",
    calls=QUEUE_CALLS,
)
row(
    "a failure that is allowed",
    falls("  allow_failure: true\n  script: [exit 1]"),
    "case 7",
    source="build_failed",
    reason="a command of the job failed",
)
row(
    "a pipeline without the job",
    falls("other:\n  stage: build\n  script: ['true']"),
    "case 2",
    source="no_build_job",
    reason="has no job named 'image_build'",
    calls=LAUNCH_CALLS + 5,
)


@scenario("case 1", source="no_pipeline", reason="made no pipeline", calls=LAUNCH_CALLS + 9)
def no_ci_at_all(stage: Stage) -> Told:
    return stage.watch(stage.launch(stage.commit("")))


@scenario("failed", source="build_failed", reason="a command of the job failed", log="no such package")
def a_failure_with_its_lines(stage: Stage) -> Told:
    sha = stage.built("  script: ['sleep 1', 'echo no such package', 'exit 1']")
    told = stage.watch(stage.launch(sha), until=("failed",))
    return _with_log(stage, told)


def _with_log(stage: Stage, told: Told) -> Told:
    """Add the kept log: what came last may come over the stream after the end."""
    return replace(told, events=(*told.events, {"event": "log", "text": stage.kept_log()}))


@scenario("canceled", "case 9", source="build_canceled", reason="was cancelled")
def a_newer_push_cancels(stage: Stage) -> Told:
    ci = f"  interruptible: true\n  {NOBODY}\n  script: ['true']"
    name = stage.launch(stage.built(ci))
    return stage.watch(name, at="WAITING", act=lambda: stage.commit(ci))


@scenario("case 11", source="build_canceled", reason="was cancelled")
def a_force_push_takes_the_commit_away(stage: Stage) -> Told:
    ci = f"  {NOBODY}\n  script: ['true']"
    first = stage.commit("", push_options=["ci.skip"])
    name = stage.launch(stage.built(ci, branch="topic"), branch="topic")
    return stage.watch(name, at="WAITING", act=lambda: stage.commit(ci, parent=first, branch="topic"))


@scenario("case 1", source="no_build_job", reason="(skipped)", calls=LAUNCH_CALLS + 5)
def a_message_that_skips_ci(stage: Stage) -> Told:
    return stage.watch(stage.launch(stage.built("  script: ['true']", "Write. [skip ci]")))


@scenario("case 1", source="no_pipeline", reason="made no pipeline", calls=LAUNCH_CALLS + 9)
def the_older_commit_of_a_push(stage: Stage) -> Told:
    older, newer = stage.commit_two(f"  {NOBODY}\n  script: ['true']")
    stage.stand_in.wait_for_pipeline(stage.project, newer)
    return stage.watch(stage.launch(older))


@scenario("case 6", source="no_runner", reason="(job ", calls=QUEUE_CALLS)
def a_retry_has_a_new_id(stage: Stage) -> Told:
    sha = stage.built(f"  {NOBODY}\n  script: ['true']")
    first = stage.job(sha, "pending")
    stage.api("POST", f"/jobs/{first['id']}/cancel")
    again = stage.api("POST", f"/jobs/{first['id']}/retry")
    told = stage.watch(stage.launch(sha))
    assert again["id"] != first["id"]
    assert f"(job {again['id']})" in told.reason, told.reason
    return told


@scenario("case 10", source="build_failed", reason="a command of the job failed", calls=LAUNCH_CALLS + 3)
def a_failure_whose_log_was_erased(stage: Stage) -> Told:
    sha = stage.built("  script: [exit 1]")
    stage.api("POST", f"/jobs/{stage.job(sha, 'failed')['id']}/erase")
    told = stage.watch(stage.launch(sha))
    assert told.log.strip() == ""
    return told


@scenario("success", source="image_missing", reason="no image of this commit is in the registry")
def a_job_that_pushes_nothing(stage: Stage) -> Told:
    sha = stage.built("  script: ['true']")
    stage.job(sha, "success")
    return stage.watch(stage.launch(sha))


@scenario("case 12", source="image_missing", reason="no image of this commit is in the registry")
def a_job_that_pushes_under_another_tag(stage: Stage) -> Told:
    sha = stage.built("  script: ['true']")
    stage.push_image(sha, tags=[sha[:8]])
    stage.job(sha, "success")
    return stage.watch(stage.launch(sha))


@scenario("tag_deleted", source="image_missing", reason="no image of this commit is in the registry")
def a_tag_that_was_deleted(stage: Stage) -> Told:
    sha = stage.built("  script: ['true']")
    stage.push_image(sha)
    stage.job(sha, "success")
    stage.arm("tag_deleted", times=1)
    return stage.watch(stage.launch(sha))


@scenario("job_stuck_pending", source="no_runner", reason="waits for a runner after", calls=QUEUE_CALLS)
def a_job_that_sticks(stage: Stage) -> Told:
    stage.arm("job_stuck_pending", times=1)
    return stage.watch(stage.launch(stage.built("  script: ['true']")))


# ---------------------------------------------------------------- waits that end with an image

BUILT = "This commit's own image, just built."


@scenario("running", "success", source="built", reason=BUILT, phases=WAITED, log="compiling the world")
def a_build_that_succeeds(stage: Stage) -> Told:
    sha = stage.built("  script: ['echo compiling the world', 'sleep 2']")
    return builds(stage, sha, at="log")


@scenario("scheduled", source="built", reason=BUILT, phases=WAITED)
def a_short_delay(stage: Stage) -> Told:
    return builds(stage, stage.built("  when: delayed\n  start_in: 3 seconds\n  script: ['true']"))


@scenario("manual", "build now", source="built", reason=BUILT, phases=WAITED, calls=2 * WAIT_CALLS)
def a_manual_job_that_the_launch_starts(stage: Stage) -> Told:
    sha = stage.commit("  when: manual\n  script: [sleep 2]")
    stage.job(sha, "manual")
    return builds(stage, sha, build="now")


@scenario("build now", source="built", reason=BUILT, phases=WAITED, calls=3 * WAIT_CALLS)
def a_pipeline_that_the_launch_makes(stage: Stage) -> Told:
    return builds(stage, stage.commit("  script: [sleep 2]", push_options=["ci.skip"]), build="now")


@scenario("manual", "build now", source="built", reason=BUILT, phases=WAITED, calls=2 * WAIT_CALLS)
def a_manual_job_that_an_earlier_launch_saw(stage: Stage) -> Told:
    sha = stage.built("  when: manual\n  script: [sleep 2]")
    assert stage.watch(stage.launch(sha)).source == "build_manual"
    return builds(stage, sha, build="now")


@scenario("failed", "build now", source="built", reason=BUILT, phases=WAITED, calls=2 * WAIT_CALLS)
def a_failed_job_that_the_launch_retries(stage: Stage) -> Told:
    tried = stage.work / "tried"
    sha = stage.built(f"  script: [\"if mkdir '{tried}'; then exit 1; fi\", sleep 2]")
    assert stage.watch(stage.launch(sha)).source == "build_failed"
    return builds(stage, sha, build="now")


@scenario("failed", "build now", source="build_failed", reason="a command of the job failed", calls=2 * WAIT_CALLS)
def a_failed_job_that_is_retried_once(stage: Stage) -> Told:
    sha = stage.built("  script: [exit 1]")
    first = stage.job(sha, "failed")
    told = stage.watch(stage.launch(sha, build="now"))
    jobs = stage.api("GET", f"/pipelines/{first['pipeline']['id']}/jobs?include_retried=true")
    assert len(jobs) == 2, jobs
    assert f"(job {first['id']})" not in told.reason, told.reason
    return told


@scenario(
    "bad_gateway_html", "build now", source="build_failed", reason="a command of the job failed", calls=2 * WAIT_CALLS
)
def a_build_that_is_asked_for_while_gitlab_is_away(stage: Stage) -> Told:
    sha = stage.built("  when: manual\n  script: [exit 1]")
    stage.job(sha, "manual")
    name = stage.launch(sha, build="now")
    return stage.watch(name, at="WAITING", act=lambda: stage.arm("bad_gateway_html", times=1))


@scenario("same environment", "build now", source="environment", reason="declared the same environment", phases=AT_ONCE)
def a_build_that_nobody_needs(stage: Stage) -> Told:
    older = stage.commit("", files={"requirements.txt": "numpy==2.2.0\n"})
    newer = stage.commit("  script: ['true']", files={"notebook.ipynb": "{}"}, push_options=["ci.skip"])
    stage.push_image(older, key=stage.key(older))
    told = stage.watch(stage.launch(newer, build="now"))
    made = stage.api("GET", f"/pipelines?sha={newer}")
    assert {pipeline["status"] for pipeline in made} <= {"skipped"}, made
    return told


@scenario("case 1", "build now", source="build_refused", reason="the newest commit of a branch or tag only")
def a_build_that_gitlab_cannot_make(stage: Stage) -> Told:
    older, _ = stage.commit_two(f"  {NOBODY}\n  script: ['true']")
    return stage.watch(stage.launch(older, build="now"))


@scenario("case 8", source="built", reason=BUILT, phases=WAITED)
def a_pipeline_of_a_tag(stage: Stage) -> Told:
    sha = stage.commit("  rules:\n    - if: $CI_COMMIT_TAG\n  script: [sleep 3]")
    stage.stand_in.tag(stage.project, "v1.0", sha)
    stage.stand_in.wait_for_pipeline(stage.project, sha)
    return builds(stage, sha)


@scenario("case 3", source="exact", reason="This commit's own image.", phases=AT_ONCE)
def several_pipelines_of_which_one_succeeds(stage: Stage) -> Told:
    sha = stage.commit("  script: ['test -n \"$CI_COMMIT_TAG\"']")
    stage.job(sha, "failed")
    stage.stand_in.tag(stage.project, "v1.0", sha)
    stage.job(sha, "success")
    stage.push_image(sha)
    return stage.watch(stage.launch(sha))


@scenario("pipeline_late", "case 1", source="built", reason=BUILT, phases=WAITED)
def a_pipeline_that_is_late(stage: Stage) -> Told:
    stage.arm("pipeline_late", times=1, seconds=2)
    return builds(stage, stage.commit("  script: ['true']"))


@scenario("image_missing_after_success", source="exact", reason="This commit's own image.", phases=WAITED)
def an_image_that_lags_behind_its_job(stage: Stage) -> Told:
    sha = stage.commit("  script: ['true']")
    stage.push_image(sha)
    stage.job(sha, "success")
    stage.arm("image_missing_after_success", times=2)
    return stage.watch(stage.launch(sha))


@scenario("bad_gateway_html", "case 13", source="built", reason=BUILT, phases=WAITED)
def gitlab_is_away_in_mid_wait(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 3]")
    name = stage.launch(sha)

    def act() -> None:
        stage.arm("bad_gateway_html", times=1)
        stage.push_image(sha)

    return stage.watch(name, at="WAITING", act=act)


@scenario("token_expired", "case 13", source="built", reason=BUILT, phases=WAITED)
def a_token_is_refused_once_in_mid_wait(stage: Stage) -> Told:
    sha = stage.built("  script: [sleep 3]")
    name = stage.launch(sha)

    def act() -> None:
        stage.arm("token_expired", times=1)
        stage.push_image(sha)

    return stage.watch(name, at="WAITING", act=act)


@scenario("hook_lost", source="built", reason=BUILT, phases=WAITED)
def a_hook_that_is_lost(stage: Stage) -> Told:
    hook = {"url": f"{stage.client.url}/hooks/gitlab", "job_events": True, "pipeline_events": True}
    stage.api("POST", "/hooks", hook)
    stage.arm("hook_lost")
    return builds(stage, stage.built("  script: [sleep 2]"))


# ---------------------------------------------------------------- the rungs beside waiting


@scenario("start now", source="default", reason="You chose to start now", phases=WAITED)
def starting_now(stage: Stage) -> Told:
    name = stage.launch(stage.commit(f"  {NOBODY}\n  script: ['true']"), fallback="default")
    return stage.watch(name, at="WAITING", act=lambda: stage.patch(name, start="now"))


@scenario("build never", source="default", reason="asked not to wait for one", phases=AT_ONCE)
def never_waiting(stage: Stage) -> Told:
    sha = stage.commit(f"  {NOBODY}\n  script: ['true']")
    return stage.watch(stage.launch(sha, build="never", fallback="default"))


@scenario("fallback ancestor", source="ancestor", reason="nearest ancestor that has one", phases=WAITED)
def the_nearest_ancestor(stage: Stage) -> Told:
    older = stage.commit("", push_options=["ci.skip"])
    stage.push_image(older)
    stage.commit("")
    told = stage.watch(stage.launch(stage.commit(""), fallback="ancestor"))
    assert older[:7] in told.reason, told.reason
    assert told.image is not None
    assert told.image["built_for_commit"] == older
    return told


@scenario("same environment", source="environment", reason="declared the same environment", phases=AT_ONCE)
def the_same_environment(stage: Stage) -> Told:
    job = f"  {NOBODY}\n  script: ['true']"
    older = stage.commit(job, files={"requirements.txt": "numpy==2.2.0\n"})
    newer = stage.commit("", files={"notebook.ipynb": "{}"})
    stage.push_image(older, key=stage.key(older))
    told = stage.watch(stage.launch(newer))
    assert told.image is not None
    assert told.image["built_for_commit"] == older
    return told


@scenario("same environment", source="wrong_kind", reason="makes container images", phases=("NEW", "FAILED"))
def a_build_that_makes_what_cannot_run(stage: Stage) -> Told:
    kinds = {"slipway.toml": '[image]\nkinds = ["container"]\n', "requirements.txt": "numpy==2.2.0\n"}
    return stage.watch(stage.launch(stage.commit(f"  {NOBODY}\n  script: ['true']", files=kinds)))


@scenario("short tag", source="exact", reason="This commit's own image.", phases=AT_ONCE)
def the_own_short_tag_is_no_request(stage: Stage) -> Told:
    sha = stage.commit(f"  {NOBODY}\n  script: ['true']")
    stage.push_image(sha)
    host = stage.stand_in.registry_url.partition("://")[2]
    return stage.watch(stage.launch(sha, image=f"{host}/{stage.project.path}:{sha[:7]}"))


@scenario("requested", source="default", reason="does not exist, or you may not pull it", phases=AT_ONCE)
def a_requested_image_that_is_missing(stage: Stage) -> Told:
    host = stage.stand_in.registry_url.partition("://")[2]
    sha = stage.commit(f"  {NOBODY}\n  script: ['true']")
    return stage.watch(stage.launch(sha, image=f"{host}/{stage.project.path}:another", fallback="default"))


@scenario("requested", source="default", reason="does not exist, or you may not pull it", phases=AT_ONCE)
def a_requested_image_of_a_kind_that_nobody_knows(stage: Stage) -> Told:
    host = stage.stand_in.registry_url.partition("://")[2]
    sha = stage.commit(f"  {NOBODY}\n  script: ['true']")
    stage.push_image(sha, tags=["odd"], labels={"io.slipway.kind": "spaceship"})
    return stage.watch(stage.launch(sha, image=f"{host}/{stage.project.path}:odd", fallback="default"))


# GitLab or the registry is the first to say it: whichever is asked first after the end.
@scenario("case 13", source="gitlab_unavailable|registry_unavailable", reason=".")
def the_project_is_deleted_in_mid_wait(stage: Stage) -> Told:
    name = stage.launch(stage.built(f"  {NOBODY}\n  script: ['true']"))
    return stage.watch(name, at="WAITING", act=lambda: stage.api("DELETE", ""))
