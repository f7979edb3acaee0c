"""Projects: make, find, show, change, remove; sharing and protected branches."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import Any

import flask

from spawner.testing.gitlab import access, people, protection, web
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import (
    GroupLink,
    Hook,
    Job,
    Level,
    Member,
    Pipeline,
    Project,
    ProtectedBranch,
    Visibility,
)
from spawner.testing.gitlab.rest import paging, places, projectshape, shapes, users

blueprint = flask.Blueprint("projects", __name__)

# Paid editions have it; it is kept, and shown only when it was set.
_SWITCHES = frozenset(projectshape.DEFAULTS) | {"merge_pipelines_enabled"}
# The registry's clean-up as GitLab makes it, before anybody switches it on.
_POLICY: dict[str, object] = {
    "cadence": "1d", "enabled": False, "keep_n": 10, "older_than": "90d",
    "name_regex": ".*", "name_regex_keep": None, "next_run_at": None,
}  # fmt: skip


@blueprint.get("/projects")
def listing() -> flask.Response:
    """Find projects that the caller may see."""
    instance, user = web.here(), web.actor().user
    rows = instance.store.all(Project, lambda row: access.can_see(instance, row, user))
    search = (web.text("search") or "").lower()
    least = web.whole("min_access_level", 0) or 0
    if web.flag("membership") or web.flag("owned") or least:
        floor = max(least, int(Level.OWNER) if web.flag("owned") else 1)
        rows = [row for row in rows if _membership_level(row) >= floor]
    if search:
        rows = [row for row in rows if search in row.path.lower()]
    if web.text("visibility"):
        rows = [row for row in rows if row.visibility.value == web.text("visibility")]
    is_simple = web.flag("simple") or user is None

    def shape(row: Project) -> object:
        return projectshape.basic(instance, row) if is_simple else projectshape.full(instance, row, user)

    if paging.wants_keyset():
        return paging.keyset(rows, shape, key=lambda row: row.id)
    newest_first = web.text("sort") != "asc"
    return paging.listed(sorted(rows, key=lambda row: row.id, reverse=newest_first), shape)


@blueprint.post("/projects")
def create() -> flask.Response:
    """Make a project."""
    instance, user = web.here(), web.caller()
    path = web.text("path") or re.sub(r"[^\w.-]+", "-", web.needed("name")).strip("-").lower()
    namespace = user.username
    group = None
    if web.text("namespace_id"):
        group = access.find_group(instance, web.needed("namespace_id"))
        if group is None and web.needed("namespace_id") != str(1_000_000 + user.id):
            web.bad_request({"namespace": ["is not valid"]})
    if group:
        if access.level(instance, group, user) < Level.DEVELOPER:
            web.bad_request({"namespace": ["is not valid"]})
        namespace = group.path
    try:
        project = people.add_project(
            instance,
            f"{namespace}/{path}",
            creator=user,
            visibility=_visibility(Visibility.PRIVATE),
            default_branch=web.text("default_branch") or "main",
        )
    except people.TakenError as exc:
        raise web.APIError(400, {"message": {exc.field: [exc.message], "name": [exc.message]}}) from exc
    project = instance.store.put(_changed(project))
    return web.answer(projectshape.full(instance, project, user), 201)


@blueprint.get("/projects/<key:project>")
def one(project: str) -> flask.Response:
    """Answer a project."""
    found = web.project_for(project)
    return web.answer(projectshape.full(web.here(), found, web.actor().user))


@blueprint.put("/projects/<key:project>")
def change(project: str) -> flask.Response:
    """Change a project."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    instance = web.here()
    changed = _changed(found)
    path = web.text("path")
    if path and path != found.path.rsplit("/", 1)[-1]:
        changed = replace(changed, **_place(found, path))
    branch = web.text("default_branch")
    if branch:
        if instance.repository(found).head(branch) is None:
            web.bad_request({"base": ["Could not change HEAD: branch '" + branch + "' does not exist"]})
        instance.repository(found).point_head(branch)
        changed = replace(changed, default_branch=branch)
    changed = instance.store.put(replace(changed, visibility=_visibility(found.visibility), updated_at=now()))
    return web.answer(projectshape.full(instance, changed, web.actor().user))


@blueprint.delete("/projects/<key:project>")
def remove(project: str) -> flask.Response:
    """Remove a project with all it holds, at once."""
    found = web.project_for(project, at_least=Level.OWNER)
    instance = web.here()
    with instance.store as store:
        for kind in (Pipeline, Job, Hook, ProtectedBranch, GroupLink):
            for row in store.all(kind):
                if getattr(row, "project_id", None) == found.id:
                    store.drop(row)
        for member in store.all(Member, lambda row: row.source == "project" and row.source_id == found.id):
            store.drop(member)
        store.drop(found)
    shutil.rmtree(instance.repository(found).path, ignore_errors=True)
    return web.answer({"message": "202 Accepted"}, 202)


@blueprint.post("/projects/<key:project>/archive")
def archive(project: str) -> flask.Response:
    """Make a project read-only."""
    return _archived(project, archived=True)


