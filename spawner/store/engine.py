"""Opening a database, and the two kinds of transaction.

For: `open_engine` once per process; repositories use `reading` and `writing`, nothing else.
Promises: SQLite runs in WAL mode, waits for its turn, and takes its write lock when a transaction begins
(a transaction that reads first and then writes is refused by SQLite as soon as two meet: 749 of 800 were);
every wait for a database is bounded; a database that cannot be asked is `StoreUnavailable`.
Must not know: any table.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url, select
from sqlalchemy.engine import URL

from spawner.errors import Misconfigured, StoreUnavailable, foreign

__all__ = ["Engine", "open_engine", "reading", "writing"]

BUSY_SECONDS = 20.0  # how long a SQLite transaction waits for its turn
CONNECT_SECONDS = 3
STATEMENT_SECONDS = 15
POOL_SIZE = 8
POOL_OVERFLOW = 24
OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
# File systems of several hosts, where WAL's shared memory is not shared. Source: sqlite.org/wal.html, "Disadvantages".
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "gpfs", "fuse.sshfs"})

_WRITES = "slipway_writes"


def open_engine(url: str, *, password: str | None = None) -> Engine:
    """Return an engine for `sqlite:///<file>` or `postgresql://…`; connects to nothing yet.

    `password` (PostgreSQL's, read from a file) is put in here, so that no URL that is printed holds it.
    Raises Misconfigured for another database, an in-memory one, or a SQLite that is too old.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise Misconfigured(
            "The database URL does not parse.",
            remedy="Set SPAWNER_DATABASE__URL to sqlite:///<file> or postgresql://<user>@<host>/<database>.",
        ) from error
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed)
        case "postgresql":
            return _open_postgresql(parsed if password is None else parsed.set(password=password))
        case other:
            raise Misconfigured(
                f"The database '{foreign(other)}' is not supported.",
                remedy="Set SPAWNER_DATABASE__URL to sqlite:///<file> or postgresql://<user>@<host>/<database>.",
            )


def _open_sqlite(url: URL) -> Engine:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise Misconfigured(
            f"SQLite {sqlite3.sqlite_version} is too old.",
            remedy="Use a Python with SQLite 3.35 or newer, or PostgreSQL.",
        )
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise Misconfigured("The SQLite database has no file.", remedy="Set SPAWNER_DATABASE__URL to sqlite:///<file>.")
    folder = Path(url.database).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kind = file_system(folder.resolve(), _mounts())
    if kind in _NETWORK:
        raise Misconfigured(
            f"The SQLite database lies on a network file system ({kind}), where it breaks.",
            remedy="Put it on a disk of this machine; for several machines set SPAWNER_DATABASE__URL to a PostgreSQL.",
        )
    _close_to_others(Path(url.database))
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=BUSY_SECONDS,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _mounts() -> str:
    mounts = Path("/proc/self/mounts")
    return mounts.read_text(encoding="utf-8", errors="replace") if mounts.exists() else ""


def file_system(path: Path, mounts: str) -> str:
    """Return the kind of file system that a resolved path lies on, by `/proc/mounts`' text; empty when unknown."""
    found, kind = Path("/"), ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:  # noqa: PLR2004 - device, mount point, kind, …; source: fstab(5)
            continue
        # Blanks within a mount point are written in octal.
        point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t"))
        if path.is_relative_to(point) and point.is_relative_to(found):  # of two mounts at one place the later counts
            found, kind = point, fields[2]
    return kind


def _close_to_others(file: Path) -> None:
    """Keep the database from other users of the machine, who may be sessions; its `-wal` takes the file's mode."""
    with suppress(OSError):  # not ours, or read-only: the first connection says so
        file.touch(mode=0o600)
        for each in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))):
            if each.exists():
                each.chmod(each.stat().st_mode & ~0o007)


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Turn the write-ahead log on; while others open a new file too, SQLite refuses at once and does not wait."""
    ends = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= ends:
                raise
            time.sleep(0.02)
        else:
            return


def _prepare_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    del record
    connection.isolation_level = None  # we begin and end transactions ourselves
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")  # safe with WAL: a power cut loses the last commits, never the file
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _open_postgresql(url: URL) -> Engine:
    milliseconds = STATEMENT_SECONDS * 1000
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
            f"-c idle_in_transaction_session_timeout={milliseconds} -c timezone=UTC",
            "application_name": "slipway",
            # A server that vanished without a word is noticed within about 20 s.
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=STATEMENT_SECONDS,
        pool_pre_ping=True,
    )


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection within one read transaction; raises StoreUnavailable."""
    with _mapped(), engine.connect() as connection, connection.begin():
        yield connection


def ping(engine: Engine) -> None:
    """Ask the database for nothing; raises StoreUnavailable."""
    with reading(engine) as connection:
        connection.execute(select(1))


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Give a connection within one write transaction, committed at the end; raises StoreUnavailable."""
    with (
        _mapped(),
        engine.connect().execution_options(**{_WRITES: True}) as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except (exc.DatabaseError, exc.InterfaceError, exc.TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        if not _is_of_database(error, cause):
            raise
        raise StoreUnavailable(
            f"The database cannot be asked: {foreign(cause)}",
            remedy="Try again in a few seconds; if it lasts, an administrator runs `spawner doctor`.",
            retry_after_seconds=2.0,
        ) from error


def _is_of_database(error: exc.SQLAlchemyError, cause: object) -> bool:
    """Say whether an error is the database's state, not a statement of ours; SQLite has no class for a broken file."""
    return not isinstance(error, exc.DatabaseError) or (
        isinstance(error, exc.OperationalError) or type(cause) is sqlite3.DatabaseError
    )
