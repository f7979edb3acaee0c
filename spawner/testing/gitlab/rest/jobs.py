"""Jobs: show, log, play, retry, cancel, erase, artifacts."""

from __future__ import annotations

import flask

from spawner.testing.gitlab import protection, web
from spawner.testing.gitlab.ci import lifecycle, traces
from spawner.testing.gitlab.ci.uploads import drop_artifacts, send_artifact
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import FINISHED, Job, Level, Pipeline, Project, Status
from spawner.testing.gitlab.rest import paging, pipelines, shapes

blueprint = flask.Blueprint("jobs", __name__)

_NOT_RETRYABLE = "403 Forbidden - Job is not retryable"


@blueprint.get("/job")
@web.open_to_jobs
def own() -> flask.Response:
    """Answer the job whose token this is."""
    found = web.actor().job
    if found is None:
        web.not_found()
    return web.answer(shapes.job(web.here(), found))


@blueprint.get("/projects/<key:project>/jobs")
def listing(project: str) -> flask.Response:
    """Answer a project's jobs, newest first; no total is told."""
    found = pipelines.ci_for(project)
    rows = web.here().store.all(Job, lambda row: row.project_id == found.id and not row.external and not row.trigger)
    kept = pipelines.in_scope(rows)
    if paging.wants_keyset():
        return paging.keyset(kept, _shape, key=lambda row: row.id)
    return paging.listed(kept, _shape, counted=False)


@blueprint.get("/projects/<key:project>/jobs/<int:job>")
def one(project: str, job: int) -> flask.Response:
    """Answer a job."""
    return web.answer(_shape(_job(project, job)[1]))


@blueprint.get("/projects/<key:project>/jobs/<int:job>/trace")
def trace(project: str, job: int) -> flask.Response:
    """Answer a job's log so far; empty when there is none."""
    found = _job(project, job)[1]
    response = flask.Response(traces.read(web.here(), found), mimetype="text/plain")
    response.headers["Content-Disposition"] = f'infile; filename="{found.id}.log"'
    return response


@blueprint.post("/projects/<key:project>/jobs/<int:job>/play")
def play(project: str, job: int) -> flask.Response:
    """Start a manual or delayed job."""
    owner, found = _job(project, job, at_least=Level.DEVELOPER)
    _check_ref(owner, found)
    rows = web.parameters().get("job_variables_attributes") or []
    given = tuple((str(row["key"]), str(row.get("value") or "")) for row in rows)
    try:
        played = lifecycle.play(web.here(), found, web.caller(), given)
    except lifecycle.WrongStateError:
        web.bad_request("400 Bad request - Unplayable Job")
    return web.answer(_shape(played))


@blueprint.post("/projects/<key:project>/jobs/<int:job>/retry")
def retry(project: str, job: int) -> flask.Response:
    """Make a new job of the same name."""
    owner, found = _job(project, job, at_least=Level.DEVELOPER)
    _check_ref(owner, found)
    if owner.archived:
        web.forbidden(_NOT_RETRYABLE)
    try:
        fresh = lifecycle.retry(web.here(), found, web.caller().id)
    except lifecycle.WrongStateError:
        web.forbidden(_NOT_RETRYABLE)
    return web.answer(_shape(fresh), 201)


@blueprint.post("/projects/<key:project>/jobs/<int:job>/cancel")
def cancel(project: str, job: int) -> flask.Response:
    """Cancel a job; one that has finished stays as it is. `force` ends one whose runner is still at it."""
    owner, found = _job(project, job, at_least=Level.DEVELOPER)
    _check_ref(owner, found)
    if web.flag("force"):
        web.project_for(project, at_least=Level.MAINTAINER)
        if found.status is not Status.CANCELING:
            raise web.APIError(422, {"message": "Job is not canceling"})
        return web.answer(_shape(lifecycle.move(web.here(), found, Status.CANCELED)), 201)
    return web.answer(_shape(lifecycle.cancel_job(web.here(), found)), 201)


@blueprint.post("/projects/<key:project>/jobs/<int:job>/erase")
def erase(project: str, job: int) -> flask.Response:
    """Remove a finished job's log and artifacts."""
    owner, found = _job(project, job, at_least=Level.DEVELOPER)
    _check_ref(owner, found)
    if found.status not in FINISHED or found.erased_at is not None:
        web.forbidden("403 Forbidden - Job is not erasable!")
    traces.reset(web.here(), found)
    drop_artifacts(web.here(), found)
    return web.answer(_shape(web.here().store.change(found, erased_at=now(), artifacts=())), 201)


@blueprint.get("/projects/<key:project>/jobs/<int:job>/artifacts")
@blueprint.get("/projects/<key:project>/jobs/<int:job>/artifacts/<path:inner>")
@web.open_to_jobs
def artifacts(project: str, job: int, inner: str | None = None) -> flask.Response:
    """Answer a job's archive, or one file of it."""
    return send_artifact(web.here(), _job(project, job)[1], inner)


@blueprint.get("/projects/<key:project>/jobs/artifacts/<key:ref>/download")
@blueprint.get("/projects/<key:project>/jobs/artifacts/<key:ref>/raw/<path:inner>")
@web.open_to_jobs
def artifacts_of_ref(project: str, ref: str, inner: str | None = None) -> flask.Response:
    """Answer the archive of the newest successful job of a name on a ref, or one file of it."""
    found = pipelines.ci_for(project)
    name = web.needed("job")
    store = web.here().store
    parents = {row.id for row in store.all(Pipeline, lambda row: row.project_id == found.id and row.ref == ref)}
    rows = store.all(Job, lambda row: row.pipeline_id in parents and row.name == name and row.status is Status.SUCCESS)
    if not rows:
        web.not_found()
    return send_artifact(web.here(), rows[-1], inner)


def _shape(row: Job) -> shapes.Shape:
    return shapes.job(web.here(), row)


def _job(key: str, identifier: int, *, at_least: Level = Level.NONE) -> tuple[Project, Job]:
    project = pipelines.ci_for(key, at_least=at_least)
    found = web.here().store.get(Job, identifier)
    if found is None or found.project_id != project.id or found.external or found.trigger:
        web.not_found()
    return project, found


def _check_ref(project: Project, job: Job) -> None:
    """Refuse a person who may not push to the job's protected ref."""
    parent = web.here().store.get(Pipeline, job.pipeline_id)
    if (
        parent
        and not parent.tag
        and not protection.may_push(web.here(), project, web.caller(), f"refs/heads/{parent.ref}")
    ):
        web.forbidden()
