"""The values of the image ladder: a chosen image, a build, and what was found on each rung.

For: `resolve` decides over these, `service` collects and stores them, the edges show them.
Promises: frozen; times are aware UTC; `Build.id` is `<forge>/<project id>/<sha>`.
Must not know: GitLab's REST shapes, the database, sessions.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from spawner.names import CommitSha
from spawner.ports import BuildJob, ImageKind, Pipeline, RegistryImage


class ImageSource(StrEnum):
    """The rung of the ladder an image stands on."""

    REQUESTED = "requested"
    EXACT = "exact"
    ENVIRONMENT = "environment"
    BUILT = "built"
    ANCESTOR = "ancestor"
    DEFAULT = "default"


class BuildPolicy(StrEnum):
    """What a launch does about a build: wait for one, start one, or never wait."""

    WAIT = "wait"
    NOW = "now"
    NEVER = "never"


class FallbackPolicy(StrEnum):
    """Where a launch goes when no image is or will be there."""

    DEFAULT = "default"
    ANCESTOR = "ancestor"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenImage:
    """The image a session starts with. `reference` is pinned (`name@sha256:…`); `reason` is a sentence."""

    reference: str
    digest: str
    kind: ImageKind
    source: ImageSource
    reason: str
    tag: str | None = None
    environment_key: str | None = None
    built_for_commit: CommitSha | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image found on a rung, with what makes it count there."""

    image: RegistryImage
    kind: ImageKind
    tag: str
    note: str = ""  # e.g. "matched by short tag", "built 40 days ago"
    environment_key: str | None = None
    built_for_commit: CommitSha | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What is known of one commit's build, whoever waits for it.

    `job` is the best job of the build job's name (success before running before pending, newest first);
    `is_over` says that no look will change anything until a hint comes.
    """

    id: str
    forge: str
    project_id: int
    sha: CommitSha
    job_name: str
    first_asked_at: datetime
    job: BuildJob | None = None
    pipelines: tuple[Pipeline, ...] = ()
    checked_at: datetime | None = None
    due_at: datetime | None = None
    looks: int = 0  # since the last change; decides how long until the next
    log_bytes: int = 0  # length of the cleaned log kept
    trouble: str = ""  # why the last look failed; empty when it did not
    is_over: bool = False
    finished_at: datetime | None = None  # when this process first saw the job's end
    found: Found | None = None  # the commit's own image, seen after its job succeeded
    ordered_at: datetime | None = None  # when a launch last had the commit built (`build: now`)
    version: int = 0


def build_id(forge: str, project_id: int, sha: CommitSha) -> str:
    """Return the id of a commit's build."""
    return f"{forge}/{project_id}/{sha}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one launch, from settings, project and request."""

    build: BuildPolicy = BuildPolicy.WAIT
    fallback: FallbackPolicy = FallbackPolicy.DEFAULT
    is_start_now: bool = False  # a person said "start now": the best rung below waiting
    grace_seconds: float = 30.0
    queue_budget_seconds: float = 300.0
    build_budget_seconds: float = 3600.0
    registry_budget_seconds: float = 60.0
    push_lag_seconds: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything `resolve` looks at. None means "looked, not there" unless said otherwise.

    `trouble` names what could not be asked (registry, GitLab) and since when.
    """

    accepts: frozenset[ImageKind]
    asked_at: datetime
    requested_reference: str | None = None
    requested: Found | None = None
    exact: Found | None = None
    environment: Found | None = None
    ancestor: Found | None = None
    build: Build | None = None
    default: ChosenImage | None = None
    trouble: str = ""
    trouble_since: datetime | None = None
    expected_kinds: frozenset[ImageKind] = field(default_factory=frozenset)  # what the commit's job will push


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Start with this image."""

    image: ChosenImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Wait: `reason` is shown as is; look again at `due_at` at the latest."""

    reason: str
    due_at: datetime
    can_build_now: bool = False  # nothing is being built, and who may could have it built
    is_trouble: bool = False  # something could not be asked: not a build is awaited, but an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """No image is or will be there; `reason` says why. The policy decides between ancestor, default and failing."""

    reason: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Nothing can be started, and why."""

    reason: str
    code: str
    remedy: str


Decision = Ready | Waiting | Fallback | Unavailable
