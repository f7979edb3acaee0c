"""The server object, whole.

Covered: every key in each phase that differs, amounts, steps, warnings, failures. Left out: how it is read.
"""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from spawner.api.rendering import Around, gigabytes, server_body, steps
from spawner.images.model import ChosenImage, ImageSource
from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName
from spawner.ports import Health, ImageKind, Observation, Project, RefKind, Visibility
from spawner.sessions.model import Failure, LaunchRequest, Phase, Session, Target
from spawner.sessions.options import ResourceClass

AT = datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC)
SHA = CommitSha("172a784d465a7bd45bacc165df2b64a591ac6b18")
NAME = SessionName("a-2eb-40c-proj-e93e29eb")
AROUND = Around(
    public_url="https://renku.test",
    forge_url="https://gitlab.com",
    classes=[
        ResourceClass(id=1, name="small", cpu_cores=0.1, memory_bytes=10**9),
        ResourceClass(id=2, name="gpu", cpu_cores=2, memory_bytes=10**9, gpu_count=1),
    ],
)
SESSION = Session(
    name=NAME,
    instance="slipway",
    forge="default",
    user_id=UserId("u"),
    username="a.b@c",
    project=Project(
        id=42,
        path=ProjectPath("Grp/Proj"),
        name="Proj",
        default_branch="master",
        visibility=Visibility.PRIVATE,
        web_url="https://gitlab.com/Grp/Proj",
        git_url="https://gitlab.com/Grp/Proj.git",
        registry_image=None,
    ),
    branch="master",
    ref_kind=RefKind.BRANCH,
    sha=SHA,
    request=LaunchRequest(),
    runtime="standalone",
    target=Target.RUNNING,
    phase=Phase.NEW,
    phase_since=AT,
    created_at=AT,
    workspace="proj-172a784-0",
)
CHOSEN = ChosenImage(
    reference="registry.gitlab.com/grp/proj@sha256:00",
    digest="sha256:00",
    kind=ImageKind.ENVIRONMENT,
    source=ImageSource.DEFAULT,
    reason="No build.",
)


def test_new() -> None:
    """A session just accepted is the contract's starting object, and one key of ours."""
    names = [
        "Initialization",
        "Downloading server image",
        "Cloning and configuring the repository",
        "Git credentials services",
        "Authentication and proxying services",
        "Auxiliary session services",
        "Starting session",
    ]
    expected = {
        "annotations": {
            "renku.io/branch": "master",
            "renku.io/commit-sha": SHA,
            "renku.io/default_image_used": "False",
            "renku.io/git-host": "gitlab.com",
            "renku.io/gitlabProjectId": "42",
            "renku.io/hibernatedSecondsThreshold": "0",
            "renku.io/hibernation": "",
            "renku.io/hibernationBranch": "",
            "renku.io/hibernationCommitSha": "",
            "renku.io/hibernationDate": "",
            "renku.io/hibernationDirty": "",
            "renku.io/hibernationSynchronized": "",
            "renku.io/idleSecondsThreshold": "0",
            "renku.io/lastActivityDate": "",
            "renku.io/namespace": "grp",
            "renku.io/projectName": "proj",
            "renku.io/repository": "https://gitlab.com/Grp/Proj",
            "renku.io/resourceClassId": "1",
            "renku.io/servername": NAME,
            "renku.io/username": "a.b@c",
        },
        "cloudstorage": [],
        "image": "",
        "name": NAME,
        "resources": {"requests": {"cpu": 0.1, "memory": "1G", "storage": "1G"}, "usage": {}},
        "started": "2024-05-01T10:00:00+00:00",
        "state": {"pod_name": None},
        "status": {
            "state": "starting",
            "message": f"Steps with non-ready statuses: {', '.join(name.lower() for name in names)}.",
            "details": [{"step": name, "status": "waiting"} for name in names],
            "readyNumContainers": 0,
            "totalNumContainers": 7,
            "warnings": [],
        },
        "url": f"https://renku.test/sessions/{NAME}",
        "slipway": {
            "phase": "NEW",
            "target": "RUNNING",
            "generation": 1,
            "runtime": "standalone",
            "workload_name": None,
            "workspace": "proj-172a784-0",
            "image": None,
            "build": None,
            "queue": None,
            "error": None,
            "events_url": f"https://renku.test/api/notebooks/servers/{NAME}/events",
            "since": AT.isoformat(),
            "reason": "",
            "step": "",
        },
    }
    assert expected == server_body(SESSION, AROUND)


def test_running() -> None:
    """A running session has all its steps, its usage, and the default image's warning."""
    running = replace(
        SESSION,
        phase=Phase.RUNNING,
        image=CHOSEN,
        workload=WorkloadName("w"),
        request=LaunchRequest(resource_class_id=2),
    )
    usage = Observation(health=Health.READY, cpu_cores=0.12, memory_bytes=350_000_000)
    body = server_body(running, replace(AROUND, usage=usage))
    assert body["status"] == {
        "state": "running",
        "details": [{"step": step["step"], "status": "ready"} for step in body["status"]["details"]],
        "readyNumContainers": 7,
        "totalNumContainers": 7,
        "warnings": [{"message": "Server was started using the default image.", "critical": False}],
    }
    assert body["resources"] == {
        "requests": {"cpu": 2, "memory": "1G", "storage": "1G", "gpu": 1},
        "usage": {"cpu": 0.12, "memory": "0.35G"},
    }
    assert ("True", CHOSEN.reference) == (body["annotations"]["renku.io/default_image_used"], body["image"])


def test_failed_before_a_start() -> None:
    """A session that failed before anything started has no steps, and its sentence with the remedy."""
    failed = replace(SESSION, phase=Phase.FAILED, failure=Failure(code="x", message="No image.", remedy="Build one."))
    body = server_body(failed, AROUND)
    assert body["status"] == {
        "state": "failed",
        "message": "No image. Build one.",
        "details": [],
        "readyNumContainers": 0,
        "totalNumContainers": 0,
        "warnings": [],
    }
    assert body["slipway"]["error"] == {"code": "x", "message": "No image.", "remedy": "Build one."}


@pytest.mark.parametrize(
    ("phase", "step", "expected"),
    [
        (Phase.NEW, "", "wwwwwww"),
        (Phase.WAITING, "", "rewwwww"),
        (Phase.STARTING, "", "rewwwww"),
        (Phase.STARTING, "Installing the environment", "rewwwww"),
        (Phase.STARTING, "Checking the commit out", "rrewwww"),
        (Phase.STARTING, "Starting Jupyter", "rrrrrre"),
        (Phase.RUNNING, "", "rrrrrrr"),
        (Phase.STOPPING, "", "rrrrrrr"),
        (Phase.FAILED, "Checking the commit out", "rrfwwww"),
    ],
)
def test_steps(phase: Phase, step: str, expected: str) -> None:
    """The contract's steps follow ours."""
    session = replace(SESSION, phase=phase, step=step, workload=WorkloadName("w"))
    assert expected == "".join(each["status"][0] for each in steps(session))


@pytest.mark.parametrize(
    ("amount", "expected"), [(0, "0G"), (10**9, "1G"), (350_000_000, "0.35G"), (1_500_000_000, "1.50G"), (20e9, "20G")]
)
def test_gigabytes(amount: float, expected: str) -> None:
    """Amounts are decimal gigabytes, with two decimals where they are not whole."""
    assert expected == gigabytes(amount)
