"""A session as the contract's server object.

For: every answer of `servers` that shows a session. Pure: a session and what was read with it go in, a body
comes out.
Promises: exactly the contract's keys and strings, and one more key, `slipway`.
Must not know: services, Flask, the database.
Source: Renku's notebooks service 1.31 (`servers_get.py`); compared whole in `tests/unit/api`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from spawner.api.bodies import (
    Annotations,
    BuildPart,
    ErrorBody,
    FailurePart,
    ImagePart,
    OwnPart,
    Requests,
    ResourcesPart,
    ServerBody,
    StatusPart,
    StepPart,
    TokenPart,
    Usage,
    WarningPart,
)
from spawner.images.model import Build, ImageSource
from spawner.ports import Observation
from spawner.sessions.model import Phase, Session
from spawner.sessions.options import ResourceClass
from spawner.users.model import OwnToken

GIGABYTE: Final = 1_000_000_000
STEPS: Final = (
    "Initialization",
    "Downloading server image",
    "Cloning and configuring the repository",
    "Git credentials services",
    "Authentication and proxying services",
    "Auxiliary session services",
    "Starting session",
)
# The first step that is not yet done, by the words of a runtime's own step, lower-cased.
_STEP_WORDS: Final = (
    (("clon", "check", "fetch", "repository", "workspace"), 2),
    (("image", "environment", "pull", "install"), 1),
    (("start", "jupyter", "ready", "answer", "submit", "agent"), 6),
)
State = Literal["starting", "running", "stopping", "hibernated", "failed"]
StepStatus = Literal["ready", "waiting", "executing", "failed"]
_STATES: Final[Mapping[Phase, State]] = {
    Phase.NEW: "starting",
    Phase.QUEUED: "starting",
    Phase.WAITING: "starting",
    Phase.STARTING: "starting",
    Phase.RUNNING: "running",
    Phase.HIBERNATING: "stopping",
    Phase.HIBERNATED: "hibernated",
    Phase.STOPPING: "stopping",
    Phase.GONE: "stopping",  # only in the moment between its end and the 404
    Phase.FAILED: "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a body says beside the session itself. URLs have no slash at the end."""

    public_url: str
    forge_url: str
    classes: Sequence[ResourceClass]
    build: Build | None = None
    usage: Observation | None = None
    queue_position: int | None = None


def server_body(session: Session, around: Around) -> ServerBody:
    """Return the server object of a session."""
    return {
        "annotations": _annotations(session, around),
        "cloudstorage": [],
        "image": _image_name(session),
        "name": session.name,
        "resources": _resources(session, around),
        "started": iso(session.launched_at or session.created_at),
        "state": {"pod_name": None},
        "status": _status(session),
        "url": f"{around.public_url}/sessions/{session.name}",
        "slipway": _own(session, around),
    }


def error_body(code: int, message: str, detail: str | None) -> ErrorBody:
    """Return the body of an error."""
    return {"error": {"code": code, "message": message, "detail": detail}}


def iso(at: datetime) -> str:
    """Return a time with offset and whole seconds, as `datetime.fromisoformat` of Python 3.8 reads it."""
    return at.replace(microsecond=0).isoformat()


def gigabytes(amount_bytes: float) -> str:
    """Return an amount as the contract writes it: `2G`, or two decimals when it is not whole."""
    amount = amount_bytes / GIGABYTE
    return f"{amount:.0f}G" if amount == int(amount) else f"{amount:.2f}G"


def _annotations(session: Session, around: Around) -> Annotations:
    namespace, _, project = session.project_path.lower().rpartition("/")
    host = around.forge_url.partition("://")[2].partition("/")[0]
    is_default = session.image is not None and session.image.source is ImageSource.DEFAULT
    return {
        "renku.io/branch": session.branch,
        "renku.io/commit-sha": session.sha,
        "renku.io/default_image_used": str(is_default),
        "renku.io/git-host": host,
        "renku.io/gitlabProjectId": str(session.project_id),
        "renku.io/hibernatedSecondsThreshold": "0",
        "renku.io/hibernation": "",
        "renku.io/hibernationBranch": "",
        "renku.io/hibernationCommitSha": "",
        "renku.io/hibernationDate": "",
        "renku.io/hibernationDirty": "",
        "renku.io/hibernationSynchronized": "",
        "renku.io/idleSecondsThreshold": "0",
        "renku.io/lastActivityDate": "",
        "renku.io/namespace": namespace,
        "renku.io/projectName": project,
        "renku.io/repository": f"{around.forge_url}/{session.project_path}",
        "renku.io/resourceClassId": str(session.request.resource_class_id),
        "renku.io/servername": session.name,
        "renku.io/username": session.username,
    }


def _image_name(session: Session) -> str:
    return session.image.reference if session.image is not None else session.request.image or ""


