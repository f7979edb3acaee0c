"""Project hooks and their deliveries."""

from __future__ import annotations

import json
import uuid
from urllib.parse import urlsplit

import flask

from spawner.testing.gitlab import web
from spawner.testing.gitlab.hooks import delivery, payloads
from spawner.testing.gitlab.hooks.events import TITLES
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Delivery, Hook, Job, Level, Pipeline, Project, Push, User
from spawner.testing.gitlab.rest import paging, shapes

blueprint = flask.Blueprint("hooks", __name__)

_EVENTS = (
    "push_events",
    "tag_push_events",
    "merge_requests_events",
    "repository_update_events",
    "issues_events",
    "confidential_issues_events",
    "note_events",
    "confidential_note_events",
    "pipeline_events",
    "wiki_page_events",
    "deployment_events",
    "feature_flag_events",
    "job_events",
    "releases_events",
    "emoji_events",
    "milestone_events",
    "resource_access_token_events",
    "vulnerability_events",
)


@blueprint.get("/projects/<key:project>/hooks")
def listing(project: str) -> flask.Response:
    """Answer a project's hooks."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    return paging.listed(web.here().store.all(Hook, lambda row: row.project_id == found.id), _shape)


@blueprint.post("/projects/<key:project>/hooks")
def create(project: str) -> flask.Response:
    """Make a hook; push events are on unless said otherwise."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    given = web.parameters()
    url = _checked_url(web.needed("url"))
    wanted = frozenset(name for name in _EVENTS if web.flag(name, default=name == "push_events"))
    with web.here().store as store:
        hook = store.put(
            Hook(
                id=store.next_id(Hook),
                project_id=found.id,
                url=url,
                name=web.text("name"),
                description=web.text("description"),
                token=web.text("token"),
                signing_token=web.text("signing_token"),
                events=wanted,
                branch_filter=web.text("push_events_branch_filter"),
                custom_headers=_custom_headers(given.get("custom_headers")),
                enable_ssl_verification=web.flag("enable_ssl_verification", default=True),
                created_at=now(),
            )
        )
    return web.answer(_shape(hook), 201)


@blueprint.get("/projects/<key:project>/hooks/<int:hook>")
def one(project: str, hook: int) -> flask.Response:
    """Answer a hook."""
    return web.answer(_shape(_hook(project, hook)))


@blueprint.put("/projects/<key:project>/hooks/<int:hook>")
def change(project: str, hook: int) -> flask.Response:
    """Change a hook; what is not named stays."""
    found = _hook(project, hook)
    given = web.parameters()
    changed: dict[str, object] = {
        "events": frozenset(name for name in _EVENTS if web.flag(name, default=name in found.events)),
        "enable_ssl_verification": web.flag("enable_ssl_verification", default=found.enable_ssl_verification),
    }
    for name in ("token", "signing_token", "name", "description"):
        if name in given:
            changed[name] = given[name] or None
    if given.get("url"):
        changed["url"] = _checked_url(str(given["url"]))
    if "push_events_branch_filter" in given:
        changed["branch_filter"] = given["push_events_branch_filter"] or None
    if "custom_headers" in given:
        changed["custom_headers"] = _custom_headers(given["custom_headers"])
    return web.answer(_shape(web.here().store.change(found, **changed)))


@blueprint.delete("/projects/<key:project>/hooks/<int:hook>")
def remove(project: str, hook: int) -> flask.Response:
    """Remove a hook."""
    web.here().store.drop(_hook(project, hook))
    return flask.Response(status=204)


@blueprint.get("/projects/<key:project>/hooks/<int:hook>/events")
def deliveries(project: str, hook: int) -> flask.Response:
    """Answer what was sent to a hook, newest first."""
    found = _hook(project, hook)
    wanted = web.several("status")
    rows = web.here().store.all(Delivery, lambda row: row.hook_id == found.id and _has_status(row, wanted))
    return paging.listed(rows[::-1], _delivery)


@blueprint.post("/projects/<key:project>/hooks/<int:hook>/events/<int:delivery_id>/resend")
def resend(project: str, hook: int, delivery_id: int) -> flask.Response:
    """Send an event again, with the same idempotency key."""
    found = _hook(project, hook)
    sent = web.here().store.get(Delivery, delivery_id)
    if sent is None or sent.hook_id != found.id:
        web.not_found()
    keys = (sent.event_uuid, sent.idempotency_key)
    again = delivery.send(web.here(), found, sent.trigger, sent.body, keys)
    return web.answer({"response_status": again.response_status}, 201)


