"""The compatible contract's own rows: launch, list, look, change, stop, logs, options, images, version.

For: clients written for Renku's notebooks service, under `/notebooks` and `/api/notebooks` alike.
Promises: parse, one service method, render; codes, messages and shapes as `reference/session-api.md` §1 has them.
Must not know: how anything is decided or stored.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, make_response, request

from spawner.api.bodies import OpenedBody, ServerBody, ServersBody
from spawner.api.kept import KeptMembers
from spawner.api.openapi import JSON, Operation, operation
from spawner.api.rendering import Around, iso, server_body
from spawner.api.requests import launch_command
from spawner.api.schemas import (
    ImageQuery,
    LaunchBody,
    ListQuery,
    LogsQuery,
    PatchBody,
    StopQuery,
    read_body,
    read_query,
)
from spawner.context import admit_launch, current_caller, jobs_too, login_required, options, services
from spawner.errors import SessionNotFound
from spawner.images.model import Build
from spawner.names import SessionName
from spawner.sessions.model import Phase, Session
from spawner.sessions.store import Filter, Stamp
from spawner.users.model import Caller

CONTRACT_VERSION = "1.31.0"  # of the service whose contract this is
PAGE_LIMIT = 100
DEFAULT_PAGE = 20
_EXTENSION = "slipway.lists"


# ---------------------------------------------------------------- launch, list, look


@operation(
    Operation(
        summary="Launch a session, or find the one that is there (200)",
        body=LaunchBody,
        answers={201: ServerBody, 200: ServerBody},
        errors=(404, 409),
    )
)
@login_required
@jobs_too
def launch() -> Response:
    """Launch a session; idempotent."""
    caller = current_caller()
    command = launch_command(read_body(request, LaunchBody), services().sessions.resource_classes(), options())
    admit_launch(caller)
    session, is_new = services().sessions.launch(caller, command)
    return _server(session, status=201 if is_new else 200)


@operation(
    Operation(summary="The person's sessions", query=ListQuery, answers={200: ServersBody, 304: None}, errors=(422,))
)
@login_required
@jobs_too
def index() -> Response:
    """List the person's sessions; whole unless a page is asked for, and unchanged (304) by its ETag."""
    caller = current_caller()
    query = read_query(request, ListQuery)
    wanted = Filter(
        user_id=caller.user.id,
        namespace=query.namespace.lower() if query.namespace is not None else None,
        project=query.project.lower() if query.project is not None else None,
        branch=query.branch,
        sha=query.commit_sha,
    )
    limit = None
    if query.page is not None or query.per_page is not None:
        limit = query.per_page or DEFAULT_PAGE
    stamps = services().sessions.stamps(caller, wanted, offset=((query.page or 1) - 1) * (limit or 0), limit=limit)
    etag = sha256(repr(stamps).encode()).hexdigest()[:32]
    if etag in request.if_none_match:
        response = Response(status=304)
    else:
        response = Response(_listed(caller, stamps), mimetype=JSON)
    response.set_etag(etag)
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def _listed(caller: Caller, stamps: Sequence[Stamp]) -> bytes:
    """Return the list's bytes; only sessions that changed since this process last showed them are read."""
    kept: KeptMembers = current_app.extensions[_EXTENSION]
    members = {stamp.name: kept.find(stamp) for stamp in stamps}
    changed = {stamp.name: stamp for stamp in stamps if members[stamp.name] is None}
    for session, build in services().sessions.some(caller, list(changed)):
        body = server_body(session, replace(_place(session), build=_shown(session, build)))
        member = f"{json.dumps(session.name)}:{json.dumps(body, separators=(',', ':'))}".encode()
        members[session.name] = member
        kept.keep(changed[session.name], member)
    return b'{"servers":{' + b",".join(member for member in members.values() if member is not None) + b"}}"


@operation(Operation(summary="One session", answers={200: ServerBody}, errors=(404,)))
@login_required
@jobs_too
def show(name: str) -> Response:
    """Show a session."""
    return _server(find(current_caller(), name))


def find(caller: Caller, name: str) -> Session:
    """Return a session that has not gone; raises SessionNotFound in the contract's words."""
    with _named(name):
        session = services().sessions.get(caller, SessionName(name))
        if session.phase is Phase.GONE:
            raise SessionNotFound("")
        return session


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except SessionNotFound as exc:
        raise SessionNotFound(f"The server {name} does not exist.") from exc


# ---------------------------------------------------------------- change, stop, open


@operation(
    Operation(
        summary="Hibernate or resume a session, start it now, or relaunch it on the image that has arrived",
        body=PatchBody,
        answers={200: ServerBody, 204: None},
        errors=(404, 409),
    )
)
@login_required
def change(name: str) -> Response:
    """Change a session; answers 200 with the session, or 204 where the settings say so."""
    caller = current_caller()
    body = read_body(request, PatchBody)
    find(caller, name)
    with _named(name):
        _change(caller, SessionName(name), body)
    if options().patch_status == 204:  # noqa: PLR2004 - HTTP
        return Response(status=204)
    return _server(find(caller, name))


