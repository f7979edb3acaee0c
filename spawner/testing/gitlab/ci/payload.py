"""What a runner is given to run a job: the answer of `POST jobs/request` (gitlab-runner 19.4).

Promises: every field that gitlab-runner and gitlab-python-runner need; variable values are never null.
Must not know: the protocol around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab import idtokens, protection
from spawner.testing.gitlab.ci import lifecycle, variables
from spawner.testing.gitlab.ci.machine import names_of
from spawner.testing.gitlab.records import Job, Pipeline, Project, User

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

_MASKED = frozenset({"CI_JOB_TOKEN", "CI_BUILD_TOKEN", "CI_REGISTRY_PASSWORD", "CI_REPOSITORY_URL"})
_DEPTH = 20


def of(instance: Instance, job: Job) -> dict[str, object]:
    """Return the job as its runner wants it."""
    store = instance.store
    pipeline = store.get(Pipeline, job.pipeline_id)
    project = store.get(Project, job.project_id)
    user = store.get(User, job.user_id)
    if pipeline is None or project is None or user is None:
        raise LookupError(f"Job {job.id} has lost its pipeline, project or user.")
    before = dependencies(instance, job)
    return {
        "id": job.id,
        "token": job.token,
        "allow_git_fetch": True,
        "job_info": _info(job, project),
        "git_info": _git(instance, job, pipeline, project),
        "runner_info": {"timeout": job.timeout_seconds, "runner_session_url": None},
        "inputs": [],
        "variables": _variables(instance, job, pipeline, (project, user), before),
        "steps": _steps(job),
        "hooks": [],
        "image": {"name": job.image, "entrypoint": None, "ports": []} if job.image else None,
        "services": [],
        "artifacts": _artifacts(job),
        "cache": [],
        "credentials": _credentials(instance, job, project),
        "dependencies": [_dependency(row) for row in before if _archive(row)],
        "features": {
            "trace_sections": True,
            "token_mask_prefixes": ["glpat-", "glcbt-", "glrt-"],
            "failure_reasons": ["unknown_failure", "script_failure", "runner_system_failure", "job_execution_timeout"],
        },
    }


def dependencies(instance: Instance, job: Job) -> list[Job]:
    """Return the jobs whose artifacts and dotenv reports a job gets."""
    latest = lifecycle.latest_jobs(instance, job.pipeline_id)
    wanted = job.dependencies if job.dependencies is not None else job.needs
    if wanted is None:
        return [row for row in latest if row.stage_index < job.stage_index]
    return [row for row in latest if names_of(row.name) & set(wanted)]


def _info(job: Job, project: Project) -> dict[str, object]:
    return {
        "id": job.id,
        "name": job.name,
        "stage": job.stage,
        "project_id": project.id,
        "project_name": project.path.rsplit("/", 1)[-1],
        "project_full_path": project.path,
        "time_in_queue_seconds": 0,
        "user_id": job.user_id,
    }


def _git(instance: Instance, job: Job, pipeline: Pipeline, project: Project) -> dict[str, object]:
    kind = "tags" if pipeline.tag else "heads"
    target = f"refs/tags/{pipeline.ref}" if pipeline.tag else f"refs/remotes/origin/{pipeline.ref}"
    own = [] if pipeline.merge_request_id else [f"+refs/{kind}/{pipeline.ref}:{target}"]
    return {
        "repo_url": variables.repository_url(instance, project, job.token or ""),
        "repo_object_format": "sha1",
        "ref": pipeline.ref,
        "sha": pipeline.sha,
        "before_sha": pipeline.before_sha,
        "ref_type": "tag" if pipeline.tag else "branch",
        "refspecs": [f"+{pipeline.sha}:refs/pipelines/{pipeline.id}", *own],
        "depth": _DEPTH,
        "protected": protection.is_protected(instance, project, pipeline.ref),
    }


def _variables(
    instance: Instance, job: Job, pipeline: Pipeline, owner: tuple[Project, User], before: list[Job]
) -> list[dict[str, object]]:
    project, user = owner
    values = variables.of_pipeline(instance, project, pipeline, user)
    values |= variables.of_job(instance, project, job, user)
    hidden = variables.secrets_of_job(instance, project, job)
    given = dict(job.variables) | dict(pipeline.variables)
    for row in before:
        given |= dict(row.dotenv)
    tokens = idtokens.of_job(instance, job, pipeline, project, user)
    rows = [_row(name, value, public=True) for name, value in values.items()]
    rows += [_row(name, value, public=False) for name, value in {**hidden, **tokens}.items()]
    return rows + [_row(name, value, public=False) for name, value in given.items()]


def _row(name: str, value: str, *, public: bool) -> dict[str, object]:
    return {"key": name, "value": value, "public": public, "file": False, "masked": name in _MASKED, "raw": False}


def _steps(job: Job) -> list[dict[str, object]]:
    steps: list[dict[str, object]] = [
        {
            "name": "script",
            "script": list(job.script),
            "timeout": job.timeout_seconds,
            "when": "on_success",
            "allow_failure": False,
        }
    ]
    if job.after_script:
        steps.append(
            {
                "name": "after_script",
                "script": list(job.after_script),
                "timeout": job.timeout_seconds,
                "when": "always",
                "allow_failure": True,
            }
        )
    return steps


def _artifacts(job: Job) -> list[dict[str, object]]:
    rules = job.artifact_rules or {}
    rows: list[dict[str, object]] = []
    if rules.get("paths") or rules.get("untracked"):
        rows.append(
            {
                "name": rules.get("name") or "",
                "untracked": bool(rules.get("untracked")),
                "paths": _listed(rules.get("paths")),
                "exclude": _listed(rules.get("exclude")),
                "when": rules.get("when") or "on_success",
                "expire_in": rules.get("expire_in") or "30 days",
                "artifact_type": "archive",
                "artifact_format": "zip",
            }
        )
    reports = rules.get("reports")
    if isinstance(reports, dict) and reports.get("dotenv"):
        rows.append(
            {
                "name": ".env",
                "paths": _listed(reports["dotenv"]),
                "when": "always",
                "expire_in": rules.get("expire_in") or "30 days",
                "artifact_type": "dotenv",
                "artifact_format": "gzip",
            }
        )
    return rows


def _listed(value: object) -> list[str]:
    if isinstance(value, list | tuple):
        return [str(row) for row in value]
    return [str(value)] if value else []


def _credentials(instance: Instance, job: Job, project: Project) -> list[dict[str, object]]:
    if not variables.of_registry(instance, project):
        return []
    address = instance.registry_host
    return [{"type": "registry", "url": address, "username": "gitlab-ci-token", "password": job.token}]


def _archive(job: Job) -> bool:
    return any(row.file_type == "archive" for row in job.artifacts)


def _dependency(job: Job) -> dict[str, object]:
    archive = next(row for row in job.artifacts if row.file_type == "archive")
    return {
        "id": job.id,
        "token": job.token,
        "name": job.name,
        "artifacts_file": {"filename": archive.filename, "size": archive.size_bytes},
    }
