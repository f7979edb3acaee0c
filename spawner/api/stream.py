"""Event streams: the event log of one session, or of all of a person's, as server-sent events.

For: pages and programs that wait. Each frame's `id:` is a cursor; sent back as `Last-Event-ID` it resumes.
Promises: nothing of the log is skipped or sent twice; the build's log travels in the same stream (cursor
`<event id>-<log offset>`); an announcement makes it prompt, one look at the log every 2 s, for all viewers of this
process, makes it certain; a comment every 15 s keeps it open; a reconnect after the last event gets 204, so that
browsers stop.
Must not know: how announcements travel, the database.
Source: the HTML standard, "Server-sent events" (2024).
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from flask import Blueprint, Response, request

from spawner import metrics
from spawner.api.openapi import Operation, operation
from spawner.api.schemas import EventsQuery, read_query
from spawner.context import Edge, current_caller, edge, jobs_too, login_required
from spawner.errors import NotFound, SpawnerError, TooManyViewers
from spawner.names import SessionName
from spawner.services import Services
from spawner.sessions.model import Event, EventKind, Phase, Session, since_launch
from spawner.users.model import Caller

KEEP_ALIVE_SECONDS = 15.0  # a proxy that cuts quiet connections usually waits 30 s or more
RECONNECT_MILLISECONDS = 1000
LOGIN_SECONDS = 5.0  # between two looks at whether a viewer is still signed in, and may still see the session
LOG_PIECE_BYTES = 16_384
EVENTS_LIMIT = 500  # what one look returns at most
CURSOR_LIMIT = 6000  # gunicorn refuses header fields beyond 8190 bytes
_NUMBER = re.compile(r"[0-9]{1,9}")
_STILL_STARTING = frozenset({Phase.NEW, Phase.QUEUED, Phase.WAITING, Phase.STARTING})
ENDS_READY = frozenset({EventKind.READY, EventKind.FAILED, EventKind.GONE})
_READY_PHASES = frozenset({Phase.RUNNING, Phase.FAILED, Phase.GONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a viewer has read: the newest event's id, and the bytes of the build's log."""

    event: int = 0
    log: int = 0

    def __str__(self) -> str:
        return f"{self.event}-{self.log}"

    @classmethod
    def parse(cls, text: str | None) -> "Cursor | None":
        """Read a cursor; None for anything that is not one."""
        event, _, log = (text or "").partition("-")
        if _NUMBER.fullmatch(event) is None:
            return None
        return cls(event=int(event), log=int(log) if _NUMBER.fullmatch(log) else 0)


def frame(event: str, data: Mapping[str, Any], cursor: str) -> bytes:
    """Return one server-sent event."""
    head = f"id: {cursor}\n" if cursor else ""
    return f"{head}event: {event}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def event_data(event: Event) -> dict[str, Any]:
    """Return what `data:` holds: the event's own fields, then when, in which phase and the sentence."""
    return {**event.data, "at": event.at.isoformat(), "phase": event.phase.value, "message": event.message}


def last_of(events: Sequence[Event], ends: frozenset[EventKind]) -> int | None:
    """Return the id of the event that ends a stream, unless the session went on starting after it."""
    for event in reversed(events):
        if event.kind in ends:
            return event.id
        if event.phase in _STILL_STARTING:
            return None
    return None


def pieces(text: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, piece) from `start` on, never cutting a character in two."""
    while start < len(text):
        end = min(start + LOG_PIECE_BYTES, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a UTF-8 continuation byte
            end -= 1
        yield start, text[start:end]
        start = end


class SignedIn:
    """Whether a viewer's login still stands: signing out ends their streams too, in every tab."""

    def __init__(self, services: Services, caller: Caller) -> None:
        self._services = services
        self._login_id = caller.login_id
        self._asked_at = time.monotonic()

    def still(self) -> bool:
        """Ask again every few seconds; a bearer's streams last as long as their connection."""
        if self._login_id is None or time.monotonic() - self._asked_at < LOGIN_SECONDS:
            return True
        self._asked_at = time.monotonic()
        try:
            return self._services.users.login(self._login_id) is not None
        except SpawnerError:  # the database was away for a moment
            return True