def _change(caller: Caller, name: SessionName, body: PatchBody) -> None:
    sessions = services().sessions
    if body.start is not None:
        sessions.start_now(caller, name)
    if body.image is not None:
        sessions.use_built_image(caller, name)
    if body.state is not None or body.resource_class_id is not None:
        sessions.patch_state(caller, name, state=body.state, resource_class_id=body.resource_class_id)


@operation(Operation(summary="Stop a session", query=StopQuery, answers={204: None}, errors=(404, 422)))
@login_required
def stop(name: str) -> Response:
    """Stop a session."""
    read_query(request, StopQuery)  # nothing is saved at a stop yet, so there is nothing to skip
    with _named(name):
        services().sessions.stop(current_caller(), SessionName(name))
    return Response(status=204)


@operation(Operation(summary="A way into a running session", answers={201: OpenedBody}, errors=(404, 409)))
@login_required
def open_(name: str) -> Response:
    """Make a URL that opens the session once."""
    with _named(name):
        opened = services().sessions.open(current_caller(), SessionName(name))
    body: OpenedBody = {"url": opened.url, "expires_at": iso(opened.expires_at)}
    response = make_response(jsonify(body), 201)
    response.headers["Cache-Control"] = "no-store"
    return response


# ---------------------------------------------------------------- logs, images, options, version


@operation(
    Operation(
        summary="The last lines of each container", query=LogsQuery, answers={200: dict[str, str]}, errors=(404, 422)
    )
)
@login_required
def logs(name: str) -> Response:
    """Return logs by container, those that have any."""
    query = read_query(request, LogsQuery)
    with _named(name):
        found = services().sessions.logs(current_caller(), SessionName(name), max_lines=query.max_lines)
    return jsonify({container: text for container, text in found.items() if text})


@operation(
    Operation(summary="Whether an image can be used", query=ImageQuery, answers={200: None, 404: None}, errors=(422,))
)
@login_required
def images() -> Response:
    """Answer 200 or 404, without a body."""
    query = read_query(request, ImageQuery)
    return Response(status=200 if services().sessions.image_exists(current_caller(), query.image_url) else 404)


@operation(Operation(summary="What a launch may choose", answers={200: dict[str, Any]}))
@login_required
def server_options() -> Response:
    """Return the options of a launch."""
    return jsonify(
        {
            "defaultUrl": {
                "order": 1,
                "displayName": "Default Environment",
                "type": "enum",
                "default": options().default_url,
                "options": list(options().default_urls),
            },
            "lfs_auto_fetch": {
                "order": 6,
                "displayName": "Automatically fetch LFS data",
                "type": "boolean",
                "default": False,
            },
            "cloudstorage": {"enabled": False},
        }
    )


@operation(
    Operation(summary="The contract's version and what is switched on", answers={200: dict[str, Any]}, security="none")
)
def version() -> Response:
    """Return the version."""
    off = {"idle": 0, "hibernation": 0}  # seconds; nothing is ended for being idle
    data = {
        "anonymousSessionsEnabled": False,
        "cloudstorageEnabled": False,
        "sshEnabled": False,
        "defaultCullingThresholds": {"registered": off, "anonymous": off},
    }
    return jsonify({"name": "renku-notebooks", "versions": [{"version": CONTRACT_VERSION, "data": data}]})


# ---------------------------------------------------------------- rendering


def _around(session: Session) -> Around:
    """Read what a server object says beside the session."""
    sessions = services().sessions
    return replace(
        _place(session),
        build=None if session.phase is Phase.NEW else sessions.build_of(session),  # as in `_shown`
        usage=sessions.usage(session) if session.phase is Phase.RUNNING else None,
    )


def _shown(session: Session, build: Build | None) -> Build | None:
    return None if session.phase is Phase.NEW else build  # nobody has looked at the commit for this session yet


def _place(session: Session) -> Around:
    forges = options().forges
    forge = next((each for each in forges if each.name == session.forge), forges[0])
    return Around(
        public_url=options().public_url, forge_url=forge.web_url, classes=services().sessions.resource_classes()
    )


def _server(session: Session, *, status: int = 200) -> Response:
    return make_response(jsonify(server_body(session, _around(session))), status)


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the routes of this module."""
    blueprint.record_once(lambda state: state.app.extensions.setdefault(_EXTENSION, KeptMembers()))
    blueprint.get("/version")(version)
    blueprint.get("/servers", endpoint="list_servers")(index)
    blueprint.post("/servers", endpoint="launch_server")(launch)
    blueprint.get("/servers/<name>", endpoint="show_server")(show)
    blueprint.patch("/servers/<name>", endpoint="change_server")(change)
    blueprint.delete("/servers/<name>", endpoint="stop_server")(stop)
    blueprint.post("/servers/<name>/open", endpoint="open_server")(open_)
    blueprint.get("/server_options")(server_options)
    blueprint.get("/logs/<name>")(logs)
    blueprint.get("/images")(images)
