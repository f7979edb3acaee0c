"""The statements that every look at a session runs, built once.

For: `SessionRows`. Building an UPDATE of forty columns takes SQLAlchemy three times as long as SQLite takes to run it,
so what a step of a session does is written down here with parameters instead of being put together each time.
Promises: constants; parameters that set a column are named `set_<column>`, those of a condition `the_<column>`.
Must not know: engines, transactions, values.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Integer, String, Update, bindparam, case, null, or_, select, update

from spawner.store import tables
from spawner.store.types import DatabaseTime

_sessions = tables.sessions
LEASE = frozenset({"holder", "claimed_until", "wanted"})
COUNTED = frozenset({"version", "events"})
CHECKED = frozenset({"access_checked_at", "access_unknown_since"})
PEOPLES_COLUMNS = ("target", "is_start_now", "wants_built_image")


def _set(column: Column[Any]) -> ColumnElement[Any]:
    return bindparam(f"set_{column.name}", type_=column.type)


def _the(column: Column[Any]) -> ColumnElement[Any]:
    return bindparam(f"the_{column.name}", type_=column.type)


_NAMED = _sessions.c.name == _the(_sessions.c.name)
_HELD = (_NAMED, _sessions.c.holder == _the(_sessions.c.holder), _sessions.c.claimed_until > DatabaseTime())
_SAVED = tuple(column for column in _sessions.columns if column.name not in LEASE | COUNTED | CHECKED)


def _written(columns: Sequence[Column[Any]], *conditions: ColumnElement[bool], **other: ColumnElement[Any]) -> Update:
    """Return the UPDATE of columns that goes through only where `version` still stands, and returns the row."""
    return (
        update(_sessions)
        .where(_sessions.c.version == _the(_sessions.c.version), *conditions)
        .values(
            {column.name: _set(column) for column in columns if column.name not in other}
            | other
            | {
                "version": _sessions.c.version + 1,
                "events": _sessions.c.events + bindparam("new_events", type_=Integer()),
            }
        )
        .returning(_sessions)
    )


GET = select(_sessions).where(_NAMED)
"""Parameters: the_name."""

REFRESH = select(_sessions).where(*_HELD)
"""Parameters: the_name, the_holder."""

RELEASE = (
    update(_sessions)
    .where(_NAMED, _sessions.c.holder == _the(_sessions.c.holder), _sessions.c.wanted == _the(_sessions.c.wanted))
    .values(holder=None, claimed_until=None)
)
"""Parameters: the_name, the_holder, the_wanted."""

SAVE = _written(
    [column for column in _SAVED if column.name not in PEOPLES_COLUMNS],
    *_HELD,
    due_at=case(
        (_sessions.c.wanted == _the(_sessions.c.wanted), _set(_sessions.c.due_at)),
        else_=bindparam("now", type_=_sessions.c.due_at.type),
    ),
)
"""Parameters: set_* but the people's, the_name, the_version, the_holder, the_wanted, now, new_events."""

RELAUNCH = _written(
    _SAVED, _NAMED, wanted=_sessions.c.wanted + 1, access_checked_at=null(), access_unknown_since=null()
)
"""Parameters: set_*, the_name, the_version, new_events."""


def claimed(seconds: float) -> Update:
    """Return the UPDATE that takes a lease of so many seconds, or raises `wanted`. Parameters: the_name, me."""
    me = bindparam("me", type_=String())
    is_free = or_(
        _sessions.c.claimed_until.is_(None), _sessions.c.claimed_until <= DatabaseTime(), _sessions.c.holder == me
    )
    return (
        update(_sessions)
        .where(_NAMED)
        .values(
            wanted=_sessions.c.wanted + case((is_free, 0), else_=1),
            holder=case((is_free, me), else_=_sessions.c.holder),
            claimed_until=case((is_free, DatabaseTime(seconds)), else_=_sessions.c.claimed_until),
        )
        .returning(_sessions.c.holder, _sessions.c.wanted)
    )
