"""Git LFS as GitLab serves it: batch, locks, objects (https://github.com/git-lfs/git-lfs/tree/v3.5.0/docs/api).

Promises: a batch answer carries an `Authorization` header of its own, as GitLab's does; an object is taken only
when its bytes have the digest it is named by; locks are shared by all clones.
Must not know: Git.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

import flask

from spawner.testing.gitlab import githttp
from spawner.testing.gitlab.access import Actor, find_project, level, signed_token
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import LargeObject, Level, Lock, Project, User
from spawner.testing.gitlab.rest.shapes import moment
from spawner.testing.gitlab.web import here

if TYPE_CHECKING:
    from pathlib import Path

blueprint = flask.Blueprint("lfs", __name__)

_TYPE = "application/vnd.git-lfs+json"
_TOKEN_LIFE_SECONDS = 7200
_CHUNK_BYTES = 1 << 20
_OID_LENGTH = 64
_ABSENT = "Object does not exist on the server or you don't have permissions to access it"


@blueprint.post("/<path:path>.git/info/lfs/objects/batch")
def batch(path: str) -> flask.Response:
    """Answer where objects are fetched from or sent to."""
    body = _body()
    operation = body.get("operation")
    if operation not in {"download", "upload"}:
        return _words("Operation not supported", 422)
    project, actor = _admit(path, writing=operation == "upload")
    header = {"Authorization": _authorization(actor, operation)} if actor.user else {}
    rows = [_actions(project, operation, row, header) for row in body.get("objects") or []]
    return _answer({"objects": rows})


@blueprint.get("/<path:path>.git/gitlab-lfs/objects/<oid>")
def download(path: str, oid: str) -> flask.Response:
    """Answer an object's bytes."""
    project, _ = _admit(path, writing=False)
    if _kept(project, oid) is None:
        return _words(_ABSENT, 404)
    return flask.send_file(_file(oid), mimetype="application/octet-stream")


