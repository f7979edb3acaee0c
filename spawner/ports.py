"""The ports: what the domain asks of the world, and the values exchanged.

For: services depend on these Protocols, adapters implement them, `spawner.wiring` alone knows both sides.
Promises: every value is frozen; every method has a bounded time; "not found" that is expected is `None`;
an adapter raises only `spawner.errors` (a `TemporaryError` for what may be tried again).
Must not know: any library an adapter uses, any setting, the database.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName

# ---------------------------------------------------------------- time and wake-ups


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """Return the present as an aware UTC datetime."""
        ...


class TaskKind(StrEnum):
    """What a wake-up is about; each kind has one task function."""

    SESSION = "session"
    BUILD = "build"
    CLEANUP = "cleanup"
    PREPARE = "prepare"


class Dispatcher(Protocol):
    """Carries wake-ups. Losing one costs seconds, never a session: the sweep finds what is due."""

    def soon(self, kind: TaskKind, subject: str) -> None:
        """Ask that `subject` be looked at now; never raises, never waits for the work itself."""
        ...

    def announce(self, session: SessionName) -> None:
        """Tell viewers in every process that `session` has a new event; never raises."""
        ...


# ---------------------------------------------------------------- the forge


class CredentialKind(StrEnum):
    """How a token is presented to the forge."""

    OAUTH = "oauth"
    PERSONAL = "personal"
    DEPLOY = "deploy"  # a project's own token, good for Git or the registry and for no call of the API
    NONE = "none"  # nobody's: the forge is asked as any visitor may ask it


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One person's token on one forge, or a project's; never printed, never logged.

    `username` goes with a project's token and is empty for a person's, which the forge knows by itself.
    """

    forge: str
    token: str = field(repr=False)
    kind: CredentialKind
    username: str = ""


