"""What the stand-in remembers: one frozen record per thing that GitLab would keep a row for.

Promises: records are plain values; a change is a new record put in the store. Identifiers are integers as in
GitLab, and times are aware UTC datetimes. Names of fields follow GitLab's REST answers where there is one.
Must not know: HTTP, Git, or how records are kept.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime


class Level(enum.IntEnum):
    """Access levels, as GitLab numbers them (https://docs.gitlab.com/api/members/, 18.x)."""

    NONE = 0
    GUEST = 10
    PLANNER = 15
    REPORTER = 20
    DEVELOPER = 30
    MAINTAINER = 40
    OWNER = 50


class Visibility(enum.StrEnum):
    """Who may see a project or group."""

    PRIVATE = "private"
    INTERNAL = "internal"
    PUBLIC = "public"


class Status(enum.StrEnum):
    """States of jobs and pipelines (GitLab's `commit_status.rb`, 18.x)."""

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


FINISHED = frozenset({Status.SUCCESS, Status.FAILED, Status.CANCELED, Status.SKIPPED})
ALIVE = frozenset(
    {
        Status.CREATED,
        Status.WAITING_FOR_RESOURCE,
        Status.PREPARING,
        Status.WAITING_FOR_CALLBACK,
        Status.PENDING,
        Status.RUNNING,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person, or a bot."""

    id: int
    username: str
    name: str
    email: str
    password_digest: str | None
    is_admin: bool
    state: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group or subgroup; `path` is the full path."""

    id: int
    path: str
    name: str
    visibility: Visibility
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project; `path` is the full path, `settings` holds switches by their REST name."""

    id: int
    path: str
    name: str
    description: str | None
    visibility: Visibility
    default_branch: str
    creator_id: int
    created_at: datetime
    updated_at: datetime
    archived: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    forked_from_id: int | None = None
    former_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One person's level in one group or project."""

    id: int
    source: str
    source_id: int
    user_id: int
    level: Level
    created_at: datetime
    expires_at: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLink:
    """A project shared with a group ("invited group")."""

    id: int
    project_id: int
    group_id: int
    level: Level
    expires_at: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A personal access token; only its digest is kept."""

    id: int
    user_id: int
    name: str
    digest: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: date | None
    revoked: bool = False
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployToken:
    """A token of a project, for Git and the registry; `digest` stands for the secret."""

    id: int
    project_id: int
    name: str
    username: str
    digest: str
    scopes: tuple[str, ...]
    expires_at: datetime | None
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """An OAuth application."""

    id: int
    uid: str
    secret_digest: str
    name: str
    redirect_uris: tuple[str, ...]
    scopes: tuple[str, ...]
    confidential: bool
    trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """An authorization code, good once."""

    id: int
    digest: str
    application_id: int
    user_id: int
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str | None
    nonce: str | None
    expires_at: datetime
    used: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An OAuth access token with its single-use refresh token; digests only."""

    id: int
    access_digest: str
    refresh_digest: str
    application_id: int
    user_id: int
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str | None
    created_at: datetime
    expires_in_seconds: int
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A registered runner; only the digest of its token is kept."""

    id: int
    digest: str
    description: str
    tags: tuple[str, ...]
    run_untagged: bool
    project_id: int | None
    contacted_at: datetime | None
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One pipeline of one commit; `sequence` is GitLab's iid."""

    id: int
    sequence: int
    project_id: int
    sha: str
    before_sha: str
    ref: str
    tag: bool
    source: str
    status: Status
    user_id: int
    created_at: datetime
    updated_at: datetime
    stages: tuple[str, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    yaml_errors: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    merge_request_id: int | None = None
    bridge_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What a trigger job starts: a child pipeline from a file of its commit (`include`), or another project's."""

    include: str | None = None
    project: str | None = None
    branch: str | None = None
    depends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One uploaded file of a job; `path` is relative to the data folder."""

    file_type: str
    file_format: str | None
    filename: str
    size_bytes: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of a pipeline, or an external commit status (`external`)."""

    id: int
    pipeline_id: int
    project_id: int
    name: str
    stage: str
    stage_index: int
    status: Status
    user_id: int
    created_at: datetime
    updated_at: datetime
    script: tuple[str, ...] = ()
    after_script: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] | None = None
    dependencies: tuple[str, ...] | None = None
    when: str = "on_success"
    allow_failure: bool = False
    allow_failure_exit_codes: tuple[int, ...] = ()
    timeout_seconds: int = 3600
    retry_max: int = 0
    retry_when: tuple[str, ...] = ()
    retries_count: int = 0
    retried: bool = False
    resource_group: str | None = None
    artifact_rules: Mapping[str, object] | None = None
    environment: Mapping[str, object] | None = None
    id_tokens: Mapping[str, object] = field(default_factory=dict)
    image: str | None = None
    interruptible: bool = False
    tags: tuple[str, ...] = ()
    start_in_seconds: int | None = None
    scheduled_at: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    erased_at: datetime | None = None
    failure_reason: str | None = None
    exit_code: int | None = None
    runner_id: int | None = None
    token: str | None = None
    held: bool = False
    artifacts: tuple[Artifact, ...] = ()
    artifacts_expire_at: datetime | None = None
    dotenv: tuple[tuple[str, str], ...] = ()
    external: bool = False
    target_url: str | None = None
    description: str | None = None
    trigger: Trigger | None = None
    downstream_id: int | None = None
    cancels_gracefully: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """A merge request into a project; `sequence` is GitLab's iid, `is_stale` that its source has moved on."""

    id: int
    sequence: int
    project_id: int
    source_project_id: int
    source_branch: str
    target_branch: str
    title: str
    description: str | None
    state: str
    author_id: int
    sha: str
    created_at: datetime
    updated_at: datetime
    is_stale: bool = True
    base_sha: str | None = None
    merge_ref_sha: str | None = None
    merged_at: datetime | None = None
    merged_by_id: int | None = None
    merge_commit_sha: str | None = None
    closed_at: datetime | None = None
    removes_source: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A hook of a project, or of a group and all projects below it (`group_id`)."""

    id: int
    project_id: int
    url: str
    name: str | None
    description: str | None
    token: str | None
    signing_token: str | None
    events: frozenset[str]
    branch_filter: str | None
    custom_headers: tuple[tuple[str, str], ...]
    enable_ssl_verification: bool
    created_at: datetime
    failures: int = 0
    disabled_until: datetime | None = None
    group_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One attempt to deliver one event to one hook."""

    id: int
    hook_id: int
    event_uuid: str
    idempotency_key: str
    trigger: str
    url: str
    body: str
    response_status: str
    response_body: str
    request_headers: tuple[tuple[str, str], ...]
    response_headers: tuple[tuple[str, str], ...]
    created_at: datetime
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A pushed ref whose consequences (hooks, pipeline) are still to come; survives a crash."""

    id: int
    project_id: int
    user_id: int
    ref: str
    before: str
    after: str
    options: tuple[str, ...]
    created_at: datetime
    announced: bool = False
    is_newest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedBranch:
    """A protected branch or wildcard."""

    id: int
    project_id: int
    name: str
    push_level: Level
    merge_level: Level
    allow_force_push: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A badge of a project or of a group: one of the two ids is set."""

    id: int
    project_id: int | None
    name: str | None
    link_url: str
    image_url: str
    group_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRow:
    """A registry repository known to GitLab; it may hold no image yet."""

    id: int
    project_id: int
    path: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A Git LFS file lock."""

    id: int
    project_id: int
    path: str
    user_id: int
    locked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeObject:
    """A Git LFS object that a project holds."""

    id: int
    project_id: int
    oid: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An armed fault: what, where, how often and how long."""

    id: int
    fault: str
    project: str | None
    times: int | None
    seconds: float | None
    created_at: datetime
    used: int = 0
