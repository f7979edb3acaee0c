"""Binder's event stream, so that clients made for Binder work here.

For: `/build/gl/<namespace%2Fproject>/<ref>` launches and tells of it in Binder's events (phases waiting, building,
pushing, built, launching, ready, failed). Its links, `/v2/gl/…`, are the launch page's (`spawner.web.launch`).
Promises: a stream launches only what a link would launch by itself: a member's, asked for by a program's bearer or by
a page of ours; every refusal is one `failed` event, as an EventSource shows nothing else; a browser is told no token.
Must not know: how a session is launched, awaited or opened.
Source: https://binderhub.readthedocs.io/en/latest/api.html (2026-04).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from flask import Blueprint, Response, request

from spawner.api.openapi import Operation, operation
from spawner.api.stream import ENDS_READY, Cursor, SessionStream, streamed
from spawner.context import Edge, admit_launch, current_caller, edge, options, sent_below, services
from spawner.errors import Forbidden, InvalidInput, RequestForged, SpawnerError
from spawner.sessions.addresses import Destination
from spawner.sessions.binder import parse_spec
from spawner.sessions.model import EventKind, LaunchRequest, Phase, Session
from spawner.sessions.options import default_class
from spawner.sessions.service import LaunchCommand
from spawner.users.access import may_launch_unasked
from spawner.users.model import Caller

_OVER = "over"  # the id of the one event of a refusal: a client that comes back with it is told that this was all
_BUILDING: Final = frozenset({"running", "success"})


# ---------------------------------------------------------------- the stream


class BinderStream(SessionStream):
    """One viewer of one launch, who knows Binder's events."""

    def __init__(self, carried: Edge, caller: Caller, session: Session) -> None:
        super().__init__(carried, caller, session)
        self._carried, self._viewer, self._shown = carried, caller, session
        self._phase = "waiting"
        self.ends = ENDS_READY

    def render(self, event: str, data: Mapping[str, Any], cursor: str) -> bytes:
        """Return one of our events as Binder's; empty for one that Binder has no word for."""
        return b"".join(binder_frame(told, cursor) for told in self._told(EventKind(event), data))

    def _told(self, kind: EventKind, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        message = f"{data['message']}\n"
        match kind:
            case EventKind.LOG:
                yield self._in("building", str(data["text"]))
            case EventKind.BUILD if data.get("status") in _BUILDING:
                yield self._in("building", message)
            case EventKind.IMAGE:
                if self._phase == "building":  # whose next phase clients expect to be this one
                    yield self._in("pushing", "The image is in the registry.\n", progress={})
                yield self._in("built", message, imageName=data["reference"])
            case EventKind.STEP:
                yield self._in("launching", message)
            case EventKind.PHASE if data["phase"] == Phase.STARTING:
                yield self._in("launching", message)
            case EventKind.READY:
                yield self._ready()
            case EventKind.FAILED | EventKind.GONE:
                yield self._in("failed", f"{' '.join(filter(None, (data['message'], data.get('remedy'))))}\n")
            case EventKind.PHASE if data["phase"] in {Phase.RUNNING, Phase.STOPPING}:
                return
            case _:
                yield self._in(self._phase, message)

    def _in(self, phase: str, message: str, **more: object) -> dict[str, Any]:
        self._phase = phase
        return {"phase": phase, "message": message, **more}

    def _ready(self) -> dict[str, Any]:
        try:
            session = self._carried.services.sessions.own(self._viewer, self._shown.name)
            url, token = self._way_in(session)
        except SpawnerError as error:
            return self._in("failed", f"{error.message} {error.remedy}\n")
        base = self._carried.options.public_url
        project = quote(session.project_path, safe="")
        return self._in(
            "ready",
            f"Ready at {url}\n",
            url=url,
            token=token,
            image=session.image.reference if session.image is not None else "",
            repo_url=session.project.web_url,
            binder_ref_url=f"{session.project.web_url}/-/tree/{session.sha}",
            binder_launch_host=f"{base}/",
            binder_request=f"v2/gl/{project}/{quote(session.branch, safe='')}",
            binder_persistent_request=f"v2/gl/{project}/{session.sha}",
        )

    def _way_in(self, session: Session) -> tuple[str, str]:
        """Return a URL and a token: a program's, of the session itself; a browser's, of its page and without one."""
        carried = self._carried
        if self._viewer.login_id is not None:
            return f"{carried.options.public_url}/sessions/{session.name}/", ""
        opened = carried.services.sessions.open(self._viewer, session.name)
        entrance = carried.services.doors.enter(opened.url)
        return entrance.base_url, entrance.token


def binder_frame(data: Mapping[str, Any], cursor: str) -> bytes:
    """Return one server-sent event without a name: Binder's clients listen for `message`."""
    return f"id: {cursor}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


@operation(
    Operation(
        summary="Launch a commit and tell of it in Binder's events",
        answers={200: dict[str, Any], 204: None},
        errors=(404,),
        media="text/event-stream",
        headers=("Last-Event-ID",),
    )
)
def build(provider: str, spec: str) -> Response:
    """Stream a launch as Binder does; 204 to a client that comes back after the end."""
    last = request.headers.get("Last-Event-ID")
    if last == _OVER:
        return Response(status=204)
    try:
        forges = [forge.web_url for forge in options().forges]
        return _launched(parse_spec(provider, sent_below(2, spec), forges), Cursor.parse(last))
    except SpawnerError as error:
        return _refused(error)


def _launched(destination: Destination, cursor: Cursor | None) -> Response:
    caller, carried = _asking(), edge()
    if request.args.get("build_only", "false") != "false":
        raise InvalidInput("Nothing is built without a launch here.", remedy="Leave build_only out.")
    located = services().sessions.locate(caller, destination)
    place = located.place
    if not may_launch_unasked(place.access_level, names_image=False):
        raise Forbidden(
            f"You are no member of {place.project.path}: its code would run as you.",
            remedy=f"Look at it and launch it at {carried.options.public_url}{destination.launch_path}.",
        )
    wanted = LaunchRequest(
        default_url=carried.options.default_url,
        resource_class_id=default_class(services().sessions.resource_classes()).id,
    )
    command = LaunchCommand(project=place.project.path, sha=place.commit.sha, branch=place.branch, request=wanted)
    admit_launch(caller)
    session, _is_new = services().sessions.launch(caller, command)
    stream = BinderStream(carried, caller, session)
    stream.begin(cursor)
    if cursor is not None and not stream.pending and session.phase in {Phase.RUNNING, Phase.FAILED}:
        return Response(status=204)
    return streamed(carried, stream.frames())


def _asking() -> Caller:
    """Return who asks; a browser must do so from a page of ours, or any page could start what it likes."""
    caller = current_caller()
    headers = request.headers
    is_ours = headers.get("Sec-Fetch-Site") == "same-origin" and headers.get("Sec-Fetch-Dest") == "empty"
    if caller.login_id is not None and not is_ours:
        raise RequestForged("This request is not from a page of ours.", remedy="Use the link of `/v2/gl/` instead.")
    return caller


def _refused(error: SpawnerError) -> Response:
    data = {"phase": "failed", "message": f"{' '.join(filter(None, (error.message, error.remedy)))}\n"}
    response = Response(binder_frame(data, _OVER), content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    return response


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the routes of this module."""
    blueprint.get("/build/<provider>/<path:spec>", endpoint="binder_build")(build)
