"""INSERT … ON CONFLICT, which both databases have and SQLAlchemy spells per dialect.

Must not know: any table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def upsert(connection: Connection, table: Table, values: Mapping[str, Any], *, update: Sequence[str]) -> None:
    """Insert the row; where its primary key exists already, write only the columns `update` instead."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(table).values(dict(values))
    keys = list(table.primary_key.columns)
    if update:
        changes = {name: statement.excluded[name] for name in update}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes))
    else:
        connection.execute(statement.on_conflict_do_nothing(index_elements=keys))


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert the row unless its primary key is taken; say whether it was inserted."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    keys = list(table.primary_key.columns)
    statement = insert(table).values(dict(values)).on_conflict_do_nothing(index_elements=keys).returning(*keys)
    return connection.execute(statement).first() is not None
