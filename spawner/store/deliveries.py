"""The deliveries of hooks seen lately, by all processes together.

Promises: of any number of processes that are given one delivery at once exactly one is told that it is new; what is
kept is bounded: an hour, which outlasts every replay that a signature admits, and the newest of too many.
Must not know: what a hook says.
"""

from datetime import timedelta

from sqlalchemy import Engine, delete, select

from spawner.ports import Clock
from spawner.store import tables
from spawner.store.engine import writing
from spawner.store.upsert import insert_new

KEPT = timedelta(hours=1)
MOST_KEPT = (
    100_000  # GitLab.com sends a namespace 13,000 a minute at most; a repeat that slips through only hints twice
)

_deliveries = tables.deliveries


class DeliveryRows:
    """Deliveries over an engine."""

    def __init__(self, engine: Engine, clock: Clock, *, most_kept: int = MOST_KEPT) -> None:
        self._engine = engine
        self._clock = clock
        self._most_kept = most_kept

    def is_new(self, id: str) -> bool:  # noqa: A002 - the row's own name for it
        """Say whether this is the first time, and remember it; raises StoreUnavailable."""
        now = self._clock.now()
        with writing(self._engine) as connection:
            is_new = insert_new(connection, _deliveries, {"id": id, "seen_at": now})
            if is_new:
                oldest = select(_deliveries.c.seen_at).order_by(_deliveries.c.seen_at.desc()).offset(self._most_kept)
                surplus = _deliveries.c.seen_at <= oldest.limit(1).scalar_subquery()
                connection.execute(delete(_deliveries).where((_deliveries.c.seen_at <= now - KEPT) | surplus))
        return is_new
