"""Hooks of projects, and of groups where the edition has them, with their deliveries.

Source: https://docs.gitlab.com/api/project_webhooks/ and https://docs.gitlab.com/api/group_webhooks/ (18.x).
"""

from __future__ import annotations

import base64
import json
import uuid
from urllib.parse import urlsplit

import flask

from spawner.testing.gitlab import web
from spawner.testing.gitlab.hooks import delivery, payloads
from spawner.testing.gitlab.hooks.events import TITLES
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Delivery, Group, Hook, Job, Level, Pipeline, Project, Push, User
from spawner.testing.gitlab.rest import members, paging, shapes

blueprint = flask.Blueprint("hooks", __name__)

_KEY_PREFIX = "whsec_"  # https://www.standardwebhooks.com: the key is what follows, in base64
_KEY_BYTES = 32

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


@blueprint.get("/<any(projects,groups):source>/<key:key>/hooks")
def listing(source: str, key: str) -> flask.Response:
    """Answer the hooks of a project or a group."""
    owner = _owner(source, key)
    return paging.listed(web.here().store.all(Hook, lambda row: _is_of(row, owner)), _shape)


@blueprint.post("/<any(projects,groups):source>/<key:key>/hooks")
def create(source: str, key: str) -> flask.Response:
    """Make a hook; push events are on unless said otherwise."""
    owner = _owner(source, key)
    given = web.parameters()
    url = _checked_url(web.needed("url"))
    wanted = frozenset(name for name in _EVENTS if web.flag(name, default=name == "push_events"))
    with web.here().store as store:
        hook = store.put(
            Hook(
                id=store.next_id(Hook),
                project_id=owner.id if isinstance(owner, Project) else 0,
                group_id=owner.id if isinstance(owner, Group) else None,
                url=url,
                name=web.text("name"),
                description=web.text("description"),
                token=web.text("token"),
                signing_token=_checked_key(web.text("signing_token")),
                events=wanted,
                branch_filter=web.text("push_events_branch_filter"),
                custom_headers=_custom_headers(given.get("custom_headers")),
                enable_ssl_verification=web.flag("enable_ssl_verification", default=True),
                created_at=now(),
            )
        )
    return web.answer(_shape(hook), 201)


@blueprint.get("/<any(projects,groups):source>/<key:key>/hooks/<int:hook>")
def one(source: str, key: str, hook: int) -> flask.Response:
    """Answer a hook."""
    return web.answer(_shape(_hook(source, key, hook)))


@blueprint.put("/<any(projects,groups):source>/<key:key>/hooks/<int:hook>")
def change(source: str, key: str, hook: int) -> flask.Response:
    """Change a hook; what is not named stays."""
    found = _hook(source, key, hook)
    given = web.parameters()
    changed: dict[str, object] = {
        "events": frozenset(name for name in _EVENTS if web.flag(name, default=name in found.events)),
        "enable_ssl_verification": web.flag("enable_ssl_verification", default=found.enable_ssl_verification),
    }
    for name in ("token", "signing_token", "name", "description"):
        if name in given:
            changed[name] = given[name] or None
    _checked_key(web.text("signing_token"))
    if given.get("url"):
        changed["url"] = _checked_url(str(given["url"]))
    if "push_events_branch_filter" in given:
        changed["branch_filter"] = given["push_events_branch_filter"] or None
    if "custom_headers" in given:
        changed["custom_headers"] = _custom_headers(given["custom_headers"])
    return web.answer(_shape(web.here().store.change(found, **changed)))


@blueprint.delete("/<any(projects,groups):source>/<key:key>/hooks/<int:hook>")
def remove(source: str, key: str, hook: int) -> flask.Response:
    """Remove a hook."""
    web.here().store.drop(_hook(source, key, hook))
    return flask.Response(status=204)


@blueprint.get("/<any(projects,groups):source>/<key:key>/hooks/<int:hook>/events")
def deliveries(source: str, key: str, hook: int) -> flask.Response:
    """Answer what was sent to a hook, newest first."""
    found = _hook(source, key, hook)
    wanted = web.several("status")
    rows = web.here().store.all(Delivery, lambda row: row.hook_id == found.id and _has_status(row, wanted))
    return paging.listed(rows[::-1], _delivery)


@blueprint.post("/<any(projects,groups):source>/<key:key>/hooks/<int:hook>/events/<int:delivery_id>/resend")
def resend(source: str, key: str, hook: int, delivery_id: int) -> flask.Response:
    """Send an event again, with the same idempotency key."""
    found = _hook(source, key, hook)
    sent = web.here().store.get(Delivery, delivery_id)
    if sent is None or sent.hook_id != found.id:
        web.not_found()
    keys = (sent.event_uuid, sent.idempotency_key)
    again = delivery.send(web.here(), found, sent.trigger, sent.body, keys)
    return web.answer({"response_status": again.response_status}, 201)


@blueprint.post("/<any(projects,groups):source>/<key:key>/hooks/<int:hook>/test/<key:trigger>")
def test(source: str, key: str, hook: int, trigger: str) -> flask.Response:
    """Send a hook an event made from the project's newest data; a 2xx wakes a resting hook."""
    found = _hook(source, key, hook)
    if trigger not in TITLES:
        web.invalid("trigger does not have a valid value")
    body = json.dumps(_sample(_sampled(_owner(source, key)), trigger))
    sent = delivery.send(web.here(), found, trigger, body, (str(uuid.uuid4()), str(uuid.uuid4())))
    if not sent.response_status.isdigit() or int(sent.response_status) >= 400:  # noqa: PLR2004 - an error answer
        raise web.APIError(422, {"message": sent.response_body or sent.response_status})
    return web.answer({"message": "201 Created"}, 201)


def _owner(source: str, key: str) -> Project | Group:
    """Return what hooks hang on; a free edition has no hooks of groups, as if the address did not exist."""
    if source == "projects":
        return web.project_for(key, at_least=Level.MAINTAINER)
    if not web.here().limits.is_premium:
        raise web.APIError(404, {"error": "404 Not Found"})
    return members.group_for(key, at_least=Level.OWNER)


def _is_of(row: Hook, owner: Project | Group) -> bool:
    if isinstance(owner, Group):
        return row.group_id == owner.id
    return row.group_id is None and row.project_id == owner.id


def _hook(source: str, key: str, identifier: int) -> Hook:
    owner = _owner(source, key)
    found = web.here().store.get(Hook, identifier)
    if found is None or not _is_of(found, owner):
        web.not_found()
    return found


def _sampled(owner: Project | Group) -> Project:
    """Return the project that a test's event is made from."""
    if isinstance(owner, Project):
        return owner
    found = web.here().store.first(Project, lambda row: row.path.startswith(f"{owner.path}/"))
    if found is None:
        raise web.APIError(422, {"message": "Ensure the group has a project with commits."})
    return found


def _checked_key(key: str | None) -> str | None:
    """Return a signing key that can sign: `whsec_` and 32 bytes in base64."""
    if key is None:
        return None
    try:
        raw = base64.b64decode(key.removeprefix(_KEY_PREFIX), validate=True)
    except ValueError:
        raw = b""
    if not key.startswith(_KEY_PREFIX) or len(raw) != _KEY_BYTES:
        raise web.APIError(422, {"message": {"signing_token": ["must be whsec_ and 32 bytes in Base64"]}})
    return key


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
        **({"group_id": row.group_id} if row.group_id else {"project_id": row.project_id}),
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