class SessionStream:
    """One viewer of one session."""

    def __init__(self, carried: Edge, caller: Caller, session: Session) -> None:
        self._services = carried.services
        self._announcements = carried.options.announcements
        self._looks = carried.looks
        self._caller = caller
        self._signed_in = SignedIn(carried.services, caller)
        self._session = session
        self._read_at = time.monotonic()
        self._is_announced = False
        self._name = session.name
        self._log_bytes_seen = 0
        self.cursor = Cursor()
        self.ends = frozenset({EventKind.GONE})
        self.pending: Sequence[Event] = ()

    def begin(self, cursor: Cursor | None) -> None:
        """Take the place to go on from (None: this generation's first event) and read what is there."""
        events = self._events(cursor.event if cursor else 0)
        self.pending = events if cursor else since_launch(events)
        self.cursor = cursor or Cursor()

    def render(self, event: str, data: Mapping[str, Any], cursor: str) -> bytes:
        """Return one frame; another dialect of events has its own."""
        return frame(event, data, cursor)

    def _events(self, after: int) -> Sequence[Event]:
        events = list(self._services.sessions.events(self._caller, self._name, after=after))
        more: Sequence[Event] = events
        while len(more) >= EVENTS_LIMIT:
            more = self._services.sessions.events(self._caller, self._name, after=events[-1].id)
            events.extend(more)
        return events

    def frames(self) -> Iterator[bytes]:
        """Yield frames until the last event; ends quietly when the person may no longer see the session."""
        yield f"retry: {RECONNECT_MILLISECONDS}\n\n".encode()
        written_at = time.monotonic()
        with suppress(NotFound), self._looks.watching(self._name, self.cursor.event):
            while True:
                for piece in filter(None, self._batch()):
                    written_at = time.monotonic()
                    yield piece
                if last_of(self.pending, self.ends) is not None:
                    return
                if time.monotonic() - written_at >= KEEP_ALIVE_SECONDS:
                    written_at = time.monotonic()
                    yield b": keep-alive\n\n"
                if not self._signed_in.still():
                    return
                self._is_announced = self._announcements.wait({self._name}, self._looks.seconds_left())
                self.pending = self._look()

    def _look(self) -> Sequence[Event]:
        seen = self.cursor.event
        is_due = self._is_announced or time.monotonic() - self._read_at >= LOGIN_SECONDS
        try:
            if not is_due and not self._looks.has_news(self._name, seen, self._services.sessions.events_of):
                return ()
            self._read_at = time.monotonic()
            return self._events(seen)
        except NotFound:
            raise
        except SpawnerError:  # the database was away for a moment: the next look is 2 s off
            return ()

    def _batch(self) -> Iterator[bytes]:
        for event in self.pending:
            if event.kind in self.ends or event.kind is EventKind.IMAGE:  # the wait is over: its log comes first
                yield from self._log()
            self.cursor = replace(self.cursor, event=event.id)
            yield self.render(event.kind.value, event_data(event), str(self.cursor))
        yield from self._log()

    def _log(self) -> Iterator[bytes]:
        """Yield what the build's log has grown by; a log that was started anew begins again, and says so."""
        sessions = self._services.sessions
        with suppress(SpawnerError):  # the event log is worth showing without the build's
            build = self._looks.once(
                ("build", self._session.build_id),
                lambda: sessions.build_of(self._session),
                # What was announced may be that the log grew; and an event may be the build's end.
                is_fresh=self._is_announced or bool(self.pending),
            )
            if build is None or not build.log_bytes or build.log_bytes == self._log_bytes_seen:
                return
            text = sessions.build_log(self._caller, self._session).encode()
            yield from self._log_since(text)
            if text:  # where GitLab could not say whether one may read it, the next look asks again
                self._log_bytes_seen = build.log_bytes

    def _log_since(self, text: bytes) -> Iterator[bytes]:
        if not text:
            return
        is_anew = self.cursor.log > len(text)
        start = 0 if is_anew else self.cursor.log
        for offset, piece in pieces(text, start):
            yield self._log_frame(piece, offset, is_anew=is_anew and offset == 0)

    def _log_frame(self, piece: bytes, offset: int, *, is_anew: bool) -> bytes:
        self.cursor = replace(self.cursor, log=offset + len(piece))
        data = {
            "container": "image-build",
            "text": piece.decode("utf-8", errors="replace"),
            "offset": offset,
            "is_anew": is_anew,
            "at": self._services.clock.now().isoformat(),
            "phase": Phase.WAITING.value,
            "message": "",
        }
        return self.render(EventKind.LOG.value, data, str(self.cursor))


