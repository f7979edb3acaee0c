"""Pipelines and commit statuses."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

import flask

from spawner.testing.gitlab import access, protection, web
from spawner.testing.gitlab.ci import create, lifecycle
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import FINISHED, Job, Level, Pipeline, Project, Status, User, Visibility
from spawner.testing.gitlab.repository import ZERO_SHA
from spawner.testing.gitlab.rest import paging, repositories, shapes

if TYPE_CHECKING:
    from collections.abc import Callable

blueprint = flask.Blueprint("pipelines", __name__)

_SCOPES: dict[str, Callable[[Pipeline], bool]] = {
    "running": lambda row: row.status is Status.RUNNING,
    "pending": lambda row: row.status is Status.PENDING,
    "finished": lambda row: row.status in FINISHED,
    "branches": lambda row: not row.tag,
    "tags": lambda row: row.tag,
}
_ORDERS = frozenset({"id", "status", "ref", "updated_at", "user_id"})


def ci_for(key: str, *, at_least: Level = Level.NONE) -> Project:
    """Return a project whose pipelines the caller may see.

    Raises:
        APIError: 404 for a project one may not see, 403 for one whose pipelines one may not.
    """
    found = web.project_for(key, at_least=at_least)
    user = web.actor().user
    if found.settings.get("builds_access_level") == "disabled":
        web.forbidden()
    if access.level(web.here(), found, user) >= Level.REPORTER:
        return found
    if found.visibility is Visibility.PRIVATE or not found.settings.get("public_jobs", True):
        web.forbidden()
    return found


def pipeline_for(key: str, identifier: int, *, at_least: Level = Level.NONE) -> tuple[Project, Pipeline]:
    """Return a project and one of its pipelines.

    Raises:
        APIError: 404 or 403.
    """
    project = ci_for(key, at_least=at_least)
    found = web.here().store.get(Pipeline, identifier)
    if found is None or found.project_id != project.id:
        web.not_found()
    return project, found


@blueprint.get("/projects/<key:project>/pipelines")
def listing(project: str) -> flask.Response:
    """Answer pipelines, newest first."""
    found = ci_for(project)
    rows = web.here().store.all(Pipeline, lambda row: row.project_id == found.id and _matches(row))
    order = web.text("order_by") or "id"
    if order not in _ORDERS:
        web.invalid("order_by does not have a valid value")
    rows.sort(key=lambda row: (getattr(row, order), row.id), reverse=web.text("sort") != "asc")
    if paging.wants_keyset():
        return paging.keyset(rows, _basic, key=lambda row: row.id)
    return paging.listed(rows, _basic)


@blueprint.get("/projects/<key:project>/pipelines/latest")
def latest(project: str) -> flask.Response:
    """Answer the newest pipeline of a ref's newest commit; 403 when there is none, as GitLab has it."""
    found = ci_for(project)
    ref = web.text("ref") or found.default_branch
    sha = web.here().repository(found).resolve(ref)
    rows = [row for row in shapes.pipelines_of_commit(web.here(), found, sha or "") if row.ref == ref]
    if not rows:
        web.forbidden()
    return web.answer(shapes.pipeline(web.here(), rows[-1]))


@blueprint.get("/projects/<key:project>/pipelines/<int:pipeline>")
def one(project: str, pipeline: int) -> flask.Response:
    """Answer a pipeline."""
    return web.answer(shapes.pipeline(web.here(), pipeline_for(project, pipeline)[1]))


@blueprint.get("/projects/<key:project>/pipelines/<int:pipeline>/jobs")
def jobs(project: str, pipeline: int) -> flask.Response:
    """Answer a pipeline's jobs, newest first; retried ones only when asked for."""
    _, found = pipeline_for(project, pipeline)
    with_retried = web.flag("include_retried")
    rows = web.here().store.all(
        Job,
        lambda row: row.pipeline_id == found.id and _is_build(row) and (with_retried or not row.retried),
    )
    return paging.listed(in_scope(rows), lambda row: shapes.job(web.here(), row))


@blueprint.get("/projects/<key:project>/pipelines/<int:pipeline>/bridges")
def bridges(project: str, pipeline: int) -> flask.Response:
    """Answer trigger jobs with the pipelines they have started, newest first."""
    _, found = pipeline_for(project, pipeline)
    rows = web.here().store.all(
        Job, lambda row: row.pipeline_id == found.id and row.trigger is not None and not row.retried
    )
    return paging.listed(in_scope(rows), lambda row: shapes.bridge(web.here(), row))


