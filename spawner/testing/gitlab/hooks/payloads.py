"""The bodies of hooks.

Source: https://docs.gitlab.com/user/project/integrations/webhook_events/ (18.x); `lib/gitlab/data_builder/*.rb`.
Promises: GitLab's fields with GitLab's odd ones among them: a job hook's `commit.id` is the pipeline's id, and
dates are `2021-02-23 02:41:37 UTC`.
Must not know: delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab import protection
from spawner.testing.gitlab.ci import lifecycle, requests
from spawner.testing.gitlab.records import Job, Pipeline, Project, Push, Runner, Status, User
from spawner.testing.gitlab.repository import ZERO_SHA

if TYPE_CHECKING:
    from datetime import datetime

    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.repository import Commit

_LEVELS = {"private": 0, "internal": 10, "public": 20}
_LABELS = {Status.SUCCESS: "passed"}
_SHOWN_COMMITS = 20


def job(instance: Instance, row: Job) -> dict[str, object]:
    """Return the body of a Job Hook."""
    pipeline, project, user = _around(instance, row)
    commit = instance.repository(project).commit(pipeline.sha)
    return {
        "object_kind": "build",
        "ref": requests.source_ref(instance, pipeline),
        "tag": pipeline.tag,
        "before_sha": pipeline.before_sha,
        "sha": pipeline.sha,
        "retries_count": row.retries_count,
        "build_id": row.id,
        "build_name": row.name,
        "build_stage": row.stage,
        "build_status": row.status.value,
        "build_created_at": _moment(row.created_at),
        "build_started_at": _moment(row.started_at),
        "build_finished_at": _moment(row.finished_at),
        "build_created_at_iso": _iso(row.created_at),
        "build_started_at_iso": _iso(row.started_at),
        "build_finished_at_iso": _iso(row.finished_at),
        "build_duration": _between(row.started_at, row.finished_at),
        "build_queued_duration": _between(row.queued_at, row.started_at),
        "build_allow_failure": row.allow_failure,
        "build_failure_reason": row.failure_reason or "unknown_failure",
        "pipeline_id": pipeline.id,
        "runner": _runner(instance, row),
        "project_id": project.id,
        "project_name": _display(project),
        "user": _user(user),
        "commit": {
            "id": pipeline.id,
            "name": None,
            "sha": pipeline.sha,
            "message": commit.message if commit else "",
            "author_name": commit.author_name if commit else "",
            "author_email": commit.author_email if commit else "",
            "author_url": f"mailto:{commit.author_email}" if commit else "",
            "status": pipeline.status.value,
            "duration": _whole_seconds(pipeline),
            "started_at": _moment(pipeline.started_at),
            "finished_at": _moment(pipeline.finished_at),
        },
        "repository": _repository(instance, project),
        "project": _project(instance, project),
        "environment": None,
        **_source_pipeline(instance, pipeline),
    }


def pipeline(instance: Instance, row: Pipeline) -> dict[str, object]:
    """Return the body of a Pipeline Hook; `builds` holds the latest of each name only."""
    project = instance.store.get(Project, row.project_id)
    user = instance.store.get(User, row.user_id)
    if project is None or user is None:
        raise LookupError(f"Pipeline {row.id} has lost its project or user.")
    commit = instance.repository(project).commit(row.sha)
    latest = [found for found in lifecycle.latest_jobs(instance, row.id) if found.trigger is None]
    jobs = sorted(latest, key=lambda found: -found.id)
    return {
        "object_kind": "pipeline",
        "object_attributes": {
            "id": row.id,
            "iid": row.sequence,
            "name": None,
            "ref": requests.source_ref(instance, row),
            "tag": row.tag,
            "sha": row.sha,
            "before_sha": row.before_sha,
            "source": row.source,
            "status": row.status.value,
            "detailed_status": _LABELS.get(row.status, row.status.value),
            "stages": list(row.stages),
            "created_at": _moment(row.created_at),
            "finished_at": _moment(row.finished_at),
            "duration": _whole_seconds(row),
            "queued_duration": _between(row.created_at, row.started_at),
            "protected_ref": protection.is_protected(instance, project, row.ref),
            "variables": [{"key": key, "value": value} for key, value in row.variables],
            "url": f"{instance.url}/{project.path}/-/pipelines/{row.id}",
        },
        "merge_request": _merge_request(instance, row),
        "user": _user(user),
        "project": _project(instance, project),
        "commit": _commit(instance, project, commit) if commit else None,
        "builds": [_build(instance, found) for found in jobs],
        **_source_pipeline(instance, row),
    }


def push(instance: Instance, project: Project, user: User, row: Push) -> dict[str, object]:
    """Return the body of a Push Hook or Tag Push Hook."""
    repository = instance.repository(project)
    is_tag = row.ref.startswith("refs/tags/")
    branch = row.ref.removeprefix("refs/heads/")
    after = repository.resolve(row.after) if row.after != ZERO_SHA else None
    start = f"{row.before}..{after}" if row.before != ZERO_SHA else after
    commits = repository.log(start, limit=_SHOWN_COMMITS) if after and start and not is_tag else []
    total = repository.count(start) if after and start and not is_tag else 0
    kind = "tag_push" if is_tag else "push"
    return {
        "object_kind": kind,
        "event_name": kind,
        "before": row.before,
        "after": row.after,
        "ref": row.ref,
        "ref_protected": not is_tag and protection.is_protected(instance, project, branch),
        "checkout_sha": after,
        "message": repository.tag_object(row.ref.removeprefix("refs/tags/"))[1] or None if is_tag and after else None,
        "user_id": user.id,
        "user_name": user.name,
        "user_username": user.username,
        "user_email": "",
        "user_avatar": None,
        "project_id": project.id,
        "project": _project(instance, project),
        "commits": [
            _commit(instance, project, found) | _files(instance, project, found) for found in reversed(commits)
        ],
        "total_commits_count": total,
        "push_options": {"ci": {"skip": True}} if "ci.skip" in row.options else {},
        "repository": _repository(instance, project),
    }


def _merge_request(instance: Instance, row: Pipeline) -> dict[str, object] | None:
    request = requests.of_pipeline(instance, row)
    target = instance.store.get(Project, request.project_id) if request else None
    if request is None or target is None:
        return None
    return {
        "id": request.id,
        "iid": request.sequence,
        "title": request.title,
        "source_branch": request.source_branch,
        "source_project_id": request.source_project_id,
        "target_branch": request.target_branch,
        "target_project_id": request.project_id,
        "state": request.state,
        "merge_status": "can_be_merged" if request.merge_ref_sha else "cannot_be_merged",
        "detailed_merge_status": "mergeable" if request.merge_ref_sha else "conflict",
        "url": f"{instance.url}/{target.path}/-/merge_requests/{request.sequence}",
    }


def _source_pipeline(instance: Instance, row: Pipeline) -> dict[str, object]:
    """Return what started a downstream pipeline; nothing for any other."""
    bridge = instance.store.get(Job, row.bridge_id) if row.bridge_id else None
    project = instance.store.get(Project, bridge.project_id) if bridge else None
    if bridge is None or project is None:
        return {}
    shown = {
        "id": project.id,
        "web_url": f"{instance.url}/{project.path}",
        "path_with_namespace": project.path,
    }
    return {"source_pipeline": {"project": shown, "job_id": bridge.id, "pipeline_id": bridge.pipeline_id}}


def _around(instance: Instance, row: Job) -> tuple[Pipeline, Project, User]:
    pipeline_row = instance.store.get(Pipeline, row.pipeline_id)
    project = instance.store.get(Project, row.project_id)
    user = instance.store.get(User, row.user_id)
    if pipeline_row is None or project is None or user is None:
        raise LookupError(f"Job {row.id} has lost its pipeline, project or user.")
    return pipeline_row, project, user


def _build(instance: Instance, row: Job) -> dict[str, object]:
    user = instance.store.get(User, row.user_id)
    archive = next((found for found in row.artifacts if found.file_type == "archive"), None)
    reason = {"failure_reason": row.failure_reason} if row.status is Status.FAILED else {}
    return {
        "id": row.id,
        "stage": row.stage,
        "name": row.name,
        "status": row.status.value,
        "created_at": _moment(row.created_at),
        "started_at": _moment(row.started_at),
        "finished_at": _moment(row.finished_at),
        "duration": _between(row.started_at, row.finished_at),
        "queued_duration": _between(row.queued_at, row.started_at),
        **reason,
        "when": row.when,
        "manual": row.when == "manual",
        "allow_failure": row.allow_failure,
        "user": _user(user) if user else None,
        "runner": _runner(instance, row),
        "artifacts_file": {
            "filename": archive.filename if archive else None,
            "size": archive.size_bytes if archive else None,
        },
        "environment": None,
    }


def _runner(instance: Instance, row: Job) -> dict[str, object] | None:
    found = instance.store.get(Runner, row.runner_id) if row.runner_id else None
    if found is None:
        return None
    return {
        "id": found.id,
        "description": found.description,
        "runner_type": "project_type" if found.project_id else "instance_type",
        "active": not found.paused,
        "is_shared": found.project_id is None,
        "tags": list(found.tags),
    }


def _user(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "name": user.name,
        "username": user.username,
        "avatar_url": None,
        "email": "[REDACTED]",
    }


def _display(project: Project) -> str:
    return " / ".join([*project.path.split("/")[:-1], project.name])


def _project(instance: Instance, project: Project) -> dict[str, object]:
    url = f"{instance.url}/{project.path}"
    return {
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "web_url": url,
        "avatar_url": None,
        "git_ssh_url": f"git@gitlab.invalid:{project.path}.git",
        "git_http_url": f"{url}.git",
        "namespace": project.path.split("/")[-2],
        "visibility_level": _LEVELS[project.visibility.value],
        "path_with_namespace": project.path,
        "default_branch": project.default_branch,
        "ci_config_path": project.settings.get("ci_config_path"),
    }


def _repository(instance: Instance, project: Project) -> dict[str, object]:
    url = f"{instance.url}/{project.path}"
    return {
        "name": project.name,
        "url": f"git@gitlab.invalid:{project.path}.git",
        "description": project.description,
        "homepage": url,
        "git_http_url": f"{url}.git",
        "git_ssh_url": f"git@gitlab.invalid:{project.path}.git",
        "visibility_level": _LEVELS[project.visibility.value],
    }


def _commit(instance: Instance, project: Project, commit: Commit) -> dict[str, object]:
    return {
        "id": commit.id,
        "message": commit.message,
        "title": commit.title,
        "timestamp": commit.committed,
        "url": f"{instance.url}/{project.path}/-/commit/{commit.id}",
        "author": {"name": commit.author_name, "email": commit.author_email},
    }


def _files(instance: Instance, project: Project, commit: Commit) -> dict[str, object]:
    before = commit.parents[0] if commit.parents else ZERO_SHA
    changed = instance.repository(project).changed(before, commit.id)
    names = {"added": "A", "modified": "M", "removed": "D"}
    return {name: [path for letter, path in changed if letter == wanted] for name, wanted in names.items()}


def _moment(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC") if moment else None


def _iso(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start).total_seconds() if start and end else None


def _whole_seconds(row: Pipeline) -> int | None:
    seconds = _between(row.started_at, row.finished_at)
    return None if seconds is None else round(seconds)
