"""Project badges: links with a picture, their placeholders filled in.

Source: https://docs.gitlab.com/user/project/badges/ (18.x).
"""

from __future__ import annotations

import re

import flask

from spawner.testing.gitlab import web
from spawner.testing.gitlab.records import Badge, Level, Project
from spawner.testing.gitlab.rest import paging, shapes

blueprint = flask.Blueprint("badges", __name__)

_PLACEHOLDER = re.compile(r"%\{(\w+)\}")


@blueprint.get("/projects/<key:project>/badges")
def listing(project: str) -> flask.Response:
    """Answer a project's badges."""
    found = web.project_for(project)
    name = web.text("name")
    rows = web.here().store.all(Badge, lambda row: row.project_id == found.id and name in {None, row.name})
    return paging.listed(rows, lambda row: _shape(found, row))


@blueprint.get("/projects/<key:project>/badges/render")
def render(project: str) -> flask.Response:
    """Answer what a badge would look like."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    link_url, image_url = web.needed("link_url"), web.needed("image_url")
    return web.answer(_rendered(found, link_url, image_url) | {"name": web.text("name")})


@blueprint.post("/projects/<key:project>/badges")
def create(project: str) -> flask.Response:
    """Make a badge."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    link_url, image_url = _checked("link_url", web.needed("link_url")), _checked("image_url", web.needed("image_url"))
    with web.here().store as store:
        row = store.put(
            Badge(
                id=store.next_id(Badge),
                project_id=found.id,
                name=web.text("name"),
                link_url=link_url,
                image_url=image_url,
            )
        )
    return web.answer(_shape(found, row), 201)


@blueprint.get("/projects/<key:project>/badges/<int:badge>")
def one(project: str, badge: int) -> flask.Response:
    """Answer a badge."""
    found = web.project_for(project)
    return web.answer(_shape(found, _badge(found, badge)))


@blueprint.put("/projects/<key:project>/badges/<int:badge>")
def change(project: str, badge: int) -> flask.Response:
    """Change a badge."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    row = _badge(found, badge)
    given = {name: web.text(name) for name in ("name", "link_url", "image_url") if web.text(name)}
    for name in given.keys() & {"link_url", "image_url"}:
        _checked(name, given[name] or "")
    return web.answer(_shape(found, web.here().store.change(row, **given)))


@blueprint.delete("/projects/<key:project>/badges/<int:badge>")
def remove(project: str, badge: int) -> flask.Response:
    """Remove a badge."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    web.here().store.drop(_badge(found, badge))
    return flask.Response(status=204)


def _badge(project: Project, identifier: int) -> Badge:
    row = web.here().store.get(Badge, identifier)
    if row is None or row.project_id != project.id:
        web.not_found("Badge")
    return row


def _checked(name: str, url: str) -> str:
    if not re.match(r"^https?://", url):
        web.bad_request({name: ["is blocked: Only allowed schemes are http, https"]})
    return url


def _shape(project: Project, row: Badge) -> shapes.Shape:
    own: shapes.Shape = {"id": row.id, "name": row.name, "kind": "project"}
    return own | _rendered(project, row.link_url, row.image_url)


def _rendered(project: Project, link_url: str, image_url: str) -> shapes.Shape:
    instance = web.here()
    repository = instance.repository(project)
    tags = [ref.removeprefix("refs/tags/") for ref in repository.refs() if ref.startswith("refs/tags/")]
    values = {
        "project_path": project.path,
        "project_title": project.name,
        "project_name": project.path.rsplit("/", 1)[-1],
        "project_id": str(project.id),
        "project_namespace": project.path.rpartition("/")[0],
        "group_name": project.path.rpartition("/")[0].rsplit("/", 1)[-1],
        "gitlab_server": instance.url.split("://", 1)[-1],
        "default_branch": project.default_branch,
        "commit_sha": repository.head(project.default_branch) or "",
        "latest_tag": tags[-1] if tags else "",
    }

    def filled(url: str) -> str:
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), url)

    return {
        "link_url": link_url,
        "image_url": image_url,
        "rendered_link_url": filled(link_url),
        "rendered_image_url": filled(image_url),
    }