@blueprint.get("/projects/<key:project>/pipelines/<int:pipeline>/variables")
def given_variables(project: str, pipeline: int) -> flask.Response:
    """Answer the variables that a pipeline was given."""
    _, found = pipeline_for(project, pipeline, at_least=Level.DEVELOPER)
    rows = [{"key": key, "value": value, "variable_type": "env_var", "raw": False} for key, value in found.variables]
    return web.answer(rows)


@blueprint.post("/projects/<key:project>/pipelines/<int:pipeline>/retry")
def retry(project: str, pipeline: int) -> flask.Response:
    """Retry what failed or was canceled."""
    _, found = pipeline_for(project, pipeline, at_least=Level.DEVELOPER)
    with web.here().store as store:
        for job in lifecycle.latest_jobs(web.here(), found.id):
            if job.status in {Status.FAILED, Status.CANCELED} and not job.external:
                lifecycle.retry(web.here(), job, web.caller().id)
        found = store.get(Pipeline, found.id) or found
    return web.answer(shapes.pipeline(web.here(), found), 201)


@blueprint.post("/projects/<key:project>/pipelines/<int:pipeline>/cancel")
def cancel(project: str, pipeline: int) -> flask.Response:
    """Cancel what has not finished."""
    _, found = pipeline_for(project, pipeline, at_least=Level.DEVELOPER)
    return web.answer(shapes.pipeline(web.here(), lifecycle.cancel_pipeline(web.here(), found)), 201)


@blueprint.delete("/projects/<key:project>/pipelines/<int:pipeline>")
def remove(project: str, pipeline: int) -> flask.Response:
    """Remove a pipeline with its jobs."""
    _, found = pipeline_for(project, pipeline, at_least=Level.OWNER)
    with web.here().store as store:
        for job in store.all(Job, lambda row: row.pipeline_id == found.id):
            store.drop(job)
        store.drop(found)
    return flask.Response(status=204)


@blueprint.post("/projects/<key:project>/pipeline")
def start(project: str) -> flask.Response:
    """Make a pipeline for the newest commit of a branch or tag."""
    found = ci_for(project, at_least=Level.DEVELOPER)
    ref, user = web.needed("ref"), web.caller()
    repository = web.here().repository(found)
    refs = repository.refs()
    is_tag = f"refs/heads/{ref}" not in refs
    sha = repository.resolve(f"refs/{'tags' if is_tag else 'heads'}/{ref}")
    if sha is None:
        _no_pipeline("Reference not found")
    if not is_tag and not protection.may_push(web.here(), found, user, f"refs/heads/{ref}"):
        _no_pipeline(f"You do not have sufficient permission to run a pipeline on '{ref}'.")
    given = tuple((str(row["key"]), str(row.get("value") or "")) for row in web.parameters().get("variables") or [])
    order = create.Order(
        project=found, user=user, ref=ref, is_tag=is_tag, sha=sha, before_sha=ZERO_SHA, source="api", given=given
    )
    try:
        made = create.by_hand(web.here(), order)
    except create.NoPipelineError as exc:
        _no_pipeline(str(exc))
    return web.answer(shapes.pipeline(web.here(), made), 201)


@blueprint.get("/projects/<key:project>/repository/commits/<key:sha>/statuses")
def statuses(project: str, sha: str) -> flask.Response:
    """Answer jobs and external statuses of a commit; the latest of each name unless `all`."""
    found = ci_for(project)
    commit = repositories.commit_for(web.here().repository(found), sha)
    wanted = {name: web.text(name) for name in ("ref", "stage", "name", "pipeline_id")}
    rows = []
    for pipeline in shapes.pipelines_of_commit(web.here(), found, commit.id):
        facts = {"ref": pipeline.ref, "pipeline_id": str(pipeline.id)}
        own = web.here().store.all(Job, lambda row, parent=pipeline.id: row.pipeline_id == parent)  # type: ignore[misc]
        for job in own:
            known = facts | {"stage": job.stage, "name": job.name}
            if all(value is None or known[name] == value for name, value in wanted.items()):
                rows.append(job)
    if not web.flag("all"):
        rows = [row for row in rows if not row.retried]
    falling = web.text("sort") == "desc"
    order = web.text("order_by") or "id"
    if order not in {"id", "pipeline_id"}:
        web.invalid("order_by does not have a valid value")
    rows.sort(key=lambda row: (getattr(row, order), row.id), reverse=falling)
    return paging.listed(rows, lambda row: shapes.commit_status(web.here(), row))