@blueprint.post("/projects/<key:project>/unarchive")
def unarchive(project: str) -> flask.Response:
    """Make a project writable again."""
    return _archived(project, archived=False)


@blueprint.post("/projects/<key:project>/share")
def share(project: str) -> flask.Response:
    """Invite a group."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    group = access.find_group(web.here(), web.needed("group_id"))
    if group is None:
        web.not_found("Group")
    with web.here().store as store:
        link = store.put(
            GroupLink(
                id=store.next_id(GroupLink),
                project_id=found.id,
                group_id=group.id,
                level=Level(web.whole("group_access") or 0),
                expires_at=users.parse_date("expires_at"),
            )
        )
    shape = {"id": link.id, "project_id": found.id, "group_id": group.id, "group_access": int(link.level)}
    return web.answer(shape | {"expires_at": link.expires_at.isoformat() if link.expires_at else None}, 201)


@blueprint.delete("/projects/<key:project>/share/<int:group>")
def unshare(project: str, group: int) -> flask.Response:
    """Withdraw a group's invitation."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    store = web.here().store
    link = store.first(GroupLink, lambda row: row.project_id == found.id and row.group_id == group)
    if link is None:
        web.not_found()
    store.drop(link)
    return flask.Response(status=204)


@blueprint.get("/projects/<key:project>/protected_branches")
def list_protected(project: str) -> flask.Response:
    """Answer the protected branches."""
    found = web.project_for(project, at_least=Level.DEVELOPER)
    return paging.listed(web.here().store.all(ProtectedBranch, lambda row: row.project_id == found.id), _protected)


@blueprint.get("/projects/<key:project>/protected_branches/<key:name>")
def one_protected(project: str, name: str) -> flask.Response:
    """Answer one protected branch."""
    return web.answer(_protected(_rule(web.project_for(project, at_least=Level.DEVELOPER), name)))


@blueprint.post("/projects/<key:project>/protected_branches")
def protect(project: str) -> flask.Response:
    """Protect a branch or wildcard."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    name = web.needed("name")
    if web.here().store.first(ProtectedBranch, lambda row: row.project_id == found.id and row.name == name):
        raise web.APIError(409, {"message": f"Protected branch '{name}' already exists"})
    push_level = Level(web.whole("push_access_level", int(Level.MAINTAINER)) or 0)
    rule = protection.protect(web.here(), found, name, push_level=push_level)
    if web.flag("allow_force_push"):
        rule = web.here().store.change(rule, allow_force_push=True)
    return web.answer(_protected(rule), 201)


@blueprint.delete("/projects/<key:project>/protected_branches/<key:name>")
def unprotect(project: str, name: str) -> flask.Response:
    """Unprotect a branch or wildcard."""
    found = web.project_for(project, at_least=Level.MAINTAINER)
    web.here().store.drop(_rule(found, name))
    return flask.Response(status=204)


def _rule(project: Project, name: str) -> ProtectedBranch:
    store = web.here().store
    rule = store.first(ProtectedBranch, lambda row: row.project_id == project.id and row.name == name)
    if rule is None:
        web.not_found()
    return rule


def _protected(row: ProtectedBranch) -> shapes.Shape:
    def levels(level: Level) -> list[shapes.Shape]:
        words = {0: "No one", 30: "Developers + Maintainers", 40: "Maintainers"}.get(int(level), "Maintainers")
        return [{"id": row.id, "access_level": int(level), "access_level_description": words, "deploy_key_id": None}]

    return {
        "id": row.id,
        "name": row.name,
        "push_access_levels": levels(row.push_level),
        "merge_access_levels": levels(row.merge_level),
        "allow_force_push": row.allow_force_push,
    }


def _place(found: Project, name: str) -> dict[str, Any]:
    moved = places.renamed(found, f"{found.path.rpartition('/')[0]}/{name}")
    return {"path": moved.path, "former_paths": moved.former_paths}


def _archived(key: str, *, archived: bool) -> flask.Response:
    found = web.project_for(key, at_least=Level.OWNER)
    changed = web.here().store.change(found, archived=archived)
    return web.answer(projectshape.full(web.here(), changed, web.actor().user), 201)


def _membership_level(project: Project) -> int:
    user = web.caller()
    row = access.membership(web.here(), project, user)
    return int(row.level) if row else 0


def _visibility(default: Visibility) -> Visibility:
    value = web.text("visibility")
    if value is None:
        return default
    if value not in set(Visibility):
        web.invalid("visibility does not have a valid value")
    return Visibility(value)


def _changed(project: Project) -> Project:
    given = web.parameters()
    settings = {name: value for name, value in given.items() if name in _SWITCHES}
    policy = given.get("container_expiration_policy_attributes")
    if isinstance(policy, dict):
        before = project.settings.get("container_expiration_policy")
        settings["container_expiration_policy"] = {**(before if isinstance(before, dict) else _POLICY), **policy}
    description = given.get("description", project.description)
    name = str(given.get("name") or project.name)
    return replace(project, settings={**project.settings, **settings}, description=description, name=name)
