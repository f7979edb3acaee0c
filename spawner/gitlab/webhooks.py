"""GitLab's hooks: from headers and payload to an event of ours; pure.

For: `spawner.api.hooks`, which verifies, drops what came before, hints, and answers at once.
Promises: a hook is only ever a hint that something may have changed, so an event we do not care about, or cannot read,
is `Ignored` with a reason and never an error; nothing of a payload is kept but ids, names, SHAs and words of status
(its variables may hold secrets).
Must not know: HTTP, GitLab's REST answers, who waits for what.
Source: `lib/gitlab/data_builder/{build,pipeline,push}.rb` and the webhook headers of GitLab 17.x to 19.x.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spawner.names import CommitSha, ProjectPath, is_full_sha
from spawner.ports import JobStatus, RefKind

SKEW_SECONDS = 300.0
_NO_COMMIT = "0" * 40
_LONGEST_NAME = 255
_SIGNING_PREFIX = "whsec_"
_REFS = {"refs/heads/": RefKind.BRANCH, "refs/tags/": RefKind.TAG}


@dataclass(frozen=True, slots=True, kw_only=True)
class HookJob:
    """A job as a hook names it; the truth about it comes from GitLab when it is asked."""

    id: int
    name: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildsChanged:
    """Something changed about a commit's pipeline or jobs. `sha` may be a merge commit of GitLab's own making."""

    project_id: int
    sha: CommitSha
    pipeline_id: int
    jobs: tuple[HookJob, ...] = ()
    is_protected_ref: bool | None = None  # None where the hook does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class RefMoved:
    """A branch or tag names another commit; `after` is None when it was deleted."""

    project_id: int
    project: ProjectPath
    kind: RefKind
    name: str
    before: CommitSha | None
    after: CommitSha | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessChanged:
    """Somebody's membership changed. A group's id is not a project's: then everything of that person's may change."""

    user_id: int
    group_id: int | None = None
    project_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A hook that means nothing to us, and why."""

    reason: str


