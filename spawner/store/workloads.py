"""Workloads and what was last observed of them: the half of `SessionStore` that a lease never guards.

Promises: an observation of an end is never overwritten by one of life; a session is woken by what is new,
not by the same health seen again, so that whoever observes while holding the lease does not wake itself.
Must not know: runtimes; what a state means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, Engine, delete, select, update

from spawner.names import SessionName, WorkloadName
from spawner.ports import Clock, Health, Observation, State
from spawner.sessions.model import Session, WorkloadRow
from spawner.store import mapping, tables
from spawner.store.engine import reading, writing
from spawner.store.upsert import upsert

_workloads = tables.workloads
_observations = tables.observations
_sessions = tables.sessions
_strays = tables.strays

SESSION_OWNER = "session"
_ENDS = frozenset({Health.EXITED, Health.GONE})


def newest(kept: Observation | None, seen: Observation) -> Observation:
    """Return what to keep: an end stays an end, and what was learned of it (code, memory, sentence) stays too."""
    if kept is None or kept.health not in _ENDS:
        return seen
    if seen.health not in _ENDS:
        return kept
    return replace(
        seen,
        message=seen.message or kept.message,
        exit_code=kept.exit_code if seen.exit_code is None else seen.exit_code,
        is_out_of_memory=seen.is_out_of_memory or kept.is_out_of_memory,
    )


def is_news(kept: Observation | None, newer: Observation) -> bool:
    """Say whether a session should look again; a new figure of memory or CPU is no reason."""
    return kept is None or replace(newer, memory_bytes=kept.memory_bytes, cpu_cores=kept.cpu_cores) != kept


class WorkloadRows:
    """The workloads and observations of `SessionStore`, over an engine."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def put_workload(self, row: WorkloadRow) -> None:
        """Insert or replace a workload's row (idempotent)."""
        columns = mapping.workload_to_columns(row)
        with writing(self._engine) as connection:
            upsert(connection, _workloads, columns, update=[name for name in columns if name != "name"])

    def workload(self, name: WorkloadName) -> WorkloadRow | None:
        """Return a workload, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(select(_workloads).where(_workloads.c.name == name)).mappings().first()
        return None if row is None else mapping.workload_from_columns(dict(row))

    def workloads(self) -> Sequence[WorkloadRow]:
        """Return every workload row of this instance, by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(_workloads).order_by(_workloads.c.name)).mappings().all()
        return [mapping.workload_from_columns(dict(row)) for row in rows]

    def owners(self, names: Sequence[WorkloadName]) -> Mapping[WorkloadName, Session | None]:
        """Return the session of each known workload of these names in one query; None where it is of no session."""
        is_owner = (_workloads.c.owner_kind == SESSION_OWNER) & (_workloads.c.owner_name == _sessions.c.name)
        statement = (
            select(_workloads.c.name.label("owned"), _sessions)
            .join_from(_workloads, _sessions, is_owner, isouter=True)
            .where(_workloads.c.name.in_(names))
        )
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(statement).mappings()]
        return {
            WorkloadName(row.pop("owned")): None if row["name"] is None else mapping.session_from_columns(row)
            for row in rows
        }

    def outlived(self, *, limit: int) -> Sequence[WorkloadRow]:
        """Return workloads of sessions that have gone on to another, by name."""
        statement = (
            select(_workloads)
            .join(_sessions, _workloads.c.owner_name == _sessions.c.name)
            .where(_workloads.c.owner_kind == SESSION_OWNER, _sessions.c.workload.is_distinct_from(_workloads.c.name))
            .order_by(_workloads.c.name)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(statement).mappings().all()
        return [mapping.workload_from_columns(dict(row)) for row in rows]

    def end_workloads(self, names: Sequence[WorkloadName]) -> None:
        """Delete workloads' rows and, by their foreign key, their observations; a no-op for those gone."""
        if not names:
            return
        with writing(self._engine) as connection:
            connection.execute(delete(_workloads).where(_workloads.c.name.in_(names)))

    def end_workload(self, name: WorkloadName) -> None:
        """Delete a workload's row and, by its foreign key, its observation; a no-op when gone."""
        self.end_workloads([name])

    def strays_seen(self, site: str, names: Sequence[WorkloadName], now: datetime) -> Mapping[WorkloadName, datetime]:
        """Return when each stray of a site was first seen, now for a new one; those not named are forgotten."""
        with writing(self._engine) as connection:
            connection.execute(delete(_strays).where(_strays.c.site == site, _strays.c.workload.not_in(names)))
            for name in sorted(names):  # strays are few, or something is wrong
                upsert(connection, _strays, {"site": site, "workload": name, "first_seen_at": now}, update=())
            rows = connection.execute(select(_strays).where(_strays.c.site == site)).all()
        return {WorkloadName(row.workload): row.first_seen_at for row in rows}

    def set_state(self, name: WorkloadName, state: State) -> None:
        """Save what the runtime said, before its next step; a no-op when the workload was ended."""
        with writing(self._engine) as connection:
            connection.execute(update(_workloads).where(_workloads.c.name == name).values(state=dict(state)))

    def observe(self, name: WorkloadName, observation: Observation) -> SessionName | None:
        """Keep the newest observation; where it is news, raise `wanted` of its session and make it due.

        An EXITED or GONE observation is never overwritten by STARTING, READY or UNKNOWN. Returns the session,
        or None when the workload is unknown or not a session's.
        """
        with writing(self._engine) as connection:
            owner = self._owner(connection, name)
            if owner is None:
                return None
            kept = _kept(connection, name)
            newer = newest(kept, observation)
            if newer != kept:
                columns = {"workload": name, **mapping.observation_to_columns(newer)}
                upsert(connection, _observations, columns, update=[key for key in columns if key != "workload"])
            if is_news(kept, newer):
                connection.execute(
                    update(_sessions)
                    .where(_sessions.c.name == owner)
                    .values(wanted=_sessions.c.wanted + 1, due_at=self._clock.now())
                )
        return owner

    def _owner(self, connection: Connection, name: WorkloadName) -> SessionName | None:
        """Return the session of a workload; both rows stay locked, so that observations take turns with an end."""
        owner = connection.execute(
            select(_sessions.c.name)
            .join(_workloads, _workloads.c.owner_name == _sessions.c.name)
            .where(_workloads.c.name == name, _workloads.c.owner_kind == SESSION_OWNER)
            .with_for_update(of=[_sessions, _workloads])
        ).scalar()
        return None if owner is None else SessionName(owner)

    def observation(self, name: WorkloadName) -> Observation | None:
        """Return what was last observed of a workload."""
        with reading(self._engine) as connection:
            return _kept(connection, name)


def _kept(connection: Connection, name: WorkloadName) -> Observation | None:
    row = connection.execute(select(_observations).where(_observations.c.workload == name)).mappings().first()
    return None if row is None else mapping.observation_from_columns(dict(row))
