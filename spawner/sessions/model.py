"""What a session is, and the log of what happened to it.

For: `machine` decides over these values, `service` stores them, the edges show them.
Promises: frozen; times are aware UTC; `target` and `wishes` are written by people only, everything else by
whoever holds the session's lease.
Must not know: HTTP, the database, any runtime or GitLab shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from spawner.errors import SpawnerError
from spawner.images.model import BuildPolicy, ChosenImage, FallbackPolicy
from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName, WorkloadSubject
from spawner.ports import Project, RefKind, State


class Phase(StrEnum):
    """Where a session stands, as observed."""

    NEW = "NEW"
    QUEUED = "QUEUED"
    WAITING = "WAITING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    HIBERNATING = "HIBERNATING"
    HIBERNATED = "HIBERNATED"
    STOPPING = "STOPPING"
    GONE = "GONE"
    FAILED = "FAILED"


class Target(StrEnum):
    """Where a session should be, as people and rules want it."""

    RUNNING = "RUNNING"
    HIBERNATED = "HIBERNATED"
    GONE = "GONE"


ENDED = frozenset({Phase.GONE, Phase.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What a person asked for, validated; kept whole with the session."""

    image: str | None = None
    build: BuildPolicy = BuildPolicy.WAIT
    fallback: FallbackPolicy | None = None
    runtime: str | None = None
    resource_class_id: int = 1
    storage_gigabytes: float = 1.0
    default_url: str = "/lab"
    fetches_lfs: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    notebook: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a session failed: a stable code, a sentence, and what to do."""

    code: str
    message: str
    remedy: str = ""


def failure_of(error: SpawnerError) -> Failure:
    """Return the failure that an error is for its session."""
    return Failure(code=type(error).__name__, message=error.message, remedy=error.remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session. `events` is the number of its newest event; `version` guards every save."""

    name: SessionName
    instance: str
    forge: str
    user_id: UserId
    username: str
    project: Project  # as seen at launch; kept whole with the session
    branch: str
    ref_kind: RefKind
    sha: CommitSha
    request: LaunchRequest
    runtime: str
    target: Target
    phase: Phase
    phase_since: datetime
    created_at: datetime
    generation: int = 1
    workload: WorkloadName | None = None
    workspace: str = ""
    image: ChosenImage | None = None
    build_id: str | None = None
    is_start_now: bool = False  # written by people
    wants_built_image: bool = False  # written by people: relaunch on the image that has arrived
    reason: str = ""  # what is being waited for, shown as is
    step: str = ""  # the newest step of a start
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    restarts: tuple[datetime, ...] = ()
    image_asked_at: datetime | None = None
    launched_at: datetime | None = None  # of this generation
    ready_at: datetime | None = None
    due_at: datetime | None = None
    retain_until: datetime | None = None  # the workspace, once the session has ended
    has_workspace: bool = False  # an earlier generation left one
    trouble: str = ""
    trouble_since: datetime | None = None
    version: int = 0
    events: int = 0

    @property
    def project_id(self) -> int:
        """The project's numeric id: the identity; the path is display only."""
        return self.project.id

    @property
    def project_path(self) -> ProjectPath:
        """The project's path at launch."""
        return self.project.path


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRow:
    """A workload as the database keeps it: what a runtime said last, saved before its next step."""

    name: WorkloadName
    owner_kind: str
    owner_name: str
    site: str
    image: str | None
    state: State
    generation: int


def workload_subject(session: Session) -> WorkloadSubject:
    """Return the tuple that a session's workloads and workspace are named by."""
    return WorkloadSubject(
        instance=session.instance,
        forge=session.forge,
        user_id=session.user_id,
        project_id=session.project_id,
        project=session.project_path.rpartition("/")[2],
        branch=session.branch,
        sha=session.sha,
    )


class EventKind(StrEnum):
    """The kinds of event; the same words as the stream's `event:` field."""

    PHASE = "phase"
    IMAGE = "image"
    BUILD = "build"
    LOG = "log"
    STEP = "step"
    QUEUE = "queue"
    READY = "ready"
    WARNING = "warning"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event about to be saved with its session."""

    kind: EventKind
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of the log; `id` counts from 1 within its session, without gaps."""

    session: SessionName
    id: int
    at: datetime
    phase: Phase
    kind: EventKind
    message: str
    data: Mapping[str, Any]


def since_launch(events: Sequence[Event]) -> Sequence[Event]:
    """Return the events since the session was launched last: the end of a life before is not this one's."""
    starts = [n for n, event in enumerate(events) if event.kind is EventKind.PHASE and event.phase is Phase.NEW]
    return events[starts[-1] :] if starts else events
