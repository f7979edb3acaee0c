"""The registry as the REST API shows it: repositories of a project and their tags."""

from __future__ import annotations

import flask

from spawner.testing.gitlab import images, registry, web
from spawner.testing.gitlab.records import Level, Project, RegistryRow
from spawner.testing.gitlab.rest import paging, shapes

blueprint = flask.Blueprint("registries", __name__)


@blueprint.get("/projects/<key:project>/registry/repositories")
def listing(project: str) -> flask.Response:
    """Answer a project's registry repositories; one that was only ever authorized for a push is there too."""
    found = _readable(project)
    return paging.listed(images.rows_of(web.here(), found), lambda row: _shape(found, row))


@blueprint.get("/projects/<key:project>/registry/repositories/<int:repository>/tags")
def tags(project: str, repository: int) -> flask.Response:
    """Answer a repository's tags, without digests."""
    row = _row(_readable(project), repository)
    names = list(registry.tags(web.here().data / "registry", row.path))
    return paging.listed(names, lambda name: _tag(row, name))


@blueprint.get("/projects/<key:project>/registry/repositories/<int:repository>/tags/<key:tag>")
def one_tag(project: str, repository: int, tag: str) -> flask.Response:
    """Answer a tag with its digest."""
    row = _row(_readable(project), repository)
    info = registry.tag_info(web.here().data / "registry", row.path, tag)
    if info is None:
        web.not_found("Tag")
    revision = info.digest.removeprefix("sha256:")
    return web.answer(
        {
            **_tag(row, tag),
            "revision": revision,
            "short_revision": revision[:9],
            "digest": info.digest,
            "created_at": shapes.moment(info.created_at),
            "total_size": info.size_bytes,
        }
    )


@blueprint.delete("/projects/<key:project>/registry/repositories/<int:repository>/tags/<key:tag>")
def remove_tag(project: str, repository: int, tag: str) -> flask.Response:
    """Remove a tag; its manifest stays for a while."""
    found = web.project_for(project, at_least=Level.DEVELOPER)
    row = _row(found, repository)
    if not registry.delete_tag(web.here().data / "registry", row.path, tag):
        web.not_found("Tag")
    return web.answer(200)


def _readable(key: str) -> Project:
    found = web.project_for(key)
    if not images.may_read(web.here(), found, web.actor().user):
        web.not_found()
    return found


def _row(project: Project, identifier: int) -> RegistryRow:
    row = next((row for row in images.rows_of(web.here(), project) if row.id == identifier), None)
    if row is None:
        web.not_found("Repository")
    return row


def _shape(project: Project, row: RegistryRow) -> shapes.Shape:
    instance = web.here()
    names = registry.tags(instance.data / "registry", row.path)
    shape: shapes.Shape = {
        "id": row.id,
        "name": row.path.removeprefix(project.path.lower()).lstrip("/"),
        "path": row.path,
        "project_id": project.id,
        "location": f"{instance.registry_host}/{row.path}",
        "created_at": shapes.moment(row.created_at),
        "cleanup_policy_started_at": None,
        "status": None,
    }
    if web.flag("tags_count") or web.flag("tags"):
        shape["tags_count"] = len(names)
    if web.flag("tags"):
        shape["tags"] = [_tag(row, name) for name in names]
    return shape


def _tag(row: RegistryRow, name: str) -> shapes.Shape:
    path = f"{row.path}:{name}"
    return {"name": name, "path": path, "location": f"{web.here().registry_host}/{path}"}
