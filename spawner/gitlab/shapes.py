"""GitLab's JSON, read into the values of `spawner.ports`; pure.

For: `spawner.gitlab.client` and `spawner.gitlab.webhooks`.
Promises: only fields that are used are looked at; a missing or misshapen one that we need is ForgeUnavailable ("answers
what is no answer"), never a KeyError; an unknown job status is `UNKNOWN` with its text kept.
Must not know: HTTP, who asks. Source of the shapes: GitLab REST API v4, 17.x to 19.x.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from spawner.errors import ForgeUnavailable
from spawner.names import CommitSha, ProjectPath, is_full_sha
from spawner.ports import (
    BuildJob,
    Commit,
    ForgeUser,
    JobStatus,
    MergeRequest,
    Pipeline,
    Project,
    PullToken,
    Ref,
    RefKind,
    Shown,
    Visibility,
)

Body = Mapping[str, Any]
_REQUEST_REF = re.compile(r"refs/merge-requests/(?P<number>\d+)/(?P<side>head|merge|train)")
_JOB_URL = re.compile(r"/(?:-/jobs|builds)/(\d+)$")


def whole(body: Body, name: str) -> int:
    """Return a number that must be there."""
    found = body.get(name)
    if not isinstance(found, int) or isinstance(found, bool):
        raise _nonsense(name)
    return found


def text(body: Body, name: str) -> str:
    """Return a text that must be there."""
    found = body.get(name)
    if not isinstance(found, str):
        raise _nonsense(name)
    return found


def optional(body: Body, name: str) -> str | None:
    """Return a text, or None when there is none."""
    found = body.get(name)
    return found if isinstance(found, str) and found else None


def part(body: Body, name: str) -> Body:
    """Return a nested object, empty when there is none."""
    found = body.get(name)
    return found if isinstance(found, dict) else {}


def sha(body: Body, name: str) -> CommitSha:
    """Return a full SHA that must be there."""
    found = text(body, name)
    if not is_full_sha(found):
        raise _nonsense(name)
    return CommitSha(found)


def moment(found: object) -> datetime | None:
    """Return a time as aware UTC: ISO 8601, or the `2021-02-23 02:41:37 UTC` of older hooks; None if it is none."""
    if not isinstance(found, str):
        return None
    try:
        at = datetime.fromisoformat(found.replace(" UTC", "+00:00"))
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def job_status(found: object) -> tuple[JobStatus, str]:
    """Return a status and its text as GitLab wrote it."""
    word = found if isinstance(found, str) else ""
    try:
        return JobStatus(word), word
    except ValueError:
        return JobStatus.UNKNOWN, word[:64]


def user(body: Body) -> ForgeUser:
    """Read `GET /user`. Only an administrator's own answer carries `is_admin`."""
    return ForgeUser(
        id=whole(body, "id"),
        username=text(body, "username"),
        name=optional(body, "name") or text(body, "username"),
        email=optional(body, "email") or "",
        is_admin=body.get("is_admin") is True,
        is_blocked=body.get("state", "active") != "active",
    )


def project(body: Body, *, registry_host: str | None) -> Project:
    """Read `GET /projects/:id`. The image prefix is GitLab's own word, else the registry's host and the path."""
    path = text(body, "path_with_namespace")
    image = optional(body, "container_registry_image_prefix")
    if image is None and registry_host:
        image = f"{registry_host}/{path.lower()}"
    if body.get("container_registry_access_level") == "disabled" or body.get("container_registry_enabled") is False:
        image = None
    return Project(
        id=whole(body, "id"),
        path=ProjectPath(path),
        name=optional(body, "name") or path.rpartition("/")[2],
        default_branch=optional(body, "default_branch"),
        visibility=_visibility(body),
        web_url=text(body, "web_url"),
        git_url=text(body, "http_url_to_repo"),
        registry_image=image,
        is_archived=body.get("archived") is True,
        forked_from_id=part(body, "forked_from_project").get("id"),
    )


def commit(body: Body) -> Commit:
    """Read a commit."""
    parents = body.get("parent_ids")
    return Commit(
        sha=sha(body, "id"),
        title=optional(body, "title") or "",
        author_name=optional(body, "author_name") or "",
        committed_at=moment(body.get("committed_date")),
        web_url=optional(body, "web_url") or "",
        parents=tuple(CommitSha(str(one)) for one in parents) if isinstance(parents, list) else (),
    )


def ref(body: Body, kind: RefKind) -> Ref:
    """Read a branch or a tag."""
    return Ref(
        kind=kind,
        name=text(body, "name"),
        sha=sha(part(body, "commit"), "id"),
        is_default=body.get("default") is True,
        is_protected=body.get("protected") is True,
    )


