"""Members of projects and groups, and groups themselves."""

from __future__ import annotations

import flask

from spawner.testing.gitlab import access, people, web
from spawner.testing.gitlab.records import Group, Level, Member, Project, User, Visibility
from spawner.testing.gitlab.rest import paging, projectshape, shapes, users

blueprint = flask.Blueprint("members", __name__)


@blueprint.get("/groups")
def list_groups() -> flask.Response:
    """Find groups that the caller may see."""
    instance, user = web.here(), web.actor().user
    rows = instance.store.all(Group, lambda row: access.can_see(instance, row, user))
    return paging.listed(rows, lambda row: shapes.group(instance, row))


@blueprint.post("/groups")
def create_group() -> flask.Response:
    """Make a group, or with `parent_id` a subgroup."""
    instance, user = web.here(), web.caller()
    path = web.needed("path")
    if web.text("parent_id"):
        parent = group_for(web.needed("parent_id"), at_least=Level.MAINTAINER)
        path = f"{parent.path}/{path}"
    visibility = Visibility(web.text("visibility") or "private")
    try:
        made = people.add_group(instance, path, owner=user, name=web.text("name"), visibility=visibility)
    except people.TakenError as exc:
        raise web.APIError(400, {"message": f'Failed to save group {{:{exc.field}=>["{exc.message}"]}}'}) from exc
    return web.answer(shapes.group(instance, made), 201)


@blueprint.get("/groups/<key:group>")
def one_group(group: str) -> flask.Response:
    """Answer a group."""
    found = group_for(group)
    return web.answer(shapes.group(web.here(), found) | {"projects": _projects(found), "shared_with_groups": []})


@blueprint.get("/groups/<key:group>/projects")
def group_projects(group: str) -> flask.Response:
    """Answer the projects directly in a group."""
    return paging.listed(_projects(group_for(group)), lambda row: row)


@blueprint.get("/<any(projects,groups):source>/<key:key>/members")
def listing(source: str, key: str) -> flask.Response:
    """Answer the direct members."""
    found = _target(source, key)
    kind = source.rstrip("s")
    rows = web.here().store.all(Member, lambda row: row.source == kind and row.source_id == found.id)
    return paging.listed(rows, lambda row: shapes.member(web.here(), row))


@blueprint.get("/<any(projects,groups):source>/<key:key>/members/all")
def listing_all(source: str, key: str) -> flask.Response:
    """Answer direct, inherited and invited members, each once with the highest level."""
    best: dict[int, Member] = {}
    for row in access.members_of(web.here(), _target(source, key)):
        if row.user_id not in best or best[row.user_id].level < row.level:
            best[row.user_id] = row
    return paging.listed(sorted(best.values(), key=lambda row: row.id), lambda row: shapes.member(web.here(), row))


@blueprint.get("/<any(projects,groups):source>/<key:key>/members/all/<int:user>")
def one_all(source: str, key: str, user: int) -> flask.Response:
    """Answer a person's level, from wherever they have it."""
    found = _target(source, key)
    person = web.here().store.get(User, user)
    row = access.membership(web.here(), found, person) if person else None
    if row is None:
        web.not_found()
    return web.answer(shapes.member(web.here(), row))


@blueprint.get("/<any(projects,groups):source>/<key:key>/members/<int:user>")
def one(source: str, key: str, user: int) -> flask.Response:
    """Answer a person's direct level."""
    return web.answer(shapes.member(web.here(), _direct(_target(source, key), user)))


@blueprint.post("/<any(projects,groups):source>/<key:key>/members")
def add(source: str, key: str) -> flask.Response:
    """Give a person a level."""
    found = _target(source, key, at_least=Level.MAINTAINER)
    person = users.find_user(web.text("user_id") or web.needed("username"))
    if people.direct_member(web.here(), found, person.id):
        raise web.APIError(409, {"message": "Member already exists"})
    expires_at = users.parse_date("expires_at")
    row = people.add_member(web.here(), found, person, _level(), expires_at=expires_at)
    return web.answer(shapes.member(web.here(), row), 201)


@blueprint.put("/<any(projects,groups):source>/<key:key>/members/<int:user>")
def change(source: str, key: str, user: int) -> flask.Response:
    """Change a person's level or its end."""
    found = _target(source, key, at_least=Level.MAINTAINER)
    row = _direct(found, user)
    changed = web.here().store.change(row, level=_level(), expires_at=users.parse_date("expires_at"))
    return web.answer(shapes.member(web.here(), changed))


@blueprint.delete("/<any(projects,groups):source>/<key:key>/members/<int:user>")
def remove(source: str, key: str, user: int) -> flask.Response:
    """Take a person's direct level."""
    found = _target(source, key, at_least=Level.MAINTAINER)
    web.here().store.drop(_direct(found, user))
    return flask.Response(status=204)


def group_for(key: str, *, at_least: Level = Level.NONE) -> Group:
    """Return a group that the caller may see and has a level in.

    Raises:
        APIError: 404, 401 or 403.
    """
    user = web.actor().user
    found = access.find_group(web.here(), key)
    if found is None or not access.can_see(web.here(), found, user):
        web.not_found("Group")
    if at_least > Level.NONE and access.level(web.here(), found, user) < at_least:
        web.forbidden() if user else web.unauthorized()
    return found


def _target(source: str, key: str, *, at_least: Level = Level.NONE) -> Project | Group:
    web.caller()
    if source == "projects":
        return web.project_for(key, at_least=at_least)
    return group_for(key, at_least=at_least)


def _direct(target: Project | Group, user_id: int) -> Member:
    row = people.direct_member(web.here(), target, user_id)
    if row is None:
        web.not_found()
    return row


def _level() -> Level:
    value = web.whole("access_level")
    if value is None:
        web.invalid("access_level is missing")
    if value not in set(Level):
        web.invalid("access_level does not have a valid value")
    return Level(value)


def _projects(group: Group) -> list[shapes.Shape]:
    instance, user = web.here(), web.actor().user
    rows = instance.store.all(Project, lambda row: row.path.rpartition("/")[0] == group.path)
    return [projectshape.basic(instance, row) for row in rows if access.can_see(instance, row, user)]
