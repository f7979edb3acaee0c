"""Deploy tokens of projects: made, listed and ended by maintainers; the secret is shown once.

Source: https://docs.gitlab.com/api/deploy_tokens/ (18.x).
"""

from __future__ import annotations

from datetime import UTC, datetime

import flask

from spawner.testing.gitlab import tokens, web
from spawner.testing.gitlab.instance import digest, now
from spawner.testing.gitlab.records import DeployToken, Level, Project
from spawner.testing.gitlab.rest import paging, shapes

blueprint = flask.Blueprint("deploy_tokens", __name__)

_SCOPES = frozenset(
    {
        "read_repository",
        "read_registry",
        "write_registry",
        "read_package_registry",
        "write_package_registry",
        "read_virtual_registry",
        "write_virtual_registry",
    }
)


@blueprint.get("/projects/<key:project>/deploy_tokens")
def listing(project: str) -> flask.Response:
    """Answer a project's deploy tokens, ended ones included unless `active` asks for the others."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    rows = web.here().store.all(DeployToken, lambda row: row.project_id == found.id)
    kept = [row for row in rows if not web.flag("active") or not (row.revoked or _is_expired(row))]
    return paging.listed(kept, _shape)


@blueprint.get("/projects/<key:project>/deploy_tokens/<int:token>")
def one(project: str, token: int) -> flask.Response:
    """Answer a deploy token."""
    return web.answer(_shape(_token(web.project_for(project, at_least=Level.MAINTAINER), token)))


@blueprint.post("/projects/<key:project>/deploy_tokens")
def create(project: str) -> flask.Response:
    """Make a deploy token."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    name, scopes = web.needed("name"), web.several("scopes")
    if not scopes:
        web.invalid("scopes is missing")
    if not set(scopes) <= _SCOPES:
        web.invalid("scopes does not have a valid value")
    secret = tokens.mint("gldt-")
    with web.here().store as store:
        identifier = store.next_id(DeployToken)
        row = store.put(
            DeployToken(
                id=identifier,
                project_id=found.id,
                name=name,
                username=web.text("username") or f"gitlab+deploy-token-{identifier}",
                digest=digest(secret),
                scopes=tuple(scopes),
                expires_at=_moment(web.text("expires_at")),
            )
        )
    return web.answer(_shape(row) | {"token": secret}, 201)


@blueprint.delete("/projects/<key:project>/deploy_tokens/<int:token>")
def end(project: str, token: int) -> flask.Response:
    """End a deploy token."""
    row = _token(web.project_for(project, at_least=Level.MAINTAINER), token)
    web.here().store.change(row, revoked=True)
    return flask.Response(status=204)


def _token(project: Project, identifier: int) -> DeployToken:
    row = web.here().store.get(DeployToken, identifier)
    if row is None or row.project_id != project.id or row.revoked:
        web.not_found("Deploy Token")
    return row


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        web.invalid("expires_at is invalid")
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _is_expired(row: DeployToken) -> bool:
    return row.expires_at is not None and row.expires_at <= now()


def _shape(row: DeployToken) -> shapes.Shape:
    return {
        "id": row.id,
        "name": row.name,
        "username": row.username,
        "expires_at": shapes.moment(row.expires_at),
        "scopes": list(row.scopes),
        "revoked": row.revoked,
        "expired": _is_expired(row),
    }