def nobody(forge: str) -> Credential:
    """Return the credential of whoever has none: the forge tells what it tells everybody."""
    return Credential(forge=forge, token="", kind=CredentialKind.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeUser:
    """A person as the forge knows them."""

    id: int
    username: str
    name: str
    email: str
    is_admin: bool = False
    is_blocked: bool = False


class Visibility(StrEnum):
    """Who may see a project."""

    PRIVATE = "private"
    INTERNAL = "internal"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project as the person asking sees it. `registry_image` is `<host>[:port]/<path>` or None when off."""

    id: int
    path: ProjectPath
    name: str
    default_branch: str | None
    visibility: Visibility
    web_url: str
    git_url: str
    registry_image: str | None
    is_archived: bool = False
    forked_from_id: int | None = None


class RefKind(StrEnum):
    """What a session's `branch` names."""

    BRANCH = "branch"
    TAG = "tag"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A branch or a tag and the commit it names; the SHA is None where the forge does not tell."""

    kind: RefKind
    name: str
    sha: CommitSha | None = None
    is_default: bool = False
    is_protected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """A merge request: its number within the project it is into, and the branch it comes from, maybe a fork's."""

    number: int
    source_branch: str


class PageKind(StrEnum):
    """What GitLab numbers, and shows on a page of its own."""

    MERGE_REQUEST = "merge request"
    PIPELINE = "pipeline"
    JOB = "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedPage:
    """A page of GitLab by its number: a merge request's within its project, a pipeline's or job's own."""

    kind: PageKind
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The commit that such a page is about, and its branch or tag where the page names one of this project."""

    sha: CommitSha
    ref: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit; `parents` are full SHAs, first parent first."""

    sha: CommitSha
    title: str
    author_name: str
    committed_at: datetime | None
    web_url: str
    parents: tuple[CommitSha, ...]


class AccessLevel:
    """GitLab's access levels. Source: GitLab REST, `members/all/:user_id`, 17.x."""

    NONE = 0
    GUEST = 10
    REPORTER = 20
    DEVELOPER = 30
    MAINTAINER = 40
    OWNER = 50


class JobStatus(StrEnum):
    """Every status of a CI job. Source: GitLab `commit_status.rb`, 17.x-19.x."""

    CREATED = "created"
    WAITING_FOR_RESOURCE = "waiting_for_resource"
    PREPARING = "preparing"
    WAITING_FOR_CALLBACK = "waiting_for_callback"
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELING = "canceling"
    CANCELED = "canceled"
    SKIPPED = "skipped"
    MANUAL = "manual"
    SCHEDULED = "scheduled"
    UNKNOWN = "unknown"  # a status newer than this release; its text is kept beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """One CI job that may produce a commit's image. Times are aware UTC."""

    id: int
    name: str
    status: JobStatus
    status_text: str
    failure_reason: str | None
    allow_failure: bool
    web_url: str
    ref: str
    pipeline_id: int
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    scheduled_at: datetime | None = None
    is_protected_ref: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One pipeline of a commit."""

    id: int
    status: str
    source: str
    ref: str
    web_url: str
    created_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitBuilds:
    """What CI knows about one commit: its pipelines (newest first) and every job of the asked name."""

    pipelines: tuple[Pipeline, ...]
    jobs: tuple[BuildJob, ...]


class FileKind(StrEnum):
    """What a tree entry is."""

    BLOB = "blob"
    TREE = "tree"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentKey:
    """The environment key of one commit for one kind: 64 hex, and the input files by path and fingerprint."""

    key: str
    kind: "ImageKind"
    recipe: str
    inputs: tuple[tuple[str, str, str], ...]  # (path, mode, fingerprint), sorted by path
    mutable: tuple[str, ...] = ()
    made_kinds: tuple["ImageKind", ...] = ()  # what the commit says that its build makes; empty: it does not say


ProjectKey = int | ProjectPath  # either names a project; the path saves asking for the id first


class Forge(Protocol):
    """The GitLab we talk to. Every call has the rights of the credential it is given, and no others."""

    def user(self, credential: Credential) -> ForgeUser:
        """Return who the credential belongs to; raises TokenRejected."""
        ...

    def scopes(self, credential: Credential) -> frozenset[str]:
        """Return the scopes of the credential; for an OAuth token also proves which application it is of."""
        ...

    def project(self, credential: Credential, project: ProjectKey) -> Project:
        """Return a project; raises ProjectNotFound, also for one this person may not see."""
        ...

    def access_level(self, credential: Credential, project: ProjectKey, user_id: int) -> int:
        """Return the person's effective level in the project, `AccessLevel.NONE` for a non-member."""
        ...

    def commit(self, credential: Credential, project: ProjectKey, revision: str) -> Commit | None:
        """Return the commit that `revision` (SHA, branch or tag) names, or None."""
        ...

    def refs_of(self, credential: Credential, project: ProjectKey, sha: CommitSha) -> Sequence[Ref]:
        """Return the branches and tags that contain the commit; empty when it is reachable from none."""
        ...

    def open_merge_request(self, credential: Credential, project: ProjectKey, sha: CommitSha) -> MergeRequest | None:
        """Return the newest open merge request into the project that contains the commit, or None."""
        ...

    def shown(self, credential: Credential, project: ProjectKey, page: NumberedPage) -> Shown | None:
        """Return what a merge request's, pipeline's or job's page shows, or None for one that is not there."""
        ...

    def ref(self, credential: Credential, project: ProjectKey, name: str) -> Ref | None:
        """Return the branch, else the tag, of that name, or None."""
        ...

    def first_parents(
        self, credential: Credential, project_id: int, sha: CommitSha, *, limit: int
    ) -> Sequence[CommitSha]:
        """Return up to `limit` ancestors along first parents, nearest first, without `sha` itself."""
        ...

    def builds(self, credential: Credential, project_id: int, sha: CommitSha, *, job_name: str) -> CommitBuilds:
        """Return every pipeline of the commit and every job of that name in them, newest first."""
        ...

    def job(self, credential: Credential, project_id: int, job_id: int) -> BuildJob | None:
        """Return one job, or None when it is gone or hidden from this person."""
        ...

    def job_log(self, credential: Credential, project_id: int, job_id: int) -> bytes:
        """Return the job's whole raw log so far; empty when there is none."""
        ...

    def play(self, credential: Credential, project_id: int, job_id: int) -> None:
        """Start a manual job; raises MissingScope, Forbidden or Conflict."""
        ...

    def retry(self, credential: Credential, project_id: int, job_id: int) -> None:
        """Have a job that has ended run again, as a new job; raises MissingScope, or Forbidden when it may not."""
        ...

    def create_pipeline(self, credential: Credential, project_id: int, ref: str) -> Pipeline:
        """Make a pipeline for a branch or tag; raises MissingScope, Forbidden or Conflict."""
        ...

    def environment_keys(self, credential: Credential, project: Project, sha: CommitSha) -> Sequence[EnvironmentKey]:
        """Return a commit's keys, every supported scheme and kind, newest scheme first; empty when no recipe fits.

        One blobless fetch of the commit and one of its control files; kept for ever by SHA.
        """
        ...

    def git(
        self, credential: Credential | None, project: ProjectPath, request: "GitRequest"
    ) -> AbstractContextManager["GitAnswer"]:
        """Relay one smart-HTTP or LFS request; the answer streams while the context is open."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitStatus:
    """What somebody outside says of a commit; `state` is GitLab's word."""

    state: str
    description: str
    target_url: str


class CommitStatuses(Protocol):
    """The statuses of commits, as an outsider reads and sets them."""

    def newest(
        self, credential: Credential, project_id: int, sha: CommitSha, *, name: str, pipeline_id: int
    ) -> CommitStatus | None:
        """Return the status of that name on the commit's pipeline, or None."""
        ...

    def post(
        self,
        credential: Credential,
        project_id: int,
        sha: CommitSha,
        status: CommitStatus,
        *,
        name: str,
        pipeline_id: int,
    ) -> None:
        """Set the status of that name on the commit's pipeline; raises MissingScope, Forbidden or NotFound."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GitRequest:
    """One Git request as relayed: `suffix` is one of a fixed list, never the client's own path."""

    method: str
    suffix: str
    query: str
    headers: Mapping[str, str]
    body: Iterator[bytes] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAnswer:
    """The forge's answer: status, the few headers Git needs, and the body in pieces."""

    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]


