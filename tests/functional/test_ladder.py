"""The ladder as people meet it: scenarios played by the stand-in, decided by a whole spawner.

Covered: every job status and edge case that the stand-in plays, its faults, each rung, and what a person may ask
for; the source, the reason and the phases of each, and a relaunch on the image that has arrived.
Left out, each with its reason in NOT_PLAYED; what is pure is in tests/unit/images/test_resolve.py.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spawner.ports import JobStatus
from spawner.testing.gitlab.client import UserHandle
from spawner.testing.gitlab.faults import Kind
from spawner.testing.gitlab.standin import StandIn
from tests.functional import ladder_edges
from tests.functional.conftest import WAYS, Maker, grouped
from tests.functional.environment_images import push_image
from tests.functional.ladder import HOOK_SECRET, Stage, Told
from tests.functional.ladder_scenarios import SCENARIOS, Scenario, arrive
from tests.installation import Installation, wait_for
from tests.surroundings import Folder

AT_ONCE = 6  # plays at a time: most of each is waiting
WORKER_PROCESSES = 4  # of one worker, as the settings have it
EDGE_CASES = {f"case {number}" for number in range(1, 14)}
ASKED = {"start now", "build now", "build never", "fallback ancestor", "same environment", "short tag", "requested"}
HINTS = {"hook"}
NOT_PLAYED: Mapping[str, str] = {
    JobStatus.UNKNOWN: "no GitLab of today says it",
}


def _settings(stand_in: StandIn, lesser: str, folder: Path) -> dict[str, str]:
    secret = folder / "hook-secret"
    secret.touch(mode=0o600)
    secret.write_text(HOOK_SECRET)
    return {
        "GITLAB__WEBHOOK_SECRET_FILE": str(secret),
        "IMAGES__GRACE_SECONDS": "10",
        "IMAGES__QUEUE_BUDGET_SECONDS": "15",
        "IMAGES__PUSH_LAG_SECONDS": "8",
        "IMAGES__DEFAULT_ENVIRONMENT": f"{stand_in.registry_url.partition('://')[2]}/{lesser}",
        "IMAGES__REGISTRY_BUDGET_SECONDS": "5",
    }


@pytest.fixture(scope="module")
def lesser(stand_in: StandIn, alice: UserHandle) -> str:
    """The default image, `path@digest`: a public project's, of the shipped lock, with labels that name no commit."""
    project = stand_in.add_project("alice/lesser", owner=alice, visibility="public")
    return f"{project.path}@{_push_plain(stand_in, project, 'default')}"


def _push_plain(stand_in: StandIn, project: object, tag: str) -> str:
    return push_image(stand_in, project, "", tags=[tag], labels={"io.slipway.kind": "environment"})  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=grouped("ladder"))  # the plays overlap, in one process
def installation(
    request: pytest.FixtureRequest, make: Maker, stand_in: StandIn, standalone_root: Path, lesser: str, folder: Folder
) -> Iterator[Installation]:
    """A spawner with short budgets, of each way."""
    made = make(request.param, root=standalone_root, settings=_settings(stand_in, lesser, folder("hooks")))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest, stand_in: StandIn, installation: Installation, alice: UserHandle, folder: Folder
) -> Iterator[Mapping[str, Future[Told]]]:
    """Play the chosen scenarios side by side, each on a project of its own."""
    chosen: list[Any] = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and "plays" in item.fixturenames
    ]
    way = WAYS[installation.with_celery]
    chosen = [params["scenario"] for params in chosen if params["installation"] == way]
    work = folder("plays")
    with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="play") as pool:

        def play(number: int, scenario: Scenario) -> Told:
            project = stand_in.add_project(f"alice/play-{number}-{way}", owner=alice)
            here = work / f"{number}"
            here.mkdir()
            stage = Stage(stand_in=stand_in, project=project, client=installation.client(alice), work=here)
            try:
                return scenario.play(stage)
            finally:
                stage.end()

        futures = {scenario.name: pool.submit(play, number, scenario) for number, scenario in enumerate(chosen)}
        yield futures
        for future in futures.values():
            future.cancel()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_a_scenario(plays: Mapping[str, Future[Told]], installation: Installation, scenario: Scenario) -> None:
    """A launch is decided as the table says: by this source or failure, in these words, through these phases.

    GitLab is asked no more often than the table says, and once more by each process that must learn of its registry.
    """
    told = plays[scenario.name].result(240)
    most = scenario.calls + (WORKER_PROCESSES if installation.with_celery else 0)

    assert told.source in scenario.source.split("|"), told
    assert told.phases == scenario.phases, told
    assert 0 < sum(told.calls.values()) <= most, (told.seconds, told.calls)
    assert scenario.reason in told.reason
    assert scenario.log in told.log, told.log


