"""Where projects are: forks and transfers.

Source: https://docs.gitlab.com/api/project_forks/, https://docs.gitlab.com/api/projects/#transfer-a-project (18.x).
"""

from __future__ import annotations

import flask

from spawner.testing.gitlab import access, moving, people, web
from spawner.testing.gitlab.records import Group, Level, Project
from spawner.testing.gitlab.rest import paging, projectshape

blueprint = flask.Blueprint("places", __name__)


@blueprint.post("/projects/<key:project>/fork")
def fork(project: str) -> flask.Response:
    """Copy a project into the caller's namespace, or one that they name."""
    origin, user, instance = web.project_for(project), web.caller(), web.here()
    if not access.can_read_code(instance, origin, user):
        web.forbidden()
    namespace = web.text("namespace_path") or web.text("namespace") or _named_id() or user.username
    group = access.find_group(instance, namespace)
    allowed = group is not None and access.level(instance, group, user) >= Level.DEVELOPER
    if not allowed and namespace != user.username:
        web.not_found("Target Namespace")
    path = web.text("path") or origin.path.rsplit("/", 1)[-1]
    try:
        made = moving.fork(instance, origin, f"{group.path if group else namespace}/{path}", user=user)
    except people.TakenError as exc:
        raise web.APIError(409, {"message": {exc.field: [exc.message], "name": [exc.message]}}) from exc
    return web.answer(projectshape.full(instance, made, user), 201)


@blueprint.get("/projects/<key:project>/forks")
def forks(project: str) -> flask.Response:
    """Answer the forks that the caller may see."""
    origin, user, instance = web.project_for(project), web.actor().user, web.here()
    rows = instance.store.all(
        Project, lambda row: row.forked_from_id == origin.id and access.can_see(instance, row, user)
    )
    return paging.listed(rows, lambda row: projectshape.full(instance, row, user))


@blueprint.put("/projects/<key:project>/transfer")
def transfer(project: str) -> flask.Response:
    """Move a project to another namespace."""
    found = web.project_for(project, at_least=Level.OWNER)
    instance, name = web.here(), web.needed("namespace")
    group = access.find_group(instance, name)
    if group is None or access.level(instance, group, web.caller()) < Level.MAINTAINER:
        web.bad_request("Please select a new namespace for your project.")
    moved = renamed(found, f"{group.path}/{found.path.rsplit('/', 1)[-1]}")
    return web.answer(projectshape.full(instance, moved, web.caller()))


def renamed(found: Project, path: str) -> Project:
    """Move a project, or end the request as GitLab does."""
    try:
        return moving.move(web.here(), found, path)
    except people.TakenError as exc:
        web.bad_request({exc.field: [exc.message]})
    except moving.ImagesInTheWayError:
        web.bad_request({"base": ["Project cannot be renamed because it contains container registry tags!"]})


def _named_id() -> str | None:
    identifier = web.whole("namespace_id")
    group = web.here().store.get(Group, identifier) if identifier else None
    return group.path if group else None
