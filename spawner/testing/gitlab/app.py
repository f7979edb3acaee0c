"""Puts the parts together: the WSGI application of GitLab's port and that of its registry's.

Promises: one application per port; both see the same records.
Must not know: how it is served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import flask
from cryptography.hazmat.primitives import serialization

from spawner.testing.gitlab import control, faults, githttp, images, jwtauth, lfs, oauth, registry, signin, web
from spawner.testing.gitlab.ci import protocol
from spawner.testing.gitlab.rest import (
    badges,
    deploytokens,
    environments,
    hooks,
    jobs,
    members,
    mergerequests,
    pipelines,
    places,
    projects,
    registries,
    repositories,
    users,
    writing,
)

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

_REST = (
    users,
    projects,
    places,
    members,
    repositories,
    pipelines,
    jobs,
    environments,
    mergerequests,
    hooks,
    badges,
    registries,
    deploytokens,
    writing,
)
_PAGES = (control, oauth, githttp, lfs, jwtauth)


def gitlab_app(instance: Instance) -> flask.Flask:
    """Return GitLab's application."""
    app = flask.Flask("spawner.testing.gitlab", static_folder=None)
    app.secret_key = instance.secret
    app.config.update(SESSION_COOKIE_NAME="_gitlab_session", SESSION_COOKIE_SAMESITE="Lax")
    app.extensions["stand_in"] = instance
    web.install(app)
    for module in _REST:
        app.register_blueprint(module.blueprint, url_prefix="/api/v4")
    app.register_blueprint(protocol.blueprint)
    for page in _PAGES:
        app.register_blueprint(page.blueprint)
    app.register_blueprint(signin.blueprint)
    app.wsgi_app = web.RawTarget(app.wsgi_app)  # type: ignore[method-assign]
    return app


def registry_app(instance: Instance) -> flask.Flask:
    """Return the registry's application."""
    app = flask.Flask("spawner.testing.gitlab.registry", static_folder=None)
    pem = instance.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def intercept(method: str, repository: str, reference: str) -> flask.Response | None:
        instance.switches.counts[f"{method} {_registry_route(repository, reference)}"] += 1
        return _registry_fault(instance, method, repository, reference)

    app.register_blueprint(
        registry.registry_blueprint(
            data=instance.data / "registry",
            public_key_pem=pem,
            issuer=jwtauth.ISSUER,
            service=jwtauth.SERVICE,
            realm=f"{instance.url}/jwt/auth",
            intercept=intercept,
        )
    )
    return app


def _registry_route(repository: str, reference: str) -> str:
    if not repository:
        return "/v2/"
    if "/blobs/" in flask.request.path:
        return "/v2/:name/blobs/uploads" if reference == "uploads" else "/v2/:name/blobs/:digest"
    return f"/v2/:name/{reference}" if reference in {"tags", "referrers"} else "/v2/:name/manifests/:reference"


def _registry_fault(instance: Instance, method: str, repository: str, reference: str) -> flask.Response | None:
    if method not in {"GET", "HEAD"} or "/manifests/" not in flask.request.path or _is_job():
        return None
    project = images.project_of(instance, repository)
    if faults.strikes(instance, faults.Kind.IMAGE_MISSING_AFTER_SUCCESS, project):
        body = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {"name": repository}}]}
        return web.answer(body, 404)
    is_tag = not reference.startswith("sha256:")
    is_due = is_tag and faults.peek(instance, faults.Kind.TAG_DELETED, project) is not None
    if is_due and registry.delete_tag(instance.data / "registry", repository, reference):
        faults.strikes(instance, faults.Kind.TAG_DELETED, project)
    return None


def _is_job() -> bool:
    """Tell whether a CI job asks; the build itself is not disturbed."""
    return jwtauth.is_job_token(flask.request.headers.get("Authorization", ""))
