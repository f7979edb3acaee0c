"""The shapes of the API's answers.

For: `rendering` fills them, `openapi` prints them. Plain dictionaries with types: a list of a hundred sessions
is no place to validate what we made ourselves.
Promises: keys of the compatible contract stand as they are; what is ours stands under `slipway`.
Must not know: how they are filled.
Source: Renku's notebooks service 1.31, `NotebookResponse`.
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12


class ErrorPart(TypedDict):
    """The three keys of every error."""

    code: int
    message: str
    detail: str | None


class ErrorBody(TypedDict):
    """Every answer from 400 on."""

    error: ErrorPart


Annotations = TypedDict(
    "Annotations",
    {
        "renku.io/branch": str,
        "renku.io/commit-sha": str,
        "renku.io/default_image_used": str,
        "renku.io/git-host": str,
        "renku.io/gitlabProjectId": str,
        "renku.io/hibernatedSecondsThreshold": str,
        "renku.io/hibernation": str,
        "renku.io/hibernationBranch": str,
        "renku.io/hibernationCommitSha": str,
        "renku.io/hibernationDate": str,
        "renku.io/hibernationDirty": str,
        "renku.io/hibernationSynchronized": str,
        "renku.io/idleSecondsThreshold": str,
        "renku.io/lastActivityDate": str,
        "renku.io/namespace": str,
        "renku.io/projectName": str,
        "renku.io/repository": str,
        "renku.io/resourceClassId": str,
        "renku.io/servername": str,
        "renku.io/username": str,
    },
)


class Requests(TypedDict):
    """What a session may use: cores, decimal gigabytes as `2G`, and GPUs only if there are any."""

    cpu: float
    memory: str
    storage: str
    gpu: NotRequired[int]


class Usage(TypedDict):
    """What a session uses, where known."""

    cpu: NotRequired[float]
    memory: NotRequired[str]
    storage: NotRequired[str]


class ResourcesPart(TypedDict):
    """May and does."""

    requests: Requests
    usage: Usage


class StatePart(TypedDict):
    """The real pod, where there is one."""

    pod_name: str | None


class StepPart(TypedDict):
    """One of the contract's seven steps."""

    step: str
    status: Literal["ready", "waiting", "executing", "failed"]


class WarningPart(TypedDict):
    """Something the person should know; critical when it will soon cost them."""

    message: str
    critical: bool


class StatusPart(TypedDict):
    """Where the session stands, in the contract's words."""

    state: Literal["starting", "running", "stopping", "hibernated", "failed"]
    message: NotRequired[str | None]
    details: list[StepPart]
    readyNumContainers: int
    totalNumContainers: int
    warnings: list[WarningPart]


class ImagePart(TypedDict):
    """The image the session starts with, and why it is this one."""

    reference: str
    digest: str
    kind: str
    source: str
    reason: str
    environment_key: str | None
    built_for_commit: str | None


class BuildPart(TypedDict):
    """The CI job that produces the commit's image."""

    job_id: int
    status: str
    web_url: str
    since: str | None


class QueuePart(TypedDict):
    """A place in the queue, counted from 1."""

    position: int


class FailurePart(TypedDict):
    """Why the session failed and what to do."""

    code: str
    message: str
    remedy: str


class OwnPart(TypedDict):
    """What is ours alone."""

    phase: str
    target: str
    generation: int
    runtime: str
    workload_name: str | None
    workspace: str
    image: ImagePart | None
    build: BuildPart | None
    queue: QueuePart | None
    error: FailurePart | None
    events_url: str
    since: str
    reason: str
    step: str


class ServerBody(TypedDict):
    """A session, in the contract's shape."""

    annotations: Annotations
    cloudstorage: list[Any]
    image: str
    name: str
    resources: ResourcesPart
    started: str
    state: StatePart
    status: StatusPart
    url: str
    slipway: OwnPart


class ServersBody(TypedDict):
    """Sessions by name."""

    servers: dict[str, ServerBody]


class OpenedBody(TypedDict):
    """A way in: good once, for a minute."""

    url: str
    expires_at: str


class TokenPart(TypedDict):
    """One of the person's tokens; its text is shown once, when it is made."""

    id: str
    name: str
    created_at: str
    expires_at: str
    revoked_at: str | None
    last_used_at: str | None


class TokensBody(TypedDict):
    """A person's tokens, newest first."""

    tokens: list[TokenPart]


class NewTokenBody(TokenPart):
    """A token just made, with its text."""

    token: str


class RedeemedBody(TypedDict):
    """Whose one-time code it was."""

    username: str


class PersonBody(TypedDict):
    """Who the token or cookie belongs to. With a sign-in kept here, tokens of the spawner's own can launch."""

    username: str
    name: str
    is_admin: bool
    has_sign_in: bool


class RevisionBody(TypedDict):
    """A commit, and the branch or tag it is launched on."""

    project: str
    project_id: int
    branch: str
    ref_kind: Literal["branch", "tag"]
    commit_sha: str
    title: str
    author_name: str
    web_url: str


class AddressBody(RevisionBody):
    """What an address names: a commit, and the file of it that the address shows (empty for none)."""

    path: str
