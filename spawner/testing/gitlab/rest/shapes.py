"""Records as REST v4 shows them (GitLab 18.x entities).

Promises: GitLab's field names and kinds; times are ISO-8601 with milliseconds and `Z`.
Must not know: who asks, beyond what is passed in.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from spawner.testing.gitlab import protection, records
from spawner.testing.gitlab.ci import lifecycle
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import FINISHED, Job, Pipeline, Project, Runner, Status, User

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Group, Member
    from spawner.testing.gitlab.repository import Commit

Shape = dict[str, object]


def moment(value: datetime | None) -> str | None:
    """Return a time as the API writes it."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" if value else None


def offset_moment(value: str) -> str:
    """Return a commit's time with milliseconds and the author's own offset."""
    return datetime.fromisoformat(value).isoformat(timespec="milliseconds")


def between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds between two times, or None."""
    return round((end - start).total_seconds(), 6) if start and end else None


def user_basic(instance: Instance, user: User | None) -> Shape | None:
    """Return a person as others see them."""
    if user is None:
        return None
    return {
        "id": user.id,
        "username": user.username,
        "public_email": None,
        "name": user.name,
        "state": user.state,
        "locked": False,
        "avatar_url": avatar(user),
        "web_url": f"{instance.url}/{user.username}",
    }


def user_public(instance: Instance, user: User | None) -> Shape | None:
    """Return a person with their public profile."""
    basic = user_basic(instance, user)
    if user is None or basic is None:
        return None
    empty = ("bio", "location", "linkedin", "twitter", "discord", "website_url", "organization", "job_title")
    return {
        **basic,
        "created_at": moment(user.created_at),
        **dict.fromkeys(empty, ""),
        "is_followed": False,
        "pronouns": None,
        "bot": False,
        "work_information": None,
        "local_time": None,
        "followers": 0,
        "following": 0,
    }


def user_own(instance: Instance, user: User) -> Shape:
    """Return a person as they see themselves."""
    own: Shape = {
        **(user_public(instance, user) or {}),
        "email": user.email,
        "public_email": user.email,
        "commit_email": user.email,
        "last_sign_in_at": None,
        "confirmed_at": moment(user.created_at),
        "last_activity_on": now().date().isoformat(),
        "theme_id": 3,
        "color_scheme_id": 1,
        "projects_limit": 100000,
        "current_sign_in_at": None,
        "identities": [],
        "can_create_group": True,
        "can_create_project": True,
        "two_factor_enabled": False,
        "external": False,
        "private_profile": False,
        "namespace_id": _user_namespace_id(user),
    }
    return own | ({"is_admin": True} if user.is_admin else {})


def avatar(user: User) -> str:
    """Return the address of a person's picture."""
    mark = hashlib.sha256(user.email.strip().lower().encode()).hexdigest()
    return f"https://www.gravatar.com/avatar/{mark}?s=80&d=identicon"


def namespace(instance: Instance, project: Project) -> Shape:
    """Return the group or person that holds a project."""
    path = project.path.rpartition("/")[0]
    group = instance.store.first(records.Group, lambda row: row.path == path)
    if group:
        return {
            "id": group.id,
            "name": group.name,
            "path": path.rsplit("/", 1)[-1],
            "kind": "group",
            "full_path": path,
            "parent_id": None,
            "avatar_url": None,
            "web_url": f"{instance.url}/groups/{path}",
        }
    user = instance.store.first(User, lambda row: row.username == path)
    return {
        "id": _user_namespace_id(user) if user else 0,
        "name": user.name if user else path,
        "path": path,
        "kind": "user",
        "full_path": path,
        "parent_id": None,
        "avatar_url": avatar(user) if user else None,
        "web_url": f"{instance.url}/{path}",
    }


def member(instance: Instance, row: Member) -> Shape:
    """Return a membership."""
    person = user_basic(instance, instance.store.get(User, row.user_id)) or {}
    return {
        **person,
        "access_level": int(row.level),
        "created_at": moment(row.created_at),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "membership_state": "active",
    }


def group(instance: Instance, row: Group) -> Shape:
    """Return a group."""
    parent_path, _, path = row.path.rpartition("/")
    parent = instance.store.first(records.Group, lambda found: found.path == parent_path)
    return {
        "id": row.id,
        "web_url": f"{instance.url}/groups/{row.path}",
        "name": row.name,
        "path": path,
        "description": "",
        "visibility": row.visibility.value,
        "full_name": " / ".join(row.path.split("/")),
        "full_path": row.path,
        "created_at": moment(row.created_at),
        "parent_id": parent.id if parent else None,
        "avatar_url": None,
        "request_access_enabled": True,
    }