def test_no_row_is_missing() -> None:
    """Every status, edge case and fault has a scenario or a reason why it has none, and nobody names another row."""
    wanted = {*(status.value for status in JobStatus), *EDGE_CASES, *(kind.value for kind in Kind), *ASKED, *HINTS}
    played = {row for scenario in SCENARIOS for row in scenario.rows}

    assert played | set(NOT_PLAYED) == wanted
    assert played & set(NOT_PLAYED) == set()
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert ladder_edges.__doc__, "its scenarios are in the table because it was imported"


def test_a_session_moves_to_the_image_that_arrived(
    stand_in: StandIn, installation: Installation, alice: UserHandle, folder: Folder
) -> None:
    """Who started now on the default image is moved, when asked, to the built one, on the same workspace."""
    project = stand_in.add_project(f"alice/moved-{WAYS[installation.with_celery]}", owner=alice)
    stage = Stage(stand_in=stand_in, project=project, client=installation.client(alice), work=folder("moved"))
    sha = stage.built("  when: manual\n  script: ['true']")
    name = stage.launch(sha, fallback="default")
    before = stage.client.reaches(name, "RUNNING", seconds=240)

    refused = stage.client.call("PATCH", f"/api/notebooks/servers/{name}", json={"image": "built"})
    assert refused.status_code == 409, refused.text
    push_image(stand_in, project, sha, tags=[f"{sha}-environment"], labels={"io.slipway.kind": "environment"})
    stage.api("POST", f"/jobs/{stage.job(sha, 'manual')['id']}/play")
    stage.job(sha, "success")

    def moved() -> bool | None:
        return stage.client.call("PATCH", f"/api/notebooks/servers/{name}", json={"image": "built"}).ok or None

    wait_for(moved, seconds=90, what="the built image is offered")
    wait_for(lambda: _source(stage, name) in {"exact", "built"} or None, seconds=60, what="the built image is chosen")
    after = stage.client.reaches(name, "RUNNING", seconds=120)["slipway"]
    assert before["slipway"]["image"]["source"] == "default"
    assert (after["workspace"], after["generation"]) == (before["slipway"]["workspace"], 2)
    stage.end()
    stage.client.reaches(name, "GONE")


def _source(stage: Stage, name: str) -> str:
    server = stage.client.get(name) or {"slipway": {"image": None}}
    return str((server["slipway"]["image"] or {}).get("source"))


@pytest.mark.skipif(os.geteuid() != 0, reason="Several people need root: run this suite as root.")
def test_of_two_who_wait_one_may_lose_the_token(
    stand_in: StandIn, installation: Installation, alice: UserHandle, bob: UserHandle, folder: Folder
) -> None:
    """A waiter whose token GitLab takes back stops nobody: the other's is used, and the other is told nothing."""
    way = WAYS[installation.with_celery]
    project = stand_in.add_project(f"alice/shared-{way}", owner=alice)
    stand_in.add_member(project, bob, 30)
    lost = replace(alice, token=stand_in.add_token(alice.id))
    first = Stage(stand_in=stand_in, project=project, client=installation.client(lost), work=folder("first"))
    second = Stage(stand_in=stand_in, project=project, client=installation.client(bob), work=folder("second"))
    sha = first.built("  script: [sleep 5]")
    first.client.reaches(first.launch(sha), "WAITING")
    name = second.launch(sha)

    def act() -> None:
        stand_in.api("DELETE", "/personal_access_tokens/self", user=lost)
        arrive(second, sha)

    told = second.watch(name, at="WAITING", act=act)

    assert (told.source, told.phases) == ("built", ("NEW", "WAITING", "STARTING")), told
    assert [event for event in told.events if "cannot be asked" in str(event["message"])] == []
    second.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="Several people need root: run this suite as root.")
def test_a_build_is_not_begun_by_who_may_not(
    stand_in: StandIn, installation: Installation, alice: UserHandle, bob: UserHandle, folder: Folder
) -> None:
    """A reporter's "build now" on a manual job ends in GitLab's refusal, in words, and the job is as it was."""
    way = WAYS[installation.with_celery]
    project = stand_in.add_project(f"alice/guarded-{way}", owner=alice)
    stand_in.add_member(project, bob, 20)
    stage = Stage(stand_in=stand_in, project=project, client=installation.client(bob), work=folder("guarded"))
    sha = stage.built("  when: manual\n  script: ['true']")
    told = stage.watch(stage.launch(sha, build="now"))

    assert (told.source, "GitLab does not allow it" in told.reason) == ("build_refused", True), told
    assert stage.jobs(sha)[0]["status"] == "manual"
