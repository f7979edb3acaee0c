"""The Git relay's edge: `/git/<session>/<project>.git/<suffix>`, with the session's own credential.

For: Git and Git LFS inside sessions, which hold no GitLab token.
Promises: one project, one of a fixed list of suffixes, and never the client's own path; both bodies stream; it
never answers 401, which would make Git ask for a password: 403 with a sentence, which Git shows, or 503; no header
of GitLab's passes but the few that Git reads; no LFS answer carries a token: its links lead back here.
Must not know: whose token is used, or how GitLab is reached.
Source: gitprotocol-http(5), Git 2.39; Git LFS API, `docs/api/batch.md` and `locking.md` (3.4).
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from spawner.context import bearer_text, services
from spawner.errors import Forbidden, ForgeUnavailable, InvalidInput, NotFound, foreign
from spawner.names import SessionName
from spawner.ports import GitAnswer, GitRequest
from spawner.sessions.agents import RelayGrant
from spawner.users.access import GitAccess

PIECE_BYTES = 65_536
NO_LIMIT_BYTES = 1 << 60  # Flask reads None as "the app's limit"
LFS_JSON: Final = "application/vnd.git-lfs+json"
LFS_LIMIT_BYTES = 4 << 20  # of a batch or a list of locks; a batch has 100 objects by default
_OBJECT = r"[0-9a-f]{64}"
_ADDRESS = re.compile(
    r"(?P<project>[^\x00-\x20\x7f]+?)(?:\.git)?/(?P<suffix>"
    r"info/refs|git-upload-pack|git-receive-pack"
    r"|info/lfs/objects/batch|info/lfs/locks(?:/verify|/[0-9]{1,18}/unlock)?"
    rf"|gitlab-lfs/objects/{_OBJECT}(?:/[0-9]{{1,18}})?)"
)
_SERVICES: Final = frozenset({"git-upload-pack", "git-receive-pack"})
_SENT_ON: Final = ("Accept", "Content-Type", "Content-Encoding", "Content-Length", "Git-Protocol")
_PASSED_BACK: Final = frozenset(
    {"content-type", "content-encoding", "content-length", "cache-control", "expires", "pragma"}
)
_LOCK_FIELDS: Final = ("path", "id", "cursor", "limit", "refspec")  # of a list of locks; without, it names another lock


def relay(session: str, rest: str) -> Response:
    """Relay one request of a session's Git."""
    request.max_content_length = NO_LIMIT_BYTES  # a push is as large as it is
    found = _ADDRESS.fullmatch(rest)
    if found is None:
        raise NotFound("This address is none that Git or Git LFS uses.")
    suffix = found["suffix"]
    if request.method not in _methods(suffix):
        raise NotFound("This address is not used in this way.")
    grant = services().agents.relay(bearer_text(), SessionName(session))
    if found["project"].lower() != grant.project.lower():
        raise Forbidden(f"This session's Git reaches {grant.project} only.")
    if suffix.startswith("info/lfs/"):
        return _lfs(grant, suffix)
    _check(grant, is_write=_is_write(suffix))
    return _streamed(grant, suffix)


def _methods(suffix: str) -> frozenset[str]:
    """Return how Git and Git LFS use an address."""
    if suffix == "info/lfs/locks":
        return frozenset({"GET", "POST"})
    if suffix.startswith("gitlab-lfs/objects/"):
        is_sized = suffix.count("/") == 3  # noqa: PLR2004 - `gitlab-lfs/objects/<oid>/<size>`
        return frozenset({"PUT" if is_sized else "GET"})
    return frozenset({"GET" if suffix == "info/refs" else "POST"})


def _is_write(suffix: str) -> bool:
    if suffix == "info/refs":
        service = request.args.get("service", "")
        if service not in _SERVICES:
            raise Forbidden("This Git is too old for the relay: it needs the smart HTTP protocol.")
        return service == "git-receive-pack"
    return suffix == "git-receive-pack" or request.method == "PUT"


def _check(grant: RelayGrant, *, is_write: bool) -> None:
    if grant.access is GitAccess.NONE:
        raise Forbidden(f"You may not read {grant.project} any more, or the token of this session may not.")
    if is_write and grant.access is not GitAccess.WRITE:
        raise Forbidden(
            f"This session may read {grant.project}, not push to it.",
            remedy="Pushing needs the role Developer, and a token that may write.",
        )


def _request(suffix: str, body: Iterator[bytes] | None, headers: Mapping[str, str] | None = None) -> GitRequest:
    sent = {name: request.headers[name] for name in _SENT_ON if name in request.headers}
    return GitRequest(
        method=request.method,
        suffix=suffix,
        query=_query(suffix),
        headers=sent if headers is None else headers,
        body=body,
    )


def _query(suffix: str) -> str:
    """Return what of the query is sent on, encoded anew: Git's service, or which locks are asked for."""
    names = {"info/refs": ("service",), "info/lfs/locks": _LOCK_FIELDS}.get(suffix, ())
    return urlencode([(name, request.args[name]) for name in names if name in request.args])


def _pieces() -> Iterator[bytes]:
    while piece := request.stream.read(PIECE_BYTES):
        yield piece


def _streamed(grant: RelayGrant, suffix: str) -> Response:
    """Send the request on as it comes in and the answer back as it comes in."""
    body = _pieces() if request.method in {"POST", "PUT"} else None
    with ExitStack() as held:
        answer = held.enter_context(services().forge.git(grant.credential, grant.project, _request(suffix, body)))
        _refuse(answer, grant)
        headers = {name: value for name, value in answer.headers.items() if name.lower() in _PASSED_BACK}
        response = Response(answer.body, status=answer.status, headers=headers)
        response.call_on_close(held.pop_all().close)
    return response