def commit(instance: Instance, project: Project, row: Commit) -> Shape:
    """Return a commit as it stands in lists."""
    return {
        "id": row.id,
        "short_id": row.id[:8],
        "created_at": offset_moment(row.committed),
        "parent_ids": list(row.parents),
        "title": row.title,
        "message": row.message,
        "author_name": row.author_name,
        "author_email": row.author_email,
        "authored_date": offset_moment(row.authored),
        "committer_name": row.committer_name,
        "committer_email": row.committer_email,
        "committed_date": offset_moment(row.committed),
        "trailers": {},
        "extended_trailers": {},
        "web_url": f"{instance.url}/{project.path}/-/commit/{row.id}",
    }


def pipeline_basic(instance: Instance, row: Pipeline) -> Shape:
    """Return a pipeline as it stands in lists."""
    project = instance.store.get(Project, row.project_id)
    return {
        "id": row.id,
        "iid": row.sequence,
        "project_id": row.project_id,
        "sha": row.sha,
        "ref": row.ref,
        "status": row.status.value,
        "source": row.source,
        "created_at": moment(row.created_at),
        "updated_at": moment(row.updated_at),
        "web_url": f"{instance.url}/{project.path if project else ''}/-/pipelines/{row.id}",
        "name": None,
    }


def pipeline(instance: Instance, row: Pipeline) -> Shape:
    """Return a pipeline in full."""
    duration = between(row.started_at, row.finished_at)
    return {
        **pipeline_basic(instance, row),
        "before_sha": row.before_sha,
        "tag": row.tag,
        "yaml_errors": row.yaml_errors,
        "user": user_basic(instance, instance.store.get(User, row.user_id)),
        "started_at": moment(row.started_at),
        "finished_at": moment(row.finished_at),
        "committed_at": None,
        "duration": None if duration is None else round(duration),
        "queued_duration": _whole(between(row.created_at, row.started_at)),
        "coverage": None,
        "detailed_status": detailed_status(instance, row),
        "archived": False,
    }


def detailed_status(instance: Instance, row: Pipeline) -> Shape:
    """Return a pipeline's status as the pages show it; failed jobs that may fail make a warning."""
    project = instance.store.get(Project, row.project_id)
    failed = [job for job in lifecycle.latest_jobs(instance, row.id) if job.status is Status.FAILED]
    warned = row.status is Status.SUCCESS and bool(failed)
    label = "passed" if row.status is Status.SUCCESS else row.status.value.replace("_", " ")
    return {
        "icon": "status_warning" if warned else f"status_{row.status.value}",
        "text": "Warning" if warned else label.capitalize(),
        "label": "passed with warnings" if warned else label,
        "group": "success-with-warnings" if warned else row.status.value,
        "tooltip": label,
        "has_details": True,
        "details_path": f"/{project.path if project else ''}/-/pipelines/{row.id}",
        "illustration": None,
        "action": None,
        "favicon": f"/assets/ci_favicons/favicon_status_{row.status.value}.png",
    }


def pipelines_of_commit(instance: Instance, project: Project, sha: str) -> list[Pipeline]:
    """Return a commit's pipelines, oldest first, without child pipelines: GitLab's `ci_sources` has none of them."""
    return instance.store.all(
        Pipeline, lambda row: row.project_id == project.id and row.sha == sha and row.source != "parent_pipeline"
    )


def bridge(instance: Instance, row: Job) -> Shape:
    """Return a trigger job with the pipeline that it started, null before it has."""
    below = instance.store.get(Pipeline, row.downstream_id) if row.downstream_id else None
    builds_own = {
        "artifacts",
        "artifacts_file",
        "artifacts_expire_at",
        "runner",
        "runner_manager",
        "archived",
        "tag_list",
    }
    shown = {name: value for name, value in job(instance, row).items() if name not in builds_own}
    return shown | {"downstream_pipeline": pipeline_basic(instance, below) if below else None}