# ---------------------------------------------------------------- the registry


class ImageKind(StrEnum):
    """What a runtime can start: a container image, or a locked Python environment as a tiny OCI image."""

    CONTAINER = "container"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryImage:
    """An image that exists. `name` is host and repository, without tag; labels come from its config."""

    name: str
    digest: str
    labels: Mapping[str, str]
    created_at: datetime | None = None

    @property
    def pinned(self) -> str:
        """The reference that a session starts: `name@sha256:…`."""
        return f"{self.name}@{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What is told to somebody who fetches from a registry on a person's behalf; never printed, never logged."""

    username: str
    password: str = field(repr=False)


class Registry(Protocol):
    """An OCI registry. "Cannot be asked" raises RegistryUnavailable and is never "does not exist"."""

    def find(self, reference: str, credential: Credential | None) -> RegistryImage | None:
        """Return the image that a reference (`host/repository:tag` or `…@digest`) names, or None."""
        ...

    def tags(self, name: str, credential: Credential | None) -> Sequence[str]:
        """Return the tags of `host/repository`; empty when the repository does not exist."""
        ...

    def manifest(self, reference: str, credential: Credential | None) -> bytes:
        """Return the exact bytes of an image's manifest; raises ImageUnavailable when it is gone."""
        ...

    def save_blob(
        self, reference: str, digest: str, target: Path, *, largest_bytes: int, credential: Credential | None
    ) -> None:
        """Write one verified blob of an image to a new file; raises ImageUnavailable when gone or too large."""
        ...

    def login(self, reference: str, credential: Credential | None) -> Login | None:
        """Return what a container runtime may be told to pull an image with; None: it asks as nobody."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PullToken:
    """A project's token that reads its images and nothing else."""

    id: int
    username: str
    token: str = field(repr=False)
    expires_at: datetime


class PullTokens(Protocol):
    """What a forge may offer besides: tokens of projects. Raises as `Forge`."""

    def make_pull_token(self, credential: Credential, project_id: int, *, expires_at: datetime) -> PullToken:
        """Make a project's pull token; raises Forbidden or MissingScope where the person may not."""
        ...

    def revoke_pull_token(self, credential: Credential, project_id: int, id: int) -> None:  # noqa: A002 - the forge's word
        """End a pull token; a no-op when it is gone."""
        ...


# ---------------------------------------------------------------- runtimes