Event = BuildsChanged | RefMoved | AccessChanged | Ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What proves a hook: the plain token of older GitLabs, and the signing key of newer ones (`whsec_…`)."""

    token: str = ""
    signing_key: str = ""


def is_genuine(headers: Mapping[str, str], body: bytes, secrets: Sequence[Secret], now: datetime) -> bool:
    """Say whether one of our secrets made this delivery; a signature, where there is one, decides alone.

    Header names are compared without regard to case; a signature older or newer than 5 minutes is refused.
    """
    given = {name.lower(): value for name, value in headers.items()}
    if "webhook-signature" in given:
        return any(_is_signed(given, body, secret.signing_key, now) for secret in secrets if secret.signing_key)
    token = given.get("x-gitlab-token", "").encode()
    return any(hmac.compare_digest(secret.token.encode(), token) for secret in secrets if secret.token)


def is_signed(headers: Mapping[str, str]) -> bool:
    """Say whether a delivery carries a signature: then its body is part of the proof."""
    return any(name.lower() == "webhook-signature" for name in headers)


def delivery_id(headers: Mapping[str, str], body: bytes) -> str:
    """Return what tells a repeated delivery: GitLab's key, constant over a resend (17.4+), else the body's hash.

    Where there is a signature it is the key that was signed: who replays a delivery could write any other.
    """
    given = {name.lower(): value for name, value in headers.items()}
    key = given.get("webhook-id" if "webhook-signature" in given else "idempotency-key") or ""
    return key if re.fullmatch(r"[A-Za-z0-9_-]{8,128}", key) else hashlib.sha256(body).hexdigest()


def event(header: str, payload: object) -> Event:
    """Return what a hook means; `header` is `X-Gitlab-Event`, `payload` its JSON."""
    if not isinstance(payload, dict):
        return Ignored(reason="the payload is no object")
    read = _READERS.get(header)
    if read is None:
        return Ignored(reason="no event of ours")
    try:
        return read(payload)
    except _UnreadableError as error:
        return Ignored(reason=f"{header}: {error}")


class _UnreadableError(Exception):
    """A field that is missing or of another kind."""


def _job(payload: Mapping[str, Any]) -> Event:
    # `commit.id` of a job hook is the pipeline's id, not a commit's.
    job = HookJob(
        id=_number(payload, "build_id"),
        name=_text(payload, "build_name"),
        status=_status(payload.get("build_status")),
    )
    return BuildsChanged(
        project_id=_number(payload, "project_id"),
        sha=_sha(payload, "sha"),
        pipeline_id=_number(payload, "pipeline_id"),
        jobs=(job,),
    )


def _pipeline(payload: Mapping[str, Any]) -> Event:
    attributes = _part(payload, "object_attributes")
    rows = payload.get("builds")
    jobs = tuple(
        HookJob(id=_number(row, "id"), name=_text(row, "name"), status=_status(row.get("status")))
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    )
    protected = attributes.get("protected_ref")
    return BuildsChanged(
        project_id=_number(_part(payload, "project"), "id"),
        sha=_sha(attributes, "sha"),
        pipeline_id=_number(attributes, "id"),
        jobs=jobs,
        is_protected_ref=protected if isinstance(protected, bool) else None,
    )


def _push(payload: Mapping[str, Any]) -> Event:
    full = _text(payload, "ref")
    prefix = next((prefix for prefix in _REFS if full.startswith(prefix)), None)
    if prefix is None:
        return Ignored(reason="the ref is neither branch nor tag")
    return RefMoved(
        project_id=_number(payload, "project_id"),
        project=ProjectPath(_text(_part(payload, "project"), "path_with_namespace")),
        kind=_REFS[prefix],
        name=full.removeprefix(prefix),
        before=_sha_or_none(payload, "before"),
        after=_sha_or_none(payload, "after"),
    )


def _member(payload: Mapping[str, Any]) -> Event:
    return AccessChanged(user_id=_number(payload, "user_id"), group_id=_number(payload, "group_id"))


def _system(payload: Mapping[str, Any]) -> Event:
    """Read an instance's own hooks: they tell of pushes and memberships, never of jobs."""
    match payload.get("event_name"):
        case "push" | "tag_push":
            return _push(payload)
        case "user_add_to_team" | "user_update_for_team" | "user_remove_from_team":
            return AccessChanged(user_id=_number(payload, "user_id"), project_id=_number(payload, "project_id"))
        case "user_add_to_group" | "user_update_for_group" | "user_remove_from_group":
            return _member(payload)
    return Ignored(reason="no event of ours")


_READERS = {
    "Job Hook": _job,
    "Pipeline Hook": _pipeline,
    "Push Hook": _push,
    "Tag Push Hook": _push,
    "Member Hook": _member,
    "System Hook": _system,
}


def _is_signed(given: Mapping[str, str], body: bytes, signing_key: str, now: datetime) -> bool:
    identity, at = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not at.isdecimal() or len(at) > 12 or abs(now.timestamp() - int(at)) > SKEW_SECONDS:  # noqa: PLR2004 - to year 33658
        return False
    try:
        key = base64.b64decode(signing_key.removeprefix(_SIGNING_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return False
    digest = hmac.new(key, f"{identity}.{at}.".encode() + body, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(digest).decode()}".encode()
    return any(hmac.compare_digest(expected, one.encode()) for one in given["webhook-signature"].split())


def _part(payload: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = payload.get(name)
    if not isinstance(found, dict):
        raise _UnreadableError(f"no {name}")
    return found


def _number(payload: Mapping[str, Any], name: str) -> int:
    found = payload.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise _UnreadableError(f"no {name}")
    return found


def _text(payload: Mapping[str, Any], name: str) -> str:
    found = payload.get(name)
    if not isinstance(found, str) or not 0 < len(found) <= _LONGEST_NAME:
        raise _UnreadableError(f"no {name}")
    return found


def _sha(payload: Mapping[str, Any], name: str) -> CommitSha:
    found = payload.get(name)
    if not isinstance(found, str) or not is_full_sha(found):
        raise _UnreadableError(f"no {name}")
    return CommitSha(found)


def _sha_or_none(payload: Mapping[str, Any], name: str) -> CommitSha | None:
    found = _sha(payload, name)
    return None if found == _NO_COMMIT else found


def _status(word: object) -> JobStatus:
    try:
        return JobStatus(str(word))
    except ValueError:
        return JobStatus.UNKNOWN
