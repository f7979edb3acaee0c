"""Sessions and their event log (`SessionStore`); the rest of it comes from `workloads` and `cleanup`.

Promises: the lease is one conditional UPDATE by the database's clock; whoever finds it taken raises `wanted`
in that same statement, and `release` succeeds only while `wanted` is what the holder saw, so that no wake-up
is dropped. A save that races with a wake-up leaves the session due, so that a holder that dies between its
save and its release loses nothing either. An event's id is taken in the UPDATE that raises the version.
Must not know: what a phase means, beyond "ended" and "gone".
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    String,
    Update,
    and_,
    case,
    column,
    insert,
    or_,
    select,
    update,
    values,
)

from spawner.names import SessionName, UserId
from spawner.sessions.model import Event, LaunchRequest, NewEvent, Phase, Session, Target
from spawner.sessions.store import Claim, Filter, Stamp
from spawner.store import documents, mapping, statements, tables, upsert
from spawner.store.cleanup import CleanupRows
from spawner.store.engine import reading, writing
from spawner.store.statements import PEOPLES_COLUMNS
from spawner.store.types import DatabaseTime
from spawner.store.workloads import WorkloadRows

_sessions = tables.sessions
_events = tables.events
_builds = tables.builds


class SessionRows(WorkloadRows, CleanupRows):
    """`SessionStore` over an engine; `clock` dates events and what is made due."""

    # ------------------------------------------------------------ rows

    def add(self, session: Session, events: Sequence[NewEvent]) -> tuple[Session, bool]:
        """Insert the session with its first events; (the row already there, False) when the name is taken."""
        new = replace(session, version=0, events=len(events))
        columns = {**mapping.session_to_columns(new), "version": 0, "events": len(events), "wanted": 0}
        with writing(self._engine) as connection:
            if upsert.insert_new(connection, _sessions, columns):
                self._log(connection, new, events)
                return new, True
            there = connection.execute(select(_sessions).where(_sessions.c.name == session.name)).mappings().one()
            return mapping.session_from_columns(dict(there)), False

    def get(self, name: SessionName) -> Session | None:
        """Return a session, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(statements.GET, {"the_name": name}).mappings().first()
        return None if row is None else mapping.session_from_columns(dict(row))

    def list(self, wanted: Filter, *, offset: int = 0, limit: int | None = None) -> Sequence[Session]:
        """Return matching sessions, newest first; reads no row of another person or, by default, of history."""
        statement = _page(select(_sessions).where(*_conditions(wanted)), offset, limit)
        with reading(self._engine) as connection:
            rows = connection.execute(statement).mappings().all()
        return [mapping.session_from_columns(dict(row)) for row in rows]

    def stamps(self, wanted: Filter, *, offset: int = 0, limit: int | None = None) -> Sequence[Stamp]:
        """Return the stamps of what `list` would return, in its order; reads no JSON."""
        people = (_sessions.c[name] for name in PEOPLES_COLUMNS)
        statement = _page(
            select(_sessions.c.name, _sessions.c.version, _builds.c.version, *people)
            .join_from(_sessions, _builds, _builds.c.id == _sessions.c.build_id, isouter=True)
            .where(*_conditions(wanted)),
            offset,
            limit,
        )
        with reading(self._engine) as connection:
            rows = connection.execute(statement).all()
        return [Stamp(SessionName(name), ".".join(map(str, rest))) for name, *rest in rows]

    def some(self, names: Sequence[SessionName]) -> Sequence[Session]:
        """Return the sessions of these names, in no order; those that do not exist are left out."""
        if not names:
            return []
        with reading(self._engine) as connection:
            rows = connection.execute(select(_sessions).where(_sessions.c.name.in_(names))).mappings().all()
        return [mapping.session_from_columns(dict(row)) for row in rows]

    # ------------------------------------------------------------ the lease

    def claim(self, name: SessionName, *, holder: str, seconds: float) -> Claim | None:
        """Take the lease, or raise `wanted` and return None when somebody else holds it (or no such session).

        `holder` must be the caller's alone: one thread of one process. Claiming again what it holds prolongs it.
        """
        with writing(self._engine) as connection:
            row = connection.execute(_claimed(seconds), {"the_name": name, "me": holder}).first()
        if row is None or row.holder != holder:
            return None
        return Claim(name=name, holder=holder, wanted=row.wanted)

    def renew(self, claim: Claim, *, seconds: float) -> bool:
        """Prolong the lease; False when it was lost."""
        statement = update(_sessions).where(*_held(claim)).values(claimed_until=DatabaseTime(seconds))
        with writing(self._engine) as connection:
            return connection.execute(statement).rowcount == 1

    def refresh(self, claim: Claim) -> tuple[Session, Claim] | None:
        """Read the session and its `wanted` counter again under the claim; None when the lease was lost."""
        with reading(self._engine) as connection:
            row = connection.execute(statements.REFRESH, _holding(claim)).mappings().first()
        if row is None:
            return None
        return mapping.session_from_columns(dict(row)), replace(claim, wanted=row["wanted"])

    def release(self, claim: Claim) -> bool:
        """Give the lease back; False when a wake-up came since (go round again: `refresh` tells) or it was lost."""
        held = {**_holding(claim), "the_wanted": claim.wanted}
        with writing(self._engine) as connection:
            return connection.execute(statements.RELEASE, held).rowcount == 1

    def give_up(self, claim: Claim) -> bool:
        """Give the lease back whoever came meanwhile, who then has to be served; False when it was lost."""
        statement = update(_sessions).where(*_held(claim)).values(holder=None, claimed_until=None)
        with writing(self._engine) as connection:
            return connection.execute(statement).rowcount == 1

    def save(self, session: Session, events: Sequence[NewEvent], claim: Claim) -> Session | None:
        """Write all but the people's columns where `version` and lease still stand; None when they do not.

        Returns the row as it now is, the people's newest wishes among it. Where a wake-up came since the claim
        last looked, the session stays due now, whatever `due_at` says.
        """
        columns = mapping.session_to_columns(session)
        for name in PEOPLES_COLUMNS:
            del columns[name]
        told = {**_holding(claim), "the_wanted": claim.wanted, "now": self._clock.now()}
        return self._write(statements.SAVE, session, events, {**_setting(columns), **told})

    def relaunch(self, session: Session, events: Sequence[NewEvent]) -> Session | None:
        """Replace an ended or ending session's whole row where `version` still stands; a holder's save then fails.

        Raises `wanted`: whoever holds the lease goes round again. Event ids go on counting.
        """
        told = {**_setting(mapping.session_to_columns(session)), "the_name": session.name}
        return self._write(statements.RELAUNCH, session, events, told)

    def ask(self, session: Session, request: LaunchRequest) -> Session | None:
        """Replace what a session was launched with where `version` still stands; None where it does not."""
        statement = (
            update(_sessions)
            .where(_sessions.c.name == session.name, _sessions.c.version == session.version)
            .values(request=documents.request_to_json(request), version=_sessions.c.version + 1)
            .returning(_sessions)
        )
        with writing(self._engine) as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else mapping.session_from_columns(dict(row))

    def _write(
        self, statement: Update, session: Session, events: Sequence[NewEvent], parameters: Mapping[str, Any]
    ) -> Session | None:
        told = {**parameters, "the_version": session.version, "new_events": len(events)}
        with writing(self._engine) as connection:
            row = connection.execute(statement, told).mappings().first()
            if row is None:
                return None
            saved = mapping.session_from_columns(dict(row))
            self._log(connection, saved, events)
        return saved

    # ------------------------------------------------------------ wishes and wake-ups

    def wish(
        self,
        name: SessionName,
        *,
        target: Target | None = None,
        is_start_now: bool | None = None,
        wants_built_image: bool | None = None,
    ) -> bool:
        """Write what a person wants, raise `wanted`, make it due now; False when the session does not exist."""
        wishes = {
            "target": None if target is None else target.value,
            "is_start_now": is_start_now,
            "wants_built_image": wants_built_image,
        }
        statement = (
            update(_sessions)
            .where(_sessions.c.name == name)
            .values(
                **{key: value for key, value in wishes.items() if value is not None},
                wanted=_sessions.c.wanted + 1,
                due_at=self._clock.now(),
            )
        )
        with writing(self._engine) as connection:
            return connection.execute(statement).rowcount == 1

    def want(self, names: Sequence[SessionName]) -> None:
        """Raise `wanted` and make the sessions due now, in one statement."""
        if not names:
            return
        # Locked in one order, so that two hooks at once cannot wait for each other.
        chosen = (
            select(_sessions.c.name)
            .where(_sessions.c.name.in_(names))
            .order_by(_sessions.c.name)
            .with_for_update()
            .scalar_subquery()
        )
        statement = (
            update(_sessions)
            .where(_sessions.c.name.in_(chosen))
            .values(wanted=_sessions.c.wanted + 1, due_at=self._clock.now())
        )
        with writing(self._engine) as connection:
            connection.execute(statement)

    def due(self, now: datetime, *, limit: int) -> Sequence[SessionName]:
        """Return sessions that are due and not claimed, longest due first."""
        statement = (
            select(_sessions.c.name)
            .where(
                _sessions.c.due_at <= now,
                or_(_sessions.c.claimed_until.is_(None), _sessions.c.claimed_until <= DatabaseTime()),
            )
            .order_by(_sessions.c.due_at)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [SessionName(name) for name in connection.execute(statement).scalars()]

    def interested_in(self, build_id: str, *, limit: int | None = None) -> Sequence[Session]:
        """Return the sessions of a build's commit that wait for it, oldest first, then those that run meanwhile."""
        phases = (Phase.WAITING.value, Phase.STARTING.value, Phase.RUNNING.value)
        is_waiting = case((_sessions.c.phase == Phase.WAITING.value, 0), else_=1)
        statement = (
            select(_sessions)
            .where(_sessions.c.build_id == build_id, _sessions.c.phase.in_(phases))
            .order_by(is_waiting, _sessions.c.created_at, _sessions.c.name)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [mapping.session_from_columns(dict(row)) for row in connection.execute(statement).mappings()]

    # ------------------------------------------------------------ events

    def _log(self, connection: Connection, session: Session, events: Sequence[NewEvent]) -> None:
        """Insert the events whose ids end at `session.events`, in order."""
        if not events:
            return
        now = self._clock.now()
        first = session.events - len(events) + 1
        rows = [
            {
                "session": session.name,
                "id": id_,
                "at": now,
                "phase": session.phase.value,
                "kind": event.kind.value,
                "message": event.message,
                "data": dict(event.data),
            }
            for id_, event in enumerate(events, start=first)
        ]
        connection.execute(insert(_events), rows)

    def events(self, name: SessionName, *, after: int, limit: int = 500) -> Sequence[Event]:
        """Return events with id greater than `after`, in order."""
        statement = (
            select(_events).where(_events.c.session == name, _events.c.id > after).order_by(_events.c.id).limit(limit)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(statement).mappings().all()
        return [mapping.event_from_columns(dict(row)) for row in rows]

    def events_of(self, cursors: Mapping[SessionName, int], *, limit: int = 1000) -> Sequence[Event]:
        """Return events of many sessions, each after its own cursor, in one query; by session, then by id."""
        if not cursors:
            return []
        cursor = (
            values(column("session", String), column("after", Integer), name="cursor")
            .data([(name, after) for name, after in cursors.items()])
            .cte("cursor")
        )
        statement = (
            select(_events)
            .join(cursor, and_(_events.c.session == cursor.c.session, _events.c.id > cursor.c.after))
            .order_by(_events.c.session, _events.c.id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(statement).mappings().all()
        return [mapping.event_from_columns(dict(row)) for row in rows]

    def heads(self, user_id: UserId, *, gone_since: datetime) -> Mapping[SessionName, int]:
        """Return the newest event id of each of a person's sessions; of those gone, only if since that time."""
        is_told = or_(_sessions.c.is_gone.is_(False), _sessions.c.phase_since >= gone_since)
        statement = select(_sessions.c.name, _sessions.c.events).where(_sessions.c.user_id == user_id, is_told)
        with reading(self._engine) as connection:
            return {SessionName(row.name): row.events for row in connection.execute(statement)}


@functools.lru_cache(maxsize=8)
def _claimed(seconds: float) -> Update:
    """Return the statement of a lease of that length; there are few lengths."""
    return statements.claimed(seconds)


def _holding(claim: Claim) -> dict[str, Any]:
    return {"the_name": claim.name, "the_holder": claim.holder}


def _setting(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {f"set_{name}": value for name, value in columns.items()}


def _held(claim: Claim) -> Sequence[ColumnElement[bool]]:
    """Return the conditions under which a claim still stands."""
    return [
        _sessions.c.name == claim.name,
        _sessions.c.holder == claim.holder,
        _sessions.c.claimed_until > DatabaseTime(),
    ]


def _page(statement: Select[Any], offset: int, limit: int | None) -> Select[Any]:
    """Return the statement newest first, from `offset` on."""
    return statement.order_by(_sessions.c.created_at.desc(), _sessions.c.name).offset(offset or None).limit(limit)


def _conditions(wanted: Filter) -> Sequence[ColumnElement[bool]]:
    """Return the conditions of a filter; each pair below is a column and what it must equal."""
    pairs: Sequence[tuple[Column[Any], Any]] = (
        (_sessions.c.is_gone, wanted.has_ended),
        (_sessions.c.user_id, wanted.user_id),
        (_sessions.c.project_id, wanted.project_id),
        (_sessions.c.namespace, None if wanted.namespace is None else wanted.namespace.lower()),
        (_sessions.c.project_slug, None if wanted.project is None else wanted.project.lower()),
        (_sessions.c.branch, wanted.branch),
        (_sessions.c.sha, wanted.sha),
    )
    return [col == value for col, value in pairs if value is not None]
