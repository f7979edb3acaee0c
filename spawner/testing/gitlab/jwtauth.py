"""`/jwt/auth`: gives registry clients their tokens.

Source: https://docs.gitlab.com/administration/packages/container_registry/ (18.x).
Promises: Basic with a personal, OAuth, job or deploy token; a scope that one may not have is left out silently, with
200; wrong credentials are 403 with the registry's error body. A job may push to its own project only.
Must not know: images.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import TYPE_CHECKING

import flask

from spawner.testing.gitlab import idtokens, images, trust
from spawner.testing.gitlab.access import (
    ANONYMOUS,
    Actor,
    Kind,
    Refusal,
    actor_for_basic,
    actor_for_deploy_token,
    parse_basic,
)
from spawner.testing.gitlab.web import answer, here

if TYPE_CHECKING:
    from spawner.testing.gitlab.records import Project

blueprint = flask.Blueprint("jwt", __name__)

SERVICE = "container_registry"
ISSUER = "omnibus-gitlab-issuer"
_LIFE_SECONDS = 300
_KNOWN_ACTIONS = frozenset({"pull", "push", "delete", "*"})


@blueprint.get("/jwt/auth")
def auth() -> flask.Response:
    """Answer a token for the registry."""
    if flask.request.args.get("service") != SERVICE:
        return flask.Response(status=404)
    actor = _actor()
    if actor is None:
        return _denied()
    wanted = [scope for value in flask.request.args.getlist("scope") for scope in value.split()]
    entries = [entry for entry in (_entry(actor, scope) for scope in wanted) if entry]
    if actor.kind is Kind.ANONYMOUS and not entries:
        return _denied()
    moment = int(time.time())
    claims = {
        "access": entries,
        "jti": str(uuid.uuid4()),
        "aud": SERVICE,
        "sub": actor.user.username if actor.user else actor.deploy.username if actor.deploy else "",
        "iss": ISSUER,
        "iat": moment,
        "nbf": moment - 5,
        "exp": moment + _LIFE_SECONDS,
        "auth_type": actor.kind.value if actor.user or actor.deploy else "none",
    }
    return answer({"token": idtokens.sign(here(), claims, kid=trust.key_id(here().key))})


def _actor() -> Actor | None:
    header = flask.request.headers.get("Authorization", "")
    if not header:
        return ANONYMOUS
    basic = parse_basic(header)
    if basic is None:
        return None
    found = actor_for_deploy_token(here(), *basic) or actor_for_basic(here(), *basic)
    return None if isinstance(found, Refusal) else found


def _denied() -> flask.Response:
    return answer({"errors": [{"code": "DENIED", "message": "access forbidden"}]}, 403)


def _entry(actor: Actor, scope: str) -> dict[str, object] | None:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    project = images.project_of(here(), name)
    if kind != "repository" or project is None or name != name.lower():
        return None
    granted = [action for action in actions.split(",") if action in _KNOWN_ACTIONS and _may(actor, project, action)]
    if not granted:
        return None
    if "push" in granted:
        images.note_repository(here(), project, name)
    meta = {
        "project_path": project.path.lower(),
        "project_id": project.id,
        "root_namespace_id": project.id,
    }
    return {"type": "repository", "name": name, "actions": granted, "meta": meta}


def _may(actor: Actor, project: Project, action: str) -> bool:
    instance = here()
    if actor.deploy is not None:
        has_scope = actor.may("write_registry") or (action == "pull" and actor.may("read_registry"))
        return has_scope and actor.deploy.project_id == project.id
    if action == "pull":
        has_scope = actor.kind is Kind.ANONYMOUS or actor.may("api", "read_registry", "write_registry")
        return has_scope and images.may_read(instance, project, actor.user)
    if actor.job is not None and actor.job.project_id != project.id:
        return False
    return actor.may("api", "write_registry") and images.may_write(instance, project, actor.user)


def is_job_token(header: str) -> bool:
    """Tell whether a Bearer header's token says that a CI job asked for it; the registry checks the signature."""
    parts = header.removeprefix("Bearer ").split(".")
    if len(parts) != 3:  # noqa: PLR2004 - a JWT has three parts
        return False
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return False
    return isinstance(claims, dict) and claims.get("auth_type") == Kind.JOB.value