@blueprint.post("/projects/<key:project>/hooks/<int:hook>/test/<key:trigger>")
def test(project: str, hook: int, trigger: str) -> flask.Response:
    """Send a hook an event made from the project's newest data; a 2xx wakes a resting hook."""
    found = _hook(project, hook)
    if trigger not in TITLES:
        web.invalid("trigger does not have a valid value")
    body = json.dumps(_sample(web.project_for(project), trigger))
    sent = delivery.send(web.here(), found, trigger, body, (str(uuid.uuid4()), str(uuid.uuid4())))
    if not sent.response_status.isdigit() or int(sent.response_status) >= 400:  # noqa: PLR2004 - an error answer
        raise web.APIError(422, {"message": sent.response_body or sent.response_status})
    return web.answer({"message": "201 Created"}, 201)


def _hook(project: str, identifier: int) -> Hook:
    owner = web.project_for(project, at_least=Level.MAINTAINER)
    found = web.here().store.get(Hook, identifier)
    if found is None or found.project_id != owner.id:
        web.not_found()
    return found


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise web.APIError(422, {"error": "Invalid url given"})
    return url


def _custom_headers(rows: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(rows, list):
        return ()
    return tuple((str(row["key"]), str(row["value"])) for row in rows if isinstance(row, dict))


def _shape(row: Hook) -> shapes.Shape:
    return {
        "id": row.id,
        "url": row.url,
        "name": row.name,
        "description": row.description,
        "created_at": shapes.moment(row.created_at),
        **{name: name in row.events for name in _EVENTS},
        "enable_ssl_verification": row.enable_ssl_verification,
        "alert_status": delivery.alert_status(row),
        "disabled_until": shapes.moment(row.disabled_until),
        "url_variables": [],
        "push_events_branch_filter": row.branch_filter,
        "branch_filter_strategy": "wildcard" if row.branch_filter else "all_branches",
        "custom_webhook_template": None,
        "custom_headers": [{"key": key} for key, _ in row.custom_headers],
        "project_id": row.project_id,
        "token_present": row.token is not None,
        "signing_token_present": row.signing_token is not None,
    }


def _has_status(row: Delivery, wanted: tuple[str, ...]) -> bool:
    if not wanted:
        return True
    words = {"successful": "2", "client_failure": "4", "server_failure": "5"}
    return row.response_status in wanted or any(row.response_status.startswith(words.get(word, "x")) for word in wanted)


def _delivery(row: Delivery) -> shapes.Shape:
    hidden = {"X-Gitlab-Token"}
    return {
        "id": row.id,
        "url": row.url,
        "trigger": row.trigger.removesuffix("_events") + "_hooks",
        "request_headers": {key: "[REDACTED]" if key in hidden else value for key, value in row.request_headers},
        "request_data": json.loads(row.body),
        "response_headers": dict(row.response_headers),
        "response_body": row.response_body,
        "execution_duration": round(row.duration_seconds, 6),
        "response_status": row.response_status,
        "created_at": shapes.moment(row.created_at),
    }


def _sample(project: Project, trigger: str) -> dict[str, object]:
    store = web.here().store
    if trigger == "job_events":
        jobs = store.all(Job, lambda row: row.project_id == project.id)
        if jobs:
            return payloads.job(web.here(), jobs[-1])
    elif trigger == "pipeline_events":
        pipelines = store.all(Pipeline, lambda row: row.project_id == project.id)
        if pipelines:
            return payloads.pipeline(web.here(), pipelines[-1])
    else:
        return _sample_push(project, trigger)
    raise web.APIError(422, {"message": "Ensure the project has CI jobs."})


def _sample_push(project: Project, trigger: str) -> dict[str, object]:
    repository = web.here().repository(project)
    folder = "refs/tags/" if trigger == "tag_push_events" else "refs/heads/"
    refs = {ref: sha for ref, sha in repository.refs().items() if ref.startswith(folder)}
    if not refs:
        raise web.APIError(422, {"message": "Ensure the project has at least one commit."})
    ref, sha = next(iter(refs.items()))
    push = Push(
        id=0,
        project_id=project.id,
        user_id=web.caller().id,
        ref=ref,
        before=sha,
        after=sha,
        options=(),
        created_at=now(),
    )
    user: User = web.caller()
    return payloads.push(web.here(), project, user, push)
