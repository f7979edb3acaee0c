"""Environments and deployments, as the jobs of pipelines make them.

Source: https://docs.gitlab.com/api/environments/ and https://docs.gitlab.com/api/deployments/ (18.x).
Promises: nothing is kept but the jobs themselves: a job with `environment` whose action is `start` is a deployment,
its address counts only when it succeeded, and a later job with the action `stop` ends the environment; `prepare`,
`verify` and `access` make an environment and deploy nothing. `on_stop` is played where somebody stops it.
Must not know: when jobs run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import flask

from spawner.testing.gitlab import web
from spawner.testing.gitlab.ci import lifecycle, variables
from spawner.testing.gitlab.records import Job, Level, Pipeline, Project, Status, User
from spawner.testing.gitlab.rest import paging, pipelines, shapes
from spawner.testing.gitlab.runner.job import Variable, expanded, filled

if TYPE_CHECKING:
    from collections.abc import Sequence

blueprint = flask.Blueprint("environments", __name__)

_DEPLOYED = {Status.SUCCESS: "success", Status.FAILED: "failed", Status.CANCELED: "canceled", Status.RUNNING: "running"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """A job and the name and address of its environment, variables filled in."""

    job: Job
    pipeline: Pipeline
    name: str
    url: str | None
    action: str


@blueprint.get("/projects/<key:project>/environments")
def listing(project: str) -> flask.Response:
    """Answer a project's environments, by name, by a part of it, or by state."""
    found = pipelines.ci_for(project)
    name, part, state = web.text("name"), web.text("search"), web.text("states")
    rows = [shape for jobs in _environments(found).values() if (shape := _shape(jobs))]
    kept = [
        row
        for row in rows
        if name in {None, row["name"]} and (part or "") in str(row["name"]) and state in {None, row["state"]}
    ]
    return paging.listed(kept, lambda row: row)


@blueprint.get("/projects/<key:project>/environments/<int:environment>")
def one(project: str, environment: int) -> flask.Response:
    """Answer an environment."""
    found = pipelines.ci_for(project)
    return web.answer(_shape(_jobs_of(found, environment)))


@blueprint.post("/projects/<key:project>/environments/<int:environment>/stop")
def stop(project: str, environment: int) -> flask.Response:
    """Play the job that the last deployment names for that."""
    found = pipelines.ci_for(project, at_least=Level.DEVELOPER)
    jobs = _jobs_of(found, environment)
    last = [row for row in jobs if row.action == "start" and row.job.status is Status.SUCCESS][-1:]
    wanted = {str((row.job.environment or {}).get("on_stop")) for row in last}
    for row in lifecycle.latest_jobs(web.here(), last[0].pipeline.id) if last else []:
        if row.name in wanted and row.status is Status.MANUAL:
            lifecycle.play(web.here(), row, web.caller(), ())
    return web.answer(_shape(_jobs_of(found, environment)))


@blueprint.get("/projects/<key:project>/deployments")
def deployments(project: str) -> flask.Response:
    """Answer a project's deployments, oldest first, of one environment or with one status."""
    found = pipelines.ci_for(project)
    name, status = web.text("environment"), web.text("status")
    rows = [
        shape
        for jobs in _environments(found).values()
        for row in jobs
        if row.action == "start"
        and name in {None, row.name}
        and status in {None, (shape := _deployment(row, jobs))["status"]}
    ]
    return paging.listed(sorted(rows, key=lambda row: int(str(row["id"]))), lambda row: row)


def _environments(project: Project) -> dict[str, list[_Named]]:
    """Return the jobs that deploy or stop, by the environment's name, oldest first."""
    rows = web.here().store.all(Job, lambda row: row.project_id == project.id and row.environment is not None)
    by_name: dict[str, list[_Named]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        named = _named(project, row)
        if named is not None:
            by_name.setdefault(named.name, []).append(named)
    return {name: jobs for name, jobs in by_name.items() if any(row.action != "stop" for row in jobs)}


def _named(project: Project, job: Job) -> _Named | None:
    instance, declared = web.here(), job.environment or {}
    action = str(declared.get("action") or "start")
    pipeline, user = instance.store.get(Pipeline, job.pipeline_id), instance.store.get(User, job.user_id)
    if pipeline is None or user is None:
        return None
    known = variables.of_pipeline(instance, project, pipeline, user) | variables.of_job(instance, project, job, user)
    given = known | dict(job.variables) | dict(pipeline.variables) | dict(job.dotenv)
    rows = [Variable(key=key, value=value, file=False, masked=False, raw=False) for key, value in given.items()]
    values = expanded(rows, extra={})
    url = filled(str(declared["url"]), values) if declared.get("url") else None
    return _Named(
        job=job, pipeline=pipeline, name=filled(str(declared.get("name") or ""), values), url=url, action=action
    )


def _jobs_of(project: Project, identifier: int) -> list[_Named]:
    found = next((jobs for jobs in _environments(project).values() if _first(jobs).id == identifier), None)
    if found is None:
        web.not_found()
    return found


def _first(jobs: Sequence[_Named]) -> Job:
    return next(row.job for row in jobs if row.action != "stop")


def _shape(jobs: Sequence[_Named]) -> shapes.Shape:
    done = sorted((row for row in jobs if row.job.status is Status.SUCCESS), key=_finished_at)
    deployed = [row for row in done if row.action == "start"]
    last = deployed[-1] if deployed else None
    first = _first(jobs)
    return {
        "id": first.id,
        "name": jobs[0].name,
        "slug": variables.slug(jobs[0].name),
        "external_url": last.url if last else None,
        "state": "stopped" if done and done[-1].action == "stop" else "available",
        "tier": str((first.environment or {}).get("deployment_tier") or "other"),
        "created_at": shapes.moment(first.created_at),
        "updated_at": shapes.moment((done[-1].job if done else first).updated_at),
        "last_deployment": _deployment(last, jobs) if last else None,
    }


def _finished_at(row: _Named) -> tuple[str, int]:
    return shapes.moment(row.job.finished_at) or "", row.job.id


def _deployment(row: _Named, jobs: Sequence[_Named]) -> shapes.Shape:
    instance, job = web.here(), row.job
    started = [each.job.id for each in jobs if each.action == "start"]
    return {
        "id": job.id,
        "iid": started.index(job.id) + 1,
        "ref": row.pipeline.ref,
        "sha": row.pipeline.sha,
        "status": _DEPLOYED.get(job.status, "created"),
        "created_at": shapes.moment(job.created_at),
        "updated_at": shapes.moment(job.updated_at),
        "user": shapes.user_basic(instance, instance.store.get(User, job.user_id)),
        "environment": {"id": _first(jobs).id, "name": row.name, "external_url": row.url},
        "deployable": shapes.job(instance, job),
    }