def containing_ref(body: Body) -> Ref | None:
    """Read a row of `commits/:sha/refs`; None for a kind that is neither branch nor tag."""
    kind = {"branch": RefKind.BRANCH, "tag": RefKind.TAG}.get(str(body.get("type")))
    return None if kind is None else Ref(kind=kind, name=text(body, "name"))


def merge_request(body: Body) -> MergeRequest:
    """Return a merge request.

    Source: https://docs.gitlab.com/api/commits/#list-all-merge-requests-associated-with-a-commit (18).
    """
    return MergeRequest(number=whole(body, "iid"), source_branch=text(body, "source_branch"))


def shown_by_merge_request(body: Body) -> Shown | None:
    """Return the head of a merge request, on its source branch where that is of the same project; None without commits.

    Source: https://docs.gitlab.com/api/merge_requests/#get-single-mr (18).
    """
    if optional(body, "sha") is None:
        return None
    is_own = body.get("source_project_id") == body.get("target_project_id")
    return Shown(sha=sha(body, "sha"), ref=optional(body, "source_branch") if is_own else None)


def merged_result(body: Body) -> int | None:
    """Return the merge request whose merged result a pipeline or job ran on; None where it ran on a pushed commit."""
    found = _REQUEST_REF.fullmatch(optional(body, "ref") or "")
    return int(found["number"]) if found is not None and found["side"] != "head" else None


def shown_by_run(body: Body) -> Shown:
    """Return the commit that a pipeline or job ran on; a merge request's ref is no branch."""
    ref = optional(body, "ref")
    is_branch = ref is not None and not ref.startswith("refs/")
    commit_sha = sha(part(body, "commit"), "id") if "commit" in body else sha(body, "sha")
    return Shown(sha=commit_sha, ref=ref if is_branch else None)


def pipeline(body: Body) -> Pipeline:
    """Read a pipeline."""
    return Pipeline(
        id=whole(body, "id"),
        status=text(body, "status"),
        source=optional(body, "source") or "",
        ref=optional(body, "ref") or "",
        web_url=optional(body, "web_url") or "",
        created_at=moment(body.get("created_at")),
    )


def job(body: Body) -> BuildJob:
    """Read a job of `jobs/:id` or `pipelines/:id/jobs`."""
    status, word = job_status(body.get("status"))
    of = part(body, "pipeline")
    return BuildJob(
        id=whole(body, "id"),
        name=text(body, "name"),
        status=status,
        status_text=word,
        failure_reason=optional(body, "failure_reason"),
        allow_failure=body.get("allow_failure") is True,
        web_url=optional(body, "web_url") or "",
        ref=optional(body, "ref") or "",
        pipeline_id=whole(of, "id"),
        created_at=moment(body.get("created_at")),
        started_at=moment(body.get("started_at")),
        finished_at=moment(body.get("finished_at")),
        scheduled_at=moment(body.get("scheduled_at")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A trigger job, and the pipeline that it has started, if it has."""

    job: BuildJob
    downstream_id: int | None
    downstream_project_id: int | None


def bridge(body: Body) -> Bridge:
    """Read a row of `pipelines/:id/bridges`."""
    below = part(body, "downstream_pipeline")
    return Bridge(
        job=job(body),
        downstream_id=whole(below, "id") if below else None,
        downstream_project_id=below.get("project_id"),
    )


def status_job(body: Body) -> BuildJob | None:
    """Read a row of `commits/:sha/statuses` as a job; None for a status that no CI job of GitLab's stands behind.

    A job's row links to the job itself; a status that an outside service posted links where that service likes.
    """
    status, word = job_status(body.get("status"))
    url = optional(body, "target_url") or ""
    link = _JOB_URL.search(url)
    if link is None or int(link.group(1)) != whole(body, "id"):
        return None
    return BuildJob(
        id=whole(body, "id"),
        name=text(body, "name"),
        status=status,
        status_text=word,
        failure_reason=optional(body, "failure_reason"),
        allow_failure=body.get("allow_failure") is True,
        web_url=url,
        ref=optional(body, "ref") or "",
        pipeline_id=whole(body, "pipeline_id"),
        created_at=moment(body.get("created_at")),
        started_at=moment(body.get("started_at")),
        finished_at=moment(body.get("finished_at")),
    )


def _visibility(body: Body) -> Visibility:
    try:
        return Visibility(str(body.get("visibility")))
    except ValueError:
        return Visibility.PRIVATE  # what is not known is not shown


def _nonsense(name: str) -> ForgeUnavailable:
    return ForgeUnavailable(f"GitLab answered without a usable “{name}”.", remedy="It is tried again.")


def pull_token(body: Body, *, expires_at: datetime) -> PullToken:
    """Read a deploy token that was just made; source: GitLab REST, deploy tokens, 18.x."""
    return PullToken(
        id=whole(body, "id"), username=text(body, "username"), token=text(body, "token"), expires_at=expires_at
    )