State = Mapping[str, Any]  # small JSON that only the runtime which wrote it reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a session may use; zero means "not limited by us"."""

    cpu_cores: float
    memory_bytes: int
    storage_bytes: int
    gpu_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadImage:
    """The image of a workload, pinned, and the credential that may pull it."""

    reference: str
    digest: str
    kind: ImageKind
    pull_credential: Credential | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What to check out: exactly `sha`, as a local branch tracking the remote, through the relay.

    `relay_url` ends in `.git` and wants the workload's credential as `Authorization: Bearer`.
    `replaces` are the project's own URLs without `.git` (https and ssh forms) that Git must send to the relay.
    """

    relay_url: str
    replaces: tuple[str, ...]
    project: ProjectPath
    branch: str
    ref_kind: RefKind
    sha: CommitSha
    author_name: str
    author_email: str
    fetch_lfs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a runtime is asked to run. The same name is always the same workload."""

    name: WorkloadName
    generation: int
    session: SessionName
    user_id: UserId
    username: str
    workspace: str
    image: WorkloadImage | None
    checkout: Checkout
    credential: str = field(repr=False)  # the session's own: relay and report, nothing else
    report_url: str  # base of the agent's calls: `<report_url>/report`, `<report_url>/redeem`
    default_url: str
    environment: Mapping[str, str]
    resources: Resources
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of a start, saved before the next is taken. `state` replaces the state saved before."""

    message: str
    state: State


class Health(StrEnum):
    """What is observed of a workload."""

    STARTING = "starting"
    READY = "ready"
    EXITED = "exited"  # it ran and ended; its log can still be read
    GONE = "gone"  # nothing of it is left
    UNKNOWN = "unknown"  # the runtime could not tell this time


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen of one workload. `message` is a sentence for the person, empty when all is well."""

    health: Health
    message: str = ""
    exit_code: int | None = None
    is_out_of_memory: bool = False
    memory_bytes: int | None = None
    cpu_cores: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of one container's log."""

    container: str
    text: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Something out there that bears our instance id."""

    workload: WorkloadName
    state: State
    created_at: datetime | None
    annotations: Mapping[str, str] = field(default_factory=dict)


class Runtime(Protocol):
    """Where a workload runs. Every method may be called again after a crash."""

    @property
    def name(self) -> str:
        """The runtime's name in the settings."""
        ...

    @property
    def image_kinds(self) -> frozenset[ImageKind]:
        """The kinds of image it can start; empty for one that needs none."""
        ...

    def start(self, workload: Workload) -> Iterator[Progress]:
        """Submit the workload step by step; adopts its own existing object; raises LaunchRefused or TemporaryError.

        Returns once submitted: readiness is `observe`'s business, or the agent's report.
        """
        ...

    def observe(self, states: Sequence[State]) -> Sequence[Observation]:
        """Look at many workloads at once; same order and length; gone is an Observation, not an error."""
        ...

    def stop(self, state: State, *, grace_seconds: float) -> None:
        """Begin ending a workload and everything it started; a no-op when already gone; never waits for the grace."""
        ...

    def logs(self, state: State, *, max_lines: int) -> Iterator[LogLine]:
        """Yield the last lines, oldest first, also of a workload that has ended."""
        ...

    def inventory(self) -> Iterator[Owned]:
        """Yield everything out there that bears our instance id."""
        ...


class KeepsWorkspaces(Protocol):
    """An ability of runtimes whose workspaces outlive workloads."""

    def remove_workspace(self, workspace: str) -> None:
        """Delete a workspace whose retention has ended; a no-op when it is gone."""
        ...


class PreparesImages(Protocol):
    """An ability of runtimes that can have an image at hand before anybody launches it."""

    def prepare(self, image: WorkloadImage) -> None:
        """Make an image quick to start; a no-op when it is there, or when somebody is at it already."""
        ...


class SetsVariables(Protocol):
    """An ability of runtimes that set variables of a session themselves, so that a launch cannot."""

    @property
    def own_variables(self) -> frozenset[str]:
        """The names of those variables."""
        ...


class AdmitsPeople(Protocol):
    """An ability of runtimes that cannot separate people from each other; `start` admits again, or raises as well."""

    @property
    def admitted(self) -> Sequence[UserId]:
        """Who is admitted; nobody where everybody is."""
        ...

    def admit(self, user_id: UserId, username: str) -> tuple[str, ...]:
        """Return warnings to show before a launch; raises SecondPerson when this person cannot be admitted."""
        ...

    def release(self, user_id: UserId) -> None:
        """Say that this person has no session left; a no-op while one of theirs starts or runs."""
        ...


# ---------------------------------------------------------------- routes


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a running session answers.

    `people_url` is the session's own origin for browsers, `programs_url` the same server for programs;
    both end in `/`. `open_path` is the path below them that redeems a one-time code.
    """

    people_url: str
    programs_url: str
    open_path: str


class Routes(Protocol):
    """How a person's request reaches a session."""

    def address(self, session: SessionName, state: State) -> Address | None:
        """Return where the session answers, or None while it has no route."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """A running session as a program reaches it: its base URL, ending in `/`, and the token it wants in a header."""

    base_url: str
    token: str = field(repr=False)


class Doors(Protocol):
    """How a program that knows no one-time codes enters a session."""

    def enter(self, url: str) -> Entrance:
        """Redeem a one-time URL that a service has just made; raises RuntimeUnavailable."""
        ...