class PersonStream:
    """One viewer of all of a person's sessions; the cursor holds one number per session that has not long been gone."""

    def __init__(self, carried: Edge, caller: Caller) -> None:
        self._services = carried.services
        self._announcements = carried.options.announcements
        self._looks = carried.looks
        self._caller = caller
        self._signed_in = SignedIn(carried.services, caller)
        self._cursors: dict[SessionName, int] = {}

    def begin(self, cursors: Mapping[SessionName, int] | None) -> None:
        """Take the places to go on from (None: now)."""
        heads = self._services.sessions.heads(self._caller)
        self._cursors = dict(heads) if cursors is None else {name: cursors.get(name, 0) for name in heads}

    def frames(self) -> Iterator[bytes]:
        """Yield frames until the viewer leaves."""
        yield f"retry: {RECONNECT_MILLISECONDS}\n\n".encode()
        written_at, is_announced = time.monotonic(), True
        while True:
            for event in self._look(is_announced=is_announced):
                self._cursors[event.session] = event.id
                written_at = time.monotonic()
                yield frame(event.kind.value, {"session": event.session, **event_data(event)}, self._cursor())
            if time.monotonic() - written_at >= KEEP_ALIVE_SECONDS:
                written_at = time.monotonic()
                yield b": keep-alive\n\n"
            if not self._signed_in.still():
                return
            is_announced = self._announcements.wait(frozenset(self._cursors), self._looks.seconds_left())

    def _look(self, *, is_announced: bool) -> Sequence[Event]:
        sessions = self._services.sessions
        question = ("heads", self._caller.user.id)
        try:
            heads = self._looks.once(question, lambda: sessions.heads(self._caller), is_fresh=is_announced) or {}
            self._cursors = {name: self._cursors.get(name, 0) for name in heads}
            behind = {name: seen for name, seen in self._cursors.items() if heads[name] > seen}
            return _this_life(sessions.events_of(behind), behind) if behind else ()
        except SpawnerError:  # the database was away for a moment: the next look is 2 s off
            return ()

    def _cursor(self) -> str:
        text = ",".join(f"{name}:{event}" for name, event in self._cursors.items())
        return text if len(text) <= CURSOR_LIMIT else ""


def _this_life(events: Sequence[Event], behind: Mapping[SessionName, int]) -> Sequence[Event]:
    """Leave out the lives before the last launch of a session that the viewer does not know, or knows no more."""
    by_session = groupby(events, key=lambda event: event.session)  # in that order they come
    lives = (list(found) if behind[name] else since_launch(list(found)) for name, found in by_session)
    return [event for life in lives for event in life]


def parse_cursors(text: str | None) -> dict[SessionName, int] | None:
    """Read the cursor of a person's stream; None for anything that is not one."""
    found: dict[SessionName, int] = {}
    for part in (text or "").split(","):
        name, _, event = part.partition(":")
        cursor = Cursor.parse(event)
        if cursor is None:
            return None
        found[SessionName(name)] = cursor.event
    return found


# ---------------------------------------------------------------- views


@operation(
    Operation(
        summary="The session's events, as they happen",
        query=EventsQuery,
        answers={200: str, 204: None},
        errors=(404, 422),
        media="text/event-stream",
        headers=("Last-Event-ID",),
    )
)
@login_required
@jobs_too
def session_events(name: str) -> Response:
    """Stream a session's events; 204 when there will be no more."""
    caller, query, carried = current_caller(), read_query(request, EventsQuery), edge()
    session = carried.services.sessions.get(caller, SessionName(name))
    stream = SessionStream(carried, caller, session)
    if query.until == "ready":
        stream.ends = ENDS_READY
    cursor = Cursor.parse(request.headers.get("Last-Event-ID") or query.after)
    stream.begin(cursor)
    over = session.phase in (_READY_PHASES if query.until == "ready" else {Phase.GONE})
    if cursor is not None and over and not stream.pending:
        return Response(status=204)
    return streamed(carried, stream.frames())


@operation(
    Operation(
        summary="The events of all of the person's sessions, as they happen",
        query=EventsQuery,
        answers={200: str},
        errors=(422,),
        media="text/event-stream",
        headers=("Last-Event-ID",),
    )
)
@login_required
def person_events() -> Response:
    """Stream the events of all of a person's sessions."""
    caller, query, carried = current_caller(), read_query(request, EventsQuery), edge()
    stream = PersonStream(carried, caller)
    stream.begin(parse_cursors(request.headers.get("Last-Event-ID") or query.after))
    return streamed(carried, stream.frames())


def streamed(carried: Edge, frames: Iterator[bytes]) -> Response:
    """Return a stream that holds one of the viewers' places until it ends."""
    if not carried.viewers.acquire(blocking=False):
        raise TooManyViewers(
            "Too many people are watching just now.", remedy="The page tries again by itself.", retry_after_seconds=5
        )
    metrics.VIEWERS.inc()
    response = Response(frames, content_type="text/event-stream; charset=utf-8")
    response.call_on_close(carried.viewers.release)
    response.call_on_close(metrics.VIEWERS.dec)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the stream of one session."""
    blueprint.get("/servers/<name>/events", endpoint="server_events")(session_events)


def register_own(blueprint: Blueprint) -> None:
    """Give a blueprint the stream of all of a person's sessions."""
    blueprint.get("/events", endpoint="events")(person_events)
