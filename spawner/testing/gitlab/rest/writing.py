"""Commits and branches made through the API: what an operator's tool writes without a clone.

Source: https://docs.gitlab.com/api/commits/ and https://docs.gitlab.com/api/branches/ (18.x). Promises: a commit made
here has the consequences of a push; actions are `create`, `update` and `delete`, all or none.
Must not know: pipelines, hooks.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import flask

from spawner.testing.gitlab import commits, protection, pushes, web
from spawner.testing.gitlab.records import Level
from spawner.testing.gitlab.repository import ZERO_SHA
from spawner.testing.gitlab.rest import shapes

if TYPE_CHECKING:
    from spawner.testing.gitlab.records import Project, User
    from spawner.testing.gitlab.repository import Repository

blueprint = flask.Blueprint("writing", __name__)


@blueprint.post("/projects/<key:project>/repository/commits")
def commit(project: str) -> flask.Response:
    """Make a commit from a list of actions, on a branch that may be new."""
    found, user = _writable(project)
    branch, message = web.needed("branch"), web.needed("commit_message")
    repository = web.here().repository(found)
    before = repository.head(branch)
    parent = before or _start(repository)
    files = _files(repository, parent)
    ref = f"refs/heads/{branch}"
    if not protection.may_push(web.here(), found, user, ref):
        web.bad_request("You are not allowed to push into this branch")
    draft = commits.Draft(
        files=files, message=message, name=user.name, email=f"{user.username}@example.org", parent=parent
    )
    made = commits.write(repository, ref, draft, expected=before)
    if made is None:
        web.bad_request(f"Could not update {ref}. Please refresh and try again.")
    pushes.record(web.here(), found, user, [(ref, before or ZERO_SHA, made)])
    row = repository.commit(made)
    assert row is not None
    return web.answer(shapes.commit(web.here(), found, row), 201)


@blueprint.post("/projects/<key:project>/repository/branches")
def create_branch(project: str) -> flask.Response:
    """Make a branch at a ref."""
    found, user = _writable(project)
    name, repository = web.needed("branch"), web.here().repository(found)
    sha = repository.resolve(web.needed("ref"))
    if sha is None:
        web.bad_request("Invalid reference name: " + web.needed("ref"))
    if repository.head(name):
        web.bad_request("Branch already exists")
    repository.update(f"refs/heads/{name}", sha)
    pushes.record(web.here(), found, user, [(f"refs/heads/{name}", ZERO_SHA, sha)])
    row = repository.commit(sha)
    assert row is not None
    return web.answer(shapes.branch(web.here(), found, name, row, can_push=True), 201)


@blueprint.delete("/projects/<key:project>/repository/branches/<key:branch>")
def delete_branch(project: str, branch: str) -> flask.Response:
    """Remove a branch that nothing protects."""
    found, user = _writable(project)
    repository = web.here().repository(found)
    sha = repository.head(branch)
    if sha is None:
        web.not_found("Branch")
    if protection.rule_for(web.here(), found, branch) is not None or branch == found.default_branch:
        web.forbidden("Protected branch cannot be removed")
    repository.update(f"refs/heads/{branch}", ZERO_SHA)
    pushes.record(web.here(), found, user, [(f"refs/heads/{branch}", sha, ZERO_SHA)])
    return flask.Response(status=204)


def _writable(key: str) -> tuple[Project, User]:
    return web.project_for(key, at_least=Level.DEVELOPER), web.caller()


def _start(repository: Repository) -> str | None:
    """Return the commit that a new branch begins at; None in an empty repository."""
    start = web.text("start_branch") or web.text("start_sha")
    if start is None:
        if repository.refs():
            web.bad_request("You can only create or edit files when you are on a branch")
        return None
    sha = repository.resolve(start)
    if sha is None:
        web.bad_request("Cannot find start_branch '" + start + "'")
    return sha


def _files(repository: Repository, parent: str | None) -> dict[str, bytes | None]:
    """Return what each path of the actions becomes, None for one that goes."""
    actions: Any = web.parameters().get("actions")
    if not isinstance(actions, list) or not actions:
        web.invalid("actions is missing")
    files: dict[str, bytes | None] = {}
    for action in actions:
        kind, path = str(action.get("action")), str(action.get("file_path"))
        is_there = parent is not None and repository.entry(parent, path) is not None
        if kind == "create" and is_there:
            web.bad_request("A file with this name already exists")
        if kind in {"update", "delete"} and not is_there:
            web.bad_request("A file with this name doesn't exist")
        if kind not in {"create", "update", "delete"}:
            web.invalid("actions[0][action] does not have a valid value")
        content = str(action.get("content", ""))
        raw = base64.b64decode(content) if action.get("encoding") == "base64" else content.encode()
        files[path] = None if kind == "delete" else raw
    return files