@blueprint.put("/<path:path>.git/gitlab-lfs/objects/<oid>/<int:size>")
def upload(path: str, oid: str, size: int) -> flask.Response:
    """Take an object's bytes."""
    project, _ = _admit(path, writing=True)
    if len(oid) != _OID_LENGTH or not oid.isalnum():
        return _words("The object's id is no SHA-256.", 422)
    partial = _file(oid).with_suffix(f".{time.time_ns()}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    seen, taken = hashlib.sha256(), 0
    with partial.open("wb") as file:
        while chunk := flask.request.stream.read(_CHUNK_BYTES):
            seen.update(chunk)
            taken += file.write(chunk)
    if seen.hexdigest() != oid or taken != size:
        partial.unlink()
        return _words("The bytes are not those of the object that was named.", 400)
    partial.rename(_file(oid))
    with here().store as store:
        if _kept(project, oid) is None:
            store.put(LargeObject(id=store.next_id(LargeObject), project_id=project.id, oid=oid, size_bytes=size))
    return flask.Response(status=200)


@blueprint.get("/<path:path>.git/info/lfs/locks")
def list_locks(path: str) -> flask.Response:
    """Answer the locks."""
    project, _ = _admit(path, writing=False)
    wanted_path, wanted_id = flask.request.args.get("path"), flask.request.args.get("id")
    rows = [row for row in _locks(project) if wanted_path in {None, row.path} and wanted_id in {None, str(row.id)}]
    return _answer({"locks": [_lock(row) for row in rows]})


@blueprint.post("/<path:path>.git/info/lfs/locks")
def create_lock(path: str) -> flask.Response:
    """Lock a path."""
    project, actor = _admit(path, writing=True)
    user, wanted = _user(actor), str(_body().get("path") or "")
    with here().store as store:
        present = next((row for row in _locks(project) if row.path == wanted), None)
        if present:
            return _answer({"lock": _lock(present), "message": "already created lock"}, 409)
        row = store.put(
            Lock(id=store.next_id(Lock), project_id=project.id, path=wanted, user_id=user.id, locked_at=now())
        )
    return _answer({"lock": _lock(row)}, 201)


@blueprint.post("/<path:path>.git/info/lfs/locks/verify")
def verify_locks(path: str) -> flask.Response:
    """Answer whose the locks are, before a push."""
    project, actor = _admit(path, writing=True)
    rows = _locks(project)
    mine = [_lock(row) for row in rows if row.user_id == _user(actor).id]
    theirs = [_lock(row) for row in rows if row.user_id != _user(actor).id]
    return _answer({"ours": mine, "theirs": theirs})


@blueprint.post("/<path:path>.git/info/lfs/locks/<int:lock>/unlock")
def unlock(path: str, lock: int) -> flask.Response:
    """Remove a lock; somebody else's only with force, by a Maintainer."""
    project, actor = _admit(path, writing=True)
    row = next((row for row in _locks(project) if row.id == lock), None)
    if row is None:
        return _words("Lock not found", 404)
    user = _user(actor)
    if row.user_id != user.id:
        may_force = bool(_body().get("force")) and level(here(), project, user) >= Level.MAINTAINER
        if not may_force:
            return _words("You must have maintainer access to force delete a lock", 403)
    here().store.drop(row)
    return _answer({"lock": _lock(row)})


def _admit(path: str, *, writing: bool) -> tuple[Project, Actor]:
    actor = githttp.actor_of_request()
    return githttp.admit(find_project(here(), path), actor, writing=writing), actor


def _authorization(actor: Actor, operation: str) -> str:
    """Return the Basic header that a batch answer carries: a token for this person's Git and LFS, for some hours."""
    user = _user(actor)
    secret = signed_token(here(), user, writing=operation == "upload", life_seconds=_TOKEN_LIFE_SECONDS)
    return "Basic " + base64.b64encode(f"{user.username}:{secret}".encode()).decode()


def _actions(project: Project, operation: str, row: dict[str, Any], header: dict[str, str]) -> dict[str, Any]:
    oid, size = str(row.get("oid")), int(row.get("size") or 0)
    base = f"{here().url}/{project.path}.git/gitlab-lfs/objects/{oid}"
    known = _kept(project, oid) is not None
    shape: dict[str, Any] = {"oid": oid, "size": size}
    if operation == "download":
        if not known:
            return shape | {"error": {"code": 404, "message": _ABSENT}}
        return shape | {"actions": {"download": {"href": base, "header": header}}, "authenticated": True}
    if known:
        return shape
    extra = {"Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"}
    return shape | {"actions": {"upload": {"href": f"{base}/{size}", "header": header | extra}}, "authenticated": True}


def _kept(project: Project, oid: str) -> LargeObject | None:
    return here().store.first(LargeObject, lambda row: row.project_id == project.id and row.oid == oid)


def _file(oid: str) -> Path:
    return here().data / "lfs" / oid[:2] / oid[2:4] / oid[4:]


def _locks(project: Project) -> list[Lock]:
    return here().store.all(Lock, lambda row: row.project_id == project.id)


def _lock(row: Lock) -> dict[str, Any]:
    owner = here().store.get(User, row.user_id)
    name = owner.username if owner else ""
    return {"id": str(row.id), "path": row.path, "locked_at": moment(row.locked_at), "owner": {"name": name}}


def _user(actor: Actor) -> User:
    if actor.user is None:
        flask.abort(_words("Sign in to use Git LFS here.", 401))
    return actor.user


def _body() -> dict[str, Any]:
    found = json.loads(flask.request.get_data() or b"{}")
    return found if isinstance(found, dict) else {}


def _answer(body: object, status: int = 200) -> flask.Response:
    return flask.Response(json.dumps(body), status=status, content_type=_TYPE)


def _words(sentence: str, status: int) -> flask.Response:
    return _answer({"message": sentence}, status)
