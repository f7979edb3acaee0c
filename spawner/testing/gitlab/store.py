"""Where records are kept: in memory for reading, written through to one SQLite file.

Promises: `with store:` is one transaction, seen whole or not at all by a stand-in that is killed and started again;
an exception that leaves the outermost one undoes it. Reads outside of it see the last put. One lock guards
everything; it is re-entrant. `wait` sleeps until something changed.
Must not know: what the records mean.
"""

from __future__ import annotations

import pickle
import sqlite3
import threading
from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Record(Protocol):
    """Anything with an integer id."""

    @property
    def id(self) -> int:
        """Identifier, unique per kind."""


R = TypeVar("R", bound=Record)


class Store:
    """All records of a stand-in, kept in one file."""

    def __init__(self, path: Path) -> None:
        self._condition = threading.Condition(threading.RLock())
        self._depth = 0
        self._tables: dict[str, dict[int, Any]] = {}
        self._last_ids: dict[str, int] = {}
        self._changes = 0
        self._undo: list[tuple[str, int, Any]] = []  # kind, id and record before each change of this transaction
        self._afterwards: list[Callable[[], None]] = []
        # A killed process loses nothing that SQLite handed to the system; a power cut may cost a stand-in something.
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS records (kind TEXT, id INTEGER, body BLOB, PRIMARY KEY (kind, id))"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS last_ids (kind TEXT PRIMARY KEY, id INTEGER)")
        path.chmod(0o600)
        for kind, identifier, body in self._db.execute("SELECT kind, id, body FROM records"):
            kept = pickle.loads(body)  # noqa: S301 - our own file, mode 0600
            self._tables.setdefault(kind, {})[identifier] = _completed(kept)
        self._last_ids.update(self._db.execute("SELECT kind, id FROM last_ids"))

    def __enter__(self) -> Self:
        self._condition.acquire()
        if self._depth == 0:
            self._db.execute("BEGIN")
        self._depth += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._depth -= 1
        try:
            if self._depth == 0:
                self._end(is_kept=kind is None)
        finally:
            self._condition.release()

    def _end(self, *, is_kept: bool) -> None:
        undo, self._undo = self._undo, []
        due, self._afterwards = self._afterwards, []
        self._db.execute("COMMIT" if is_kept else "ROLLBACK")
        if is_kept:
            for action in due:
                action()
        else:
            for name, identifier, record in reversed(undo):
                self._replace(name, identifier, record)
        self._condition.notify_all()

    def afterwards(self, action: Callable[[], None]) -> None:
        """Do something once the present transaction is kept, or never when it is undone; it must not fail."""
        with self:
            self._afterwards.append(action)

    @property
    def changes(self) -> int:
        """How many puts and deletes this process has made."""
        return self._changes

    def wait(self, *, seen: int, timeout_seconds: float) -> int:
        """Sleep until something changed since `seen`, at most `timeout_seconds`; return the count of changes."""
        with self._condition:
            self._condition.wait_for(lambda: self._changes != seen, timeout_seconds)
            return self._changes

    def wake(self) -> None:
        """Count a change that has no record (a paused runner, a fault), so that waiters look again."""
        with self._condition:
            self._changes += 1
            self._condition.notify_all()

    def next_id(self, kind: type[Record]) -> int:
        """Take the next identifier of a kind; identifiers are never used twice."""
        with self:
            name = kind.__name__
            self._last_ids[name] = self._last_ids.get(name, 0) + 1
            self._db.execute("INSERT OR REPLACE INTO last_ids VALUES (?, ?)", (name, self._last_ids[name]))
            return self._last_ids[name]

    def put(self, record: R) -> R:
        """Keep a record, replacing the one with its id."""
        with self:
            name = type(record).__name__
            self._keep(name, record.id, record)
            self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (name, record.id, pickle.dumps(record)))
            self._changes += 1
            return record

    def change(self, record: R, **fields: object) -> R:
        """Replace fields of a record's *present* version and keep it."""
        with self:
            present = self._tables.get(type(record).__name__, {}).get(record.id, record)
            changed: R = replace(present, **fields)
            return self.put(changed)

    def drop(self, record: Record) -> None:
        """Forget a record; dropping it twice is no error."""
        with self:
            name = type(record).__name__
            self._keep(name, record.id, None)
            self._db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (name, record.id))
            self._changes += 1

    def _keep(self, name: str, identifier: int, record: Record | None) -> None:
        self._undo.append((name, identifier, self._tables.get(name, {}).get(identifier)))
        self._replace(name, identifier, record)

    def _replace(self, name: str, identifier: int, record: Record | None) -> None:
        table = self._tables.setdefault(name, {})
        if record is None:
            table.pop(identifier, None)
        else:
            table[identifier] = record

    def get(self, kind: type[R], identifier: int) -> R | None:
        """Return a record, or None."""
        with self._condition:
            return self._tables.get(kind.__name__, {}).get(identifier)

    def all(self, kind: type[R], where: Callable[[R], bool] | None = None) -> list[R]:
        """Return the records of a kind in ascending order of id, those for which `where` holds."""
        with self._condition:
            rows: list[R] = list(self._tables.get(kind.__name__, {}).values())
        rows.sort(key=lambda row: row.id)
        return [row for row in rows if where(row)] if where else rows

    def first(self, kind: type[R], where: Callable[[R], bool]) -> R | None:
        """Return the record with the smallest id for which `where` holds, or None."""
        found = self.all(kind, where)
        return found[0] if found else None

    def close(self) -> None:
        """Close the file."""
        with self._condition:
            self._db.close()


def _completed(record: Any) -> Any:
    """Give a record that an earlier version kept the fields that were added since, with their defaults."""
    for each in fields(record):
        if not hasattr(record, each.name):
            value = each.default if each.default is not MISSING else each.default_factory()  # type: ignore[operator]
            object.__setattr__(record, each.name, value)
    return record