def _refuse(answer: GitAnswer, grant: RelayGrant) -> None:
    """Raise for every answer of the forge that is none for Git to read."""
    if answer.status < 300:  # noqa: PLR2004 - HTTP
        return
    said = foreign(b"".join(_capped(answer.body)).decode("utf-8", errors="replace"))
    if answer.status == 404:  # noqa: PLR2004 - HTTP
        raise NotFound(f"GitLab does not find {grant.project}, or you may not see it any more.")
    if 400 <= answer.status < 500:  # noqa: PLR2004 - HTTP
        is_html = "<html" in said.lower() or "<!doctype" in said.lower()
        raise Forbidden("GitLab refused this." if is_html or not said else f"GitLab refused this: {said}")
    raise ForgeUnavailable("GitLab cannot be reached through the relay just now.", retry_after_seconds=5)


def _capped(body: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a body's first pieces; raises ForgeUnavailable beyond the limit."""
    size = 0
    for piece in body:
        size += len(piece)
        if size > LFS_LIMIT_BYTES:
            raise ForgeUnavailable("GitLab's answer is too large for the relay.")
        yield piece


# ---------------------------------------------------------------- LFS


def _lfs(grant: RelayGrant, suffix: str) -> Response:
    """Answer a batch or a lock request: GitLab is asked, and its answer is written anew, without a token."""
    asked = _lfs_body()
    is_batch = suffix.endswith("/batch")
    is_write = asked.get("operation") == "upload" if is_batch else request.method != "GET"
    _check(grant, is_write=is_write)
    content = json.dumps(asked).encode()
    headers = {"Accept": LFS_JSON, "Content-Type": LFS_JSON}
    body = iter((content,)) if request.method == "POST" else None
    asking = _request(suffix, body, headers)
    with services().forge.git(grant.credential, grant.project, asking) as answer:
        if answer.status != 409:  # noqa: PLR2004 - a lock that somebody else holds: the client shows who
            _refuse(answer, grant)
        told = _json(b"".join(_capped(answer.body)))
        status = answer.status
    anew = batch_answer(told, _relay_url(suffix)) if is_batch else lock_answer(told)
    return Response(json.dumps(anew), status=status, content_type=LFS_JSON)


def _lfs_body() -> dict[str, Any]:
    if request.method == "GET":
        return {}
    if request.method != "POST" or (request.content_length or 0) > LFS_LIMIT_BYTES:
        raise Forbidden("This is no request of Git LFS.")
    content = b"".join(_capped(_pieces()))
    try:
        asked = json.loads(content)
    except ValueError as exc:
        raise InvalidInput("This request of Git LFS is not JSON.") from exc
    if not isinstance(asked, dict):
        raise InvalidInput("This request of Git LFS is not a JSON object.")
    if "objects" in asked:
        asked["transfers"] = ["basic"]
    return asked


def _json(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content)
    except ValueError as exc:
        raise ForgeUnavailable("GitLab answered what is no answer of Git LFS.") from exc
    if not isinstance(told, dict):
        raise ForgeUnavailable("GitLab answered what is no answer of Git LFS.")
    return told


def _relay_url(suffix: str) -> str:
    """Return the relay's address of this project, as the session itself wrote it."""
    return request.base_url[: -len(suffix)].rstrip("/")


def batch_answer(told: Mapping[str, Any], relay_url: str) -> dict[str, Any]:
    """Return a batch answer whose links lead to the relay; nothing of the forge's own links or headers is kept."""
    objects = [_lfs_object(each, relay_url) for each in told.get("objects") or () if isinstance(each, dict)]
    return {"transfer": "basic", "objects": [each for each in objects if each is not None]}


def _lfs_object(each: Mapping[str, Any], relay_url: str) -> dict[str, Any] | None:
    oid, size = str(each.get("oid", "")), each.get("size")
    if re.fullmatch(_OBJECT, oid) is None or not isinstance(size, int):
        return None
    kept: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    error = each.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        kept["error"] = {"code": code if isinstance(code, int) else 404, "message": foreign(error.get("message", ""))}
    actions = each.get("actions") or {}
    links = {
        "download": f"{relay_url}/gitlab-lfs/objects/{oid}",
        "upload": f"{relay_url}/gitlab-lfs/objects/{oid}/{size}",
    }
    found = {action: {"href": href} for action, href in links.items() if action in actions}
    return {**kept, "actions": found} if found else kept


def lock_answer(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer about locks with the fields that the client reads, and no others."""
    kept: dict[str, Any] = {}
    for name in ("locks", "ours", "theirs"):
        if isinstance(told.get(name), list):
            kept[name] = [_lock(each) for each in told[name] if isinstance(each, dict)]
    if isinstance(told.get("lock"), dict):
        kept["lock"] = _lock(told["lock"])
    for name in ("next_cursor", "message"):
        if isinstance(told.get(name), str):
            kept[name] = foreign(told[name])
    return kept


def _lock(each: Mapping[str, Any]) -> dict[str, Any]:
    owner = each.get("owner")
    name = foreign(owner.get("name", "")) if isinstance(owner, dict) else ""
    return {
        "id": str(each.get("id", ""))[:64],
        "path": str(each.get("path", ""))[:4096],
        "locked_at": str(each.get("locked_at", ""))[:64],
        "owner": {"name": name},
    }


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the relay."""
    blueprint.add_url_rule(
        "/git/<session>/<path:rest>", endpoint="git_relay", view_func=relay, methods=["GET", "POST", "PUT"]
    )