@blueprint.post("/projects/<key:project>/statuses/<key:sha>")
def set_status(project: str, sha: str) -> flask.Response:
    """Set an external status of a commit, making a pipeline for it when there is none."""
    found = web.project_for(project, at_least=Level.DEVELOPER)
    commit = repositories.commit_for(web.here().repository(found), sha)
    state = web.needed("state")
    if state not in {"pending", "running", "success", "failed", "canceled", "skipped"}:
        web.invalid("state does not have a valid value")
    name = web.text("name") or web.text("context") or "default"
    user = web.caller()
    with web.here().store as store:
        pipeline = _pipeline_of_status(found, commit.id, user)
        named = store.all(Job, lambda row: row.pipeline_id == pipeline.id and row.name == name and row.external)
        job = next((row for row in named if row.status not in FINISHED), None)
        if job is None:  # The first of its name, or one more after the last has finished, which it replaces.
            for row in named:
                store.change(row, retried=True)
            job = store.put(_external(pipeline, name, store.next_id(Job), user))
        elif job.status.value == state:
            web.bad_request(f"Cannot transition status via :{_verb(state)} from :{state}")
        job = store.change(job, target_url=web.text("target_url"), description=web.text("description"))
        job = lifecycle.move(web.here(), job, Status(state), reason="script_failure" if state == "failed" else None)
    return web.answer(shapes.commit_status(web.here(), job), 201)


def _is_build(row: Job) -> bool:
    return not row.external and row.trigger is None


def in_scope(rows: list[Job]) -> list[Job]:
    """Return the jobs of the asked scopes, newest first."""
    scopes = check_scopes()
    kept = [row for row in rows if not scopes or row.status in scopes]
    return sorted(kept, key=lambda row: -row.id)


def check_scopes() -> set[Status]:
    """Return the asked statuses.

    Raises:
        APIError: 400 for a word that is no status.
    """
    words = web.several("scope")
    if set(words) - set(Status):
        web.invalid("Scope contains invalid value(s)")
    return {Status(word) for word in words}


def _basic(row: Pipeline) -> shapes.Shape:
    return shapes.pipeline_basic(web.here(), row)


def _matches(row: Pipeline) -> bool:
    exact = {"sha": row.sha, "ref": row.ref, "status": row.status.value, "source": row.source}
    for name, present in exact.items():
        wanted = web.text(name)
        if wanted is not None and wanted != present:
            return False
    # A child pipeline is listed only when it is asked for by its source.
    if row.source == "parent_pipeline" and web.text("source") != "parent_pipeline":
        return False
    scope = web.text("scope")
    if scope is not None:
        if scope not in _SCOPES:
            web.invalid("scope does not have a valid value")
        if not _SCOPES[scope](row):
            return False
    username = web.text("username")
    user = web.here().store.get(User, row.user_id)
    if username is not None and (user is None or user.username != username):
        return False
    if web.text("yaml_errors") is not None and web.flag("yaml_errors") != bool(row.yaml_errors):
        return False
    return _is_between(row.updated_at, "updated") and _is_between(row.created_at, "created")


def _is_between(moment: datetime, word: str) -> bool:
    after, before = _time(f"{word}_after"), _time(f"{word}_before")
    return (after is None or moment > after) and (before is None or moment < before)


def _time(name: str) -> datetime | None:
    value = web.text(name)
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        web.invalid(f"{name} is invalid")
    return found if found.tzinfo else found.replace(tzinfo=now().tzinfo)


def _no_pipeline(sentence: str) -> NoReturn:
    web.bad_request({"base": [sentence]})


def _pipeline_of_status(project: Project, sha: str, user: User) -> Pipeline:
    store = web.here().store
    wanted = web.whole("pipeline_id")
    rows = store.all(Pipeline, lambda row: row.project_id == project.id and row.sha == sha)
    if wanted is not None:
        rows = [row for row in rows if row.id == wanted]
        if not rows:
            web.not_found("Pipeline")
    if rows:
        return rows[-1]
    names = web.here().repository(project).containing(sha, "heads")
    ref = web.text("ref") or next(iter(names), None)
    if ref is None:
        web.not_found("References for commit")
    order = create.Order(
        project=project, user=user, ref=ref, is_tag=False, sha=sha, before_sha=ZERO_SHA, source="external"
    )
    return create.for_external_status(web.here(), order)


def _external(pipeline: Pipeline, name: str, identifier: int, user: User) -> Job:
    return Job(
        id=identifier,
        pipeline_id=pipeline.id,
        project_id=pipeline.project_id,
        name=name,
        stage="external",
        stage_index=1_000_000,
        status=Status.PREPARING,
        user_id=user.id,
        created_at=now(),
        updated_at=now(),
        external=True,
    )


def _verb(state: str) -> str:
    return {"pending": "enqueue", "running": "run", "failed": "drop", "canceled": "cancel"}.get(state, state)