def job(instance: Instance, row: Job) -> Shape:
    """Return a job."""
    project = instance.store.get(Project, row.project_id)
    parent = instance.store.get(Pipeline, row.pipeline_id)
    found = instance.repository(project).commit(parent.sha) if project and parent else None
    archive = next((file for file in row.artifacts if file.file_type == "archive"), None)
    files = [_file(file.file_type, file.size_bytes, file.filename, file.file_format) for file in row.artifacts]
    ended = row.finished_at or (None if row.status in FINISHED else now())
    return {
        "id": row.id,
        "status": row.status.value,
        "stage": row.stage,
        "name": row.name,
        "ref": parent.ref if parent else None,
        "tag": parent.tag if parent else False,
        "coverage": None,
        "allow_failure": row.allow_failure,
        "created_at": moment(row.created_at),
        "started_at": moment(row.started_at),
        "finished_at": moment(row.finished_at),
        "erased_at": moment(row.erased_at),
        "duration": between(row.started_at, ended),
        "queued_duration": between(row.queued_at, row.started_at or (now() if row.status is Status.PENDING else None)),
        "user": user_public(instance, instance.store.get(User, row.user_id)),
        "commit": commit(instance, project, found) if project and found else None,
        "pipeline": pipeline_basic(instance, parent) if parent else None,
        **({"failure_reason": row.failure_reason} if row.status is Status.FAILED else {}),
        "web_url": f"{instance.url}/{project.path if project else ''}/-/jobs/{row.id}",
        "project": {"ci_job_token_scope_enabled": False},
        **({"artifacts_file": {"filename": archive.filename, "size": archive.size_bytes}} if archive else {}),
        "artifacts": files + _trace_file(instance, row),
        "runner": runner(instance.store.get(Runner, row.runner_id) if row.runner_id else None),
        "runner_manager": None,
        "artifacts_expire_at": moment(row.artifacts_expire_at),
        "archived": False,
        "tag_list": list(row.tags),
    }


def runner(row: Runner | None) -> Shape | None:
    """Return a runner."""
    if row is None:
        return None
    fresh = row.contacted_at is not None and (now() - row.contacted_at).total_seconds() < 7200  # noqa: PLR2004 - 2 h
    return {
        "id": row.id,
        "description": row.description,
        "ip_address": None,
        "active": not row.paused,
        "paused": row.paused,
        "is_shared": row.project_id is None,
        "runner_type": "project_type" if row.project_id else "instance_type",
        "name": "gitlab-runner",
        "online": fresh,
        "created_at": None,
        "created_by": None,
        "status": "online" if fresh else "never_contacted",
        "job_execution_status": "idle",
    }


def commit_status(instance: Instance, row: Job) -> Shape:
    """Return a job or external status as a status of its commit."""
    parent = instance.store.get(Pipeline, row.pipeline_id)
    project = instance.store.get(Project, row.project_id)
    own = f"{instance.url}/{project.path if project else ''}/-/jobs/{row.id}"
    return {
        "id": row.id,
        "sha": parent.sha if parent else None,
        "ref": parent.ref if parent else None,
        "status": row.status.value,
        "name": row.name,
        "target_url": row.target_url if row.external else own,
        "description": row.description,
        "created_at": moment(row.created_at),
        "started_at": moment(row.started_at),
        "finished_at": moment(row.finished_at),
        "allow_failure": row.allow_failure,
        "coverage": None,
        "pipeline_id": row.pipeline_id,
        "author": user_basic(instance, instance.store.get(User, row.user_id)),
    }


def branch(instance: Instance, project: Project, name: str, row: Commit, *, can_push: bool) -> Shape:
    """Return a branch."""
    rule = protection.rule_for(instance, project, name)
    return {
        "name": name,
        "commit": commit(instance, project, row),
        "merged": False,
        "protected": rule is not None,
        "developers_can_push": rule is not None and 0 < int(rule.push_level) <= 30,  # noqa: PLR2004 - Developer
        "developers_can_merge": rule is not None and 0 < int(rule.merge_level) <= 30,  # noqa: PLR2004 - Developer
        "can_push": can_push,
        "default": name == project.default_branch,
        "web_url": f"{instance.url}/{project.path}/-/tree/{name}",
    }


def _file(kind: str, size_bytes: int, filename: str, file_format: str | None) -> Shape:
    return {"file_type": kind, "size": size_bytes, "filename": filename, "file_format": file_format}


def _trace_file(instance: Instance, row: Job) -> list[Shape]:
    path = instance.data / "traces" / f"{row.id}.log"
    if row.status not in FINISHED or not path.exists():
        return []
    return [_file("trace", path.stat().st_size, "job.log", None)]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _user_namespace_id(user: User) -> int:
    # GitLab numbers people's namespaces and groups in one row; a stand-in keeps them apart by a distance.
    return 1_000_000 + user.id
