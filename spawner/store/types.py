"""Column types and SQL expressions that mean the same on SQLite and PostgreSQL.

Promises: a time goes in aware and comes out aware, in UTC, to the microsecond; it sorts as time on both
databases. `DatabaseTime` is the database's own clock, fixed within one statement, so that hosts whose clocks
differ agree about a lease. `CleanText` holds any text that Python holds.
Must not know: any table.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, String, Text, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; `timestamptz` on PostgreSQL, fixed-width text on SQLite.

    A naive datetime is refused with ValueError: it is a defect of ours.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware datetime into what the database keeps."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a time zone was about to be stored: {value!r}")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn what the database keeps into an aware UTC datetime."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text of any origin: what neither database can hold (NUL, lone surrogates) becomes U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace the characters that PostgreSQL or UTF-8 cannot hold."""
        del dialect
        return None if value is None else clean(value)


class Name(TypeDecorator[str]):
    """An identifier: compared byte for byte, never by the rules of a language."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Use the C collation on PostgreSQL, which is what SQLite does anyway."""
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())


def clean(text: str) -> str:
    """Return the text with NUL and lone surrogates replaced by U+FFFD."""
    text = text.replace("\x00", "\ufffd")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


class DatabaseTime(ColumnElement[datetime]):
    """The database's clock plus `offset_seconds`, the same throughout one statement."""

    # The offset is written into the statement, so it is part of what a compiled statement is found by: without this
    # every statement that names a lease was compiled anew, 40 % of the work of a start.
    _traverse_internals = [("offset_seconds", InternalTraversal.dp_plain_obj)]  # noqa: RUF012 - SQLAlchemy's own form
    inherit_cache = False
    type = UTCDateTime()

    def __init__(self, offset_seconds: float = 0.0) -> None:
        self.offset_seconds = float(offset_seconds)


@compiles(DatabaseTime, "sqlite")
def _sqlite_time(element: DatabaseTime, compiler: SQLCompiler, **options: Any) -> str:
    """Write the time as SQLAlchemy writes one for SQLite: milliseconds, padded to microseconds."""
    del compiler, options
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', '{element.offset_seconds:+.3f} seconds') || '000')"


@compiles(DatabaseTime, "postgresql")
def _postgresql_time(element: DatabaseTime, compiler: SQLCompiler, **options: Any) -> str:
    """Use the statement's start: a wait for a row's lock makes a lease look longer held, never shorter."""
    del compiler, options
    return f"(statement_timestamp() + interval '{element.offset_seconds:.3f} seconds')"