def _resources(session: Session, around: Around) -> ResourcesPart:
    chosen = next((each for each in around.classes if each.id == session.request.resource_class_id), None)
    requests: Requests = {
        "cpu": chosen.cpu_cores if chosen else 0,
        "memory": gigabytes(chosen.memory_bytes if chosen else 0),
        "storage": gigabytes(session.request.storage_gigabytes * GIGABYTE),
    }
    if chosen and chosen.gpu_count > 0:
        requests["gpu"] = chosen.gpu_count
    usage: Usage = {}
    if around.usage is not None and session.phase is Phase.RUNNING:
        if around.usage.cpu_cores is not None:
            usage["cpu"] = round(around.usage.cpu_cores, 3)
        if around.usage.memory_bytes is not None:
            usage["memory"] = gigabytes(around.usage.memory_bytes)
    return {"requests": requests, "usage": usage}


# ---------------------------------------------------------------- status


def _status(session: Session) -> StatusPart:
    details = steps(session)
    status: StatusPart = {
        "state": _STATES[session.phase],
        "details": details,
        "readyNumContainers": sum(step["status"] == "ready" for step in details),
        "totalNumContainers": len(details),
        "warnings": _warnings(session),
    }
    if status["state"] == "starting":
        waiting = ", ".join(step["step"].lower() for step in details if step["status"] != "ready")
        status["message"] = f"Steps with non-ready statuses: {waiting}."
    elif status["state"] == "failed":
        status["message"] = _failure_sentence(session)
    return status


def steps(session: Session) -> list[StepPart]:
    """Return the contract's seven steps; none for a session that failed before anything was started."""
    if session.phase is Phase.FAILED and session.workload is None:
        return []
    at = _current_step(session)
    status: StepStatus = "failed" if session.phase is Phase.FAILED else "executing"
    if session.phase in {Phase.NEW, Phase.QUEUED}:
        status = "waiting"
    return [
        {"step": name, "status": "ready" if n < at else status if n == at else "waiting"}
        for n, name in enumerate(STEPS)
    ]


def _current_step(session: Session) -> int:
    match session.phase:
        case Phase.NEW | Phase.QUEUED | Phase.HIBERNATED:
            return 0
        case Phase.WAITING:
            return 1
        case Phase.STARTING | Phase.FAILED:
            words = session.step.lower()
            return next((at for keys, at in _STEP_WORDS if any(key in words for key in keys)), 1)
        case Phase.RUNNING | Phase.HIBERNATING | Phase.STOPPING | Phase.GONE:
            return len(STEPS)


def _failure_sentence(session: Session) -> str:
    if session.failure is None:
        return "The session failed."
    return " ".join(part for part in (session.failure.message, session.failure.remedy) if part)


def _warnings(session: Session) -> list[WarningPart]:
    found: list[WarningPart] = []
    if session.image is not None and session.image.source is ImageSource.DEFAULT:
        found.append({"message": "Server was started using the default image.", "critical": False})
    found.extend({"message": text, "critical": False} for text in session.warnings)
    return found


# ---------------------------------------------------------------- what is ours


def _own(session: Session, around: Around) -> OwnPart:
    return {
        "phase": session.phase.value,
        "target": session.target.value,
        "generation": session.generation,
        "runtime": session.runtime,
        "workload_name": session.workload,
        "workspace": session.workspace,
        "image": _image(session),
        "build": build_part(around.build),
        "queue": {"position": around.queue_position} if around.queue_position is not None else None,
        "error": _failure(session),
        "events_url": f"{around.public_url}/api/notebooks/servers/{session.name}/events",
        "since": session.phase_since.isoformat(),
        "reason": session.reason,
        "step": session.step,
    }


def _image(session: Session) -> ImagePart | None:
    if session.image is None:
        return None
    chosen = session.image
    return {
        "reference": chosen.reference,
        "digest": chosen.digest,
        "kind": chosen.kind.value,
        "source": chosen.source.value,
        "reason": chosen.reason,
        "environment_key": chosen.environment_key,
        "built_for_commit": chosen.built_for_commit,
    }


def build_part(build: Build | None) -> BuildPart | None:
    """Return what is shown of a build: its best job, since when it is in that state; None without a job."""
    if build is None or build.job is None:
        return None
    job = build.job
    since = job.finished_at or job.started_at or job.created_at
    return {
        "job_id": job.id,
        "status": job.status_text or job.status.value,
        "web_url": job.web_url,
        "since": since.isoformat() if since else None,
    }


def _failure(session: Session) -> FailurePart | None:
    failure = session.failure
    return None if failure is None else {"code": failure.code, "message": failure.message, "remedy": failure.remedy}


def token_part(token: OwnToken) -> TokenPart:
    """Return what is shown of one of our tokens."""
    return {
        "id": token.id,
        "name": token.name,
        "created_at": iso(token.created_at),
        "expires_at": iso(token.expires_at),
        "revoked_at": iso(token.revoked_at) if token.revoked_at else None,
        "last_used_at": iso(token.last_used_at) if token.last_used_at else None,
    }
