"""Badges of projects and groups: links with a picture, their placeholders filled in.

Source: https://docs.gitlab.com/user/project/badges/ (18.x).
"""

from __future__ import annotations

import re

import flask

from spawner.testing.gitlab import access, web
from spawner.testing.gitlab.records import Badge, Group, Level, Project
from spawner.testing.gitlab.rest import paging, shapes
from spawner.testing.gitlab.rest.members import group_for

blueprint = flask.Blueprint("badges", __name__)

_PLACEHOLDER = re.compile(r"%\{(\w+)\}")


@blueprint.get("/<any(projects,groups):source>/<key:key>/badges")
def listing(source: str, key: str) -> flask.Response:
    """Answer a place's badges; a project's begin with those of the groups above it."""
    place = _place(source, key)
    name = web.text("name")
    rows = [row for row in _rows(place) if name in {None, row.name}]
    return paging.listed(rows, lambda row: _shape(place, row))


@blueprint.get("/<any(projects,groups):source>/<key:key>/badges/render")
def render(source: str, key: str) -> flask.Response:
    """Answer what a badge would look like."""
    place = _place(source, key, changing=True)
    link_url, image_url = web.needed("link_url"), web.needed("image_url")
    return web.answer(_rendered(place, link_url, image_url) | {"name": web.text("name")})


@blueprint.post("/<any(projects,groups):source>/<key:key>/badges")
def create(source: str, key: str) -> flask.Response:
    """Make a badge."""
    place = _place(source, key, changing=True)
    link_url, image_url = _checked("link_url", web.needed("link_url")), _checked("image_url", web.needed("image_url"))
    with web.here().store as store:
        row = store.put(
            Badge(
                id=store.next_id(Badge),
                project_id=place.id if isinstance(place, Project) else None,
                group_id=place.id if isinstance(place, Group) else None,
                name=web.text("name"),
                link_url=link_url,
                image_url=image_url,
            )
        )
    return web.answer(_shape(place, row), 201)


@blueprint.get("/<any(projects,groups):source>/<key:key>/badges/<int:badge>")
def one(source: str, key: str, badge: int) -> flask.Response:
    """Answer a badge."""
    place = _place(source, key)
    return web.answer(_shape(place, _badge(place, badge)))


@blueprint.put("/<any(projects,groups):source>/<key:key>/badges/<int:badge>")
def change(source: str, key: str, badge: int) -> flask.Response:
    """Change a badge."""
    place = _place(source, key, changing=True)
    row = _badge(place, badge)
    given = {name: web.text(name) for name in ("name", "link_url", "image_url") if web.text(name)}
    for name in given.keys() & {"link_url", "image_url"}:
        _checked(name, given[name] or "")
    return web.answer(_shape(place, web.here().store.change(row, **given)))


@blueprint.delete("/<any(projects,groups):source>/<key:key>/badges/<int:badge>")
def remove(source: str, key: str, badge: int) -> flask.Response:
    """Remove a badge."""
    place = _place(source, key, changing=True)
    web.here().store.drop(_badge(place, badge))
    return flask.Response(status=204)


def _place(source: str, key: str, *, changing: bool = False) -> Project | Group:
    """Return the project (a Maintainer changes its badges) or the group (an Owner does)."""
    if source == "projects":
        return web.project_for(key, at_least=Level.MAINTAINER if changing else Level.NONE)
    return group_for(key, at_least=Level.OWNER if changing else Level.NONE)


def _rows(place: Project | Group) -> list[Badge]:
    store = web.here().store
    if isinstance(place, Group):
        return list(store.all(Badge, lambda row: row.group_id == place.id))
    above = {group.id for group in access.groups_above(web.here(), place.path)}
    return [
        *store.all(Badge, lambda row: row.group_id in above),
        *store.all(Badge, lambda row: row.project_id == place.id),
    ]


def _badge(place: Project | Group, identifier: int) -> Badge:
    row = web.here().store.get(Badge, identifier)
    if row is None or place.id != (row.project_id if isinstance(place, Project) else row.group_id):
        web.not_found("Badge")
    return row


def _checked(name: str, url: str) -> str:
    if not re.match(r"^https?://", url):
        web.bad_request({name: ["is blocked: Only allowed schemes are http, https"]})
    return url


def _shape(place: Project | Group, row: Badge) -> shapes.Shape:
    own: shapes.Shape = {"id": row.id, "name": row.name, "kind": "project" if row.group_id is None else "group"}
    return own | _rendered(place, row.link_url, row.image_url)


def _rendered(place: Project | Group, link_url: str, image_url: str) -> shapes.Shape:
    values = _values(place) if isinstance(place, Project) else {"group_name": place.path.rsplit("/", 1)[-1]}

    def filled(url: str) -> str:
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), url)

    return {
        "link_url": link_url,
        "image_url": image_url,
        "rendered_link_url": filled(link_url),
        "rendered_image_url": filled(image_url),
    }


def _values(project: Project) -> dict[str, str]:
    instance = web.here()
    repository = instance.repository(project)
    tags = [ref.removeprefix("refs/tags/") for ref in repository.refs() if ref.startswith("refs/tags/")]
    return {
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
