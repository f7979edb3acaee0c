"""What housekeeping asks of sessions: the half of `SessionStore` that looks at many and holds none.

Promises: each look is bounded, and leaves rows alone that it does not need; what it writes is none of a holder's
columns, or stands only where `version` does.
Must not know: who asks, what is deleted or ended then.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Engine, func, or_, select, update

from spawner.names import SessionName, UserId
from spawner.sessions.model import ENDED, Phase, Session
from spawner.sessions.store import AccessDue
from spawner.store import mapping, tables
from spawner.store.engine import reading, writing

_sessions = tables.sessions
_ENDED = sorted(phase.value for phase in ENDED)


class CleanupRows:
    """The looks and notes of housekeeping, over an engine."""

    _engine: Engine

    def retained(self, now: datetime, *, limit: int) -> Sequence[Session]:
        """Return ended sessions whose workspace retention is over; never one whose workspace another still needs."""
        other = _sessions.alias("other")
        needs = or_(other.c.phase.not_in(_ENDED), other.c.due_at.is_not(None), other.c.retain_until > now)
        is_needed = (
            select(other.c.name)
            .where(other.c.workspace == _sessions.c.workspace, other.c.name != _sessions.c.name, needs)
            .exists()
        )
        statement = (
            select(_sessions)
            .where(_sessions.c.retain_until <= now, _sessions.c.phase.in_(_ENDED), ~is_needed)
            .order_by(_sessions.c.retain_until)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(statement).mappings().all()
        return [mapping.session_from_columns(dict(row)) for row in rows]

    def forget_workspace(self, session: Session) -> None:
        """Write that an ended session's workspace is gone; a no-op for one that was relaunched meanwhile."""
        statement = (
            update(_sessions)
            .where(
                _sessions.c.name == session.name,
                _sessions.c.version == session.version,
                _sessions.c.phase.in_(_ENDED),
            )
            .values(has_workspace=False, retain_until=None, version=_sessions.c.version + 1)
        )
        with writing(self._engine) as connection:
            connection.execute(statement)

    # ------------------------------------------------------------ access

    def access_due(self, before: datetime, *, limit: int) -> Sequence[AccessDue]:
        """Return running sessions whose owner's access was not asked about since `before`, longest ago first.

        A launch asks too: who has just launched is not due.
        """
        asked_at = func.coalesce(_sessions.c.access_checked_at, _sessions.c.image_asked_at, _sessions.c.created_at)
        statement = (
            select(_sessions)
            .where(_sessions.c.phase == Phase.RUNNING.value, asked_at <= before)
            .order_by(asked_at, _sessions.c.name)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(statement).mappings().all()
        return [
            AccessDue(session=mapping.session_from_columns(dict(row)), unknown_since=row["access_unknown_since"])
            for row in rows
        ]

    def access_checked(self, name: SessionName, *, at: datetime, unknown_since: datetime | None) -> None:
        """Write when a session's owner's access was asked about; a relaunch forgets both times."""
        statement = (
            update(_sessions)
            .where(_sessions.c.name == name)
            .values(access_checked_at=at, access_unknown_since=unknown_since)
        )
        with writing(self._engine) as connection:
            connection.execute(statement)

    def count_by_phase(self) -> Mapping[Phase, int]:
        """Count the sessions in each phase; a phase without any is left out."""
        statement = select(_sessions.c.phase, func.count()).group_by(_sessions.c.phase)
        with reading(self._engine) as connection:
            return {Phase(phase): count for phase, count in connection.execute(statement)}

    def count_running(self, user_id: UserId | None = None) -> int:
        """Count sessions that have not ended, of one person or of all."""
        statement = (
            select(func.count())
            .select_from(_sessions)
            .where(_sessions.c.is_gone.is_(False), _sessions.c.phase.not_in(_ENDED))
        )
        if user_id is not None:
            statement = statement.where(_sessions.c.user_id == user_id)
        with reading(self._engine) as connection:
            return connection.execute(statement).scalar_one()
