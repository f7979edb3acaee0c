"""The builds and their logs (`BuildStore`).

Promises: one poller at a time by a lease of the database's clock; a hint that arrives while a poller looks
is never lost: it raises the version, so that the poller's save does not stand, and frees the lease, so that
the next look need not wait for it.
Must not know: what a CI status means.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine, func, or_, select, update

from spawner.images.model import Build
from spawner.store import mapping, tables, upsert
from spawner.store.engine import reading, writing
from spawner.store.types import DatabaseTime

_builds = tables.builds
_logs = tables.build_logs


class BuildRows:
    """`BuildStore` over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, id: str) -> Build | None:  # noqa: A002 - the row's own name for it
        """Return a build, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(select(_builds).where(_builds.c.id == id)).mappings().first()
        return None if row is None else mapping.build_from_columns(dict(row))

    def some(self, ids: Sequence[str]) -> Sequence[Build]:
        """Return the builds of these ids, in no order; unknown ones are left out."""
        if not ids:
            return []
        with reading(self._engine) as connection:
            rows = connection.execute(select(_builds).where(_builds.c.id.in_(ids))).mappings().all()
        return [mapping.build_from_columns(dict(row)) for row in rows]

    def add(self, build: Build) -> Build:
        """Insert the build, or return the row that is already there."""
        columns = {**mapping.build_to_columns(build), "version": 0}
        with writing(self._engine) as connection:
            upsert.insert_new(connection, _builds, columns)
            row = connection.execute(select(_builds).where(_builds.c.id == build.id)).mappings().one()
        return mapping.build_from_columns(dict(row))

    def projects(self, since: datetime, *, limit: int) -> Sequence[int]:
        """Return the projects of the builds that were asked for since then, those of the newest first."""
        newest = func.max(_builds.c.first_asked_at)
        statement = (
            select(_builds.c.project_id)
            .where(_builds.c.first_asked_at >= since)
            .group_by(_builds.c.project_id)
            .order_by(newest.desc(), _builds.c.project_id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def claim(self, id: str, *, seconds: float) -> bool:  # noqa: A002 - as in `get`
        """Take the poller's lease for `seconds` by the database's clock; False while somebody holds it."""
        statement = (
            update(_builds)
            .where(
                _builds.c.id == id,
                or_(_builds.c.claimed_until.is_(None), _builds.c.claimed_until <= DatabaseTime()),
            )
            .values(claimed_until=DatabaseTime(seconds))
        )
        with writing(self._engine) as connection:
            return connection.execute(statement).rowcount == 1

    def save(self, build: Build) -> Build | None:
        """Write the build where its `version` still stands, raise the version, free the lease; None if it moved."""
        statement = (
            update(_builds)
            .where(_builds.c.id == build.id, _builds.c.version == build.version)
            .values(**mapping.build_to_columns(build), version=_builds.c.version + 1, claimed_until=None)
            .returning(_builds)
        )
        with writing(self._engine) as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else mapping.build_from_columns(dict(row))

    def hint(self, id: str, now: datetime) -> bool:  # noqa: A002 - as in `get`
        """Make the build due now (a hook came); also reopens one that was over. False when unknown."""
        statement = (
            update(_builds)
            .where(_builds.c.id == id)
            .values(due_at=now, is_over=False, version=_builds.c.version + 1, claimed_until=None)
        )
        with writing(self._engine) as connection:
            return connection.execute(statement).rowcount == 1

    def order(self, id: str, now: datetime) -> None:  # noqa: A002 - as in `get`
        """Note that the commit's build was just begun: forget what was last seen, make the row due, free the lease."""
        forgotten = {"checked_at": None, "finished_at": None, "looks": 0, "log_bytes": 0, "trouble": ""}
        statement = (
            update(_builds)
            .where(_builds.c.id == id)
            .values(
                **forgotten,
                ordered_at=now,
                due_at=now,
                is_over=False,
                version=_builds.c.version + 1,
                claimed_until=None,
            )
        )
        with writing(self._engine) as connection:
            connection.execute(statement)

    def due(self, now: datetime, *, limit: int) -> Sequence[str]:
        """Return the ids of builds that are due, not over and not claimed, oldest first."""
        statement = (
            select(_builds.c.id)
            .where(
                _builds.c.is_over.is_(False),
                _builds.c.due_at <= now,
                or_(_builds.c.claimed_until.is_(None), _builds.c.claimed_until <= DatabaseTime()),
            )
            .order_by(_builds.c.due_at)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def replace_log(self, id: str, text: str) -> None:  # noqa: A002 - as in `get`
        """Keep this cleaned text as the build's whole log."""
        with writing(self._engine) as connection:
            upsert.upsert(connection, _logs, {"build_id": id, "text": text}, update=["text"])

    def log(self, id: str) -> str:  # noqa: A002 - as in `get`
        """Return the kept log; empty when there is none."""
        with reading(self._engine) as connection:
            return connection.execute(select(_logs.c.text).where(_logs.c.build_id == id)).scalar() or ""
