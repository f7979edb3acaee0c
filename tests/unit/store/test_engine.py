"""Opening databases, transactions, migrations, types and indexes.

Covered: URLs, SQLite's ways, bounded waits for a database that is away, migrations against the tables, times, clean
text, and that the frequent queries read by an index. Left out: what repositories promise (`tests/contract/store`).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, event, select, text

from spawner.errors import Misconfigured, StoreUnavailable
from spawner.names import SessionName
from spawner.sessions.model import Phase
from spawner.sessions.store import Filter
from spawner.store import tables
from spawner.store.builds import BuildRows
from spawner.store.engine import file_system, open_engine, reading, writing
from spawner.store.migrations import current_revision, is_current, migrate, newest_revision
from spawner.store.sessions import SessionRows
from spawner.store.types import DatabaseTime, clean
from tests.contract.store.values import PLAIN, FixedClock, named
from tests.servers import PostgreSQLServer, free_port


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine over a migrated database of each kind."""
    engine = open_engine(request.getfixturevalue(f"{request.param}_url"))
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_refused(url: str) -> None:
    """A database that is not supported, or has no file, is refused with what to set."""
    with pytest.raises(Misconfigured) as caught:
        open_engine(url)
    assert "sqlite:///<file>" in caught.value.remedy


MOUNTS = """overlay / overlay rw 0 0
disk /data ext4 rw 0 0
host:/x /data/shared nfs4 rw 0 0
host:/y /with\\040blank cifs rw 0 0
disk /over ext4 rw 0 0
host:/z /over nfs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", "overlay"),
        ("/data/a", "ext4"),
        ("/data/shared/a", "nfs4"),
        ("/data/sharedness", "ext4"),
        ("/with blank/a", "cifs"),
        ("/over", "nfs"),
    ],
)
def test_file_system(path: str, expected: str) -> None:
    """A path lies on the deepest mount above it, and on the last one of a place."""
    assert file_system(Path(path), MOUNTS) == expected


def test_network_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SQLite on a network file system is refused, and PostgreSQL named."""
    monkeypatch.setattr("spawner.store.engine._mounts", lambda: "host:/x / nfs rw 0 0\n")
    with pytest.raises(Misconfigured, match="network file system") as caught:
        open_engine(f"sqlite:///{tmp_path / 'a.db'}")
    assert "PostgreSQL" in caught.value.remedy


def test_sqlite_ways(tmp_path: Path) -> None:
    """SQLite runs in WAL mode with foreign keys and a wait, and its folder is made."""
    engine = open_engine(f"sqlite:///{tmp_path / 'new' / 'folder' / 'a.db'}")
    with reading(engine) as connection:
        ways = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    engine.dispose()
    assert ways == ["wal", 1, 20_000]


def test_sqlite_is_closed_to_others(tmp_path: Path) -> None:
    """The database and its log are read by its owner's account alone, whatever the umask and an older file allow."""
    file = tmp_path / "slipway.db"
    file.touch(mode=0o644)
    file.chmod(0o644)
    engine = open_engine(f"sqlite:///{file}")
    migrate(engine)
    found = {each.name: each.stat().st_mode & 0o007 for each in tmp_path.iterdir()}
    engine.dispose()

    assert set(found) >= {"slipway.db", "slipway.db-wal"}
    assert set(found.values()) == {0}


def test_writers_take_turns_from_the_start(sqlite_url: str) -> None:
    """On SQLite a write transaction that has only read yet keeps a second one waiting, so that neither is refused."""
    engine = open_engine(sqlite_url)
    order: list[str] = []
    has_read = threading.Event()

    def second() -> None:
        assert has_read.wait(30)
        with writing(engine) as connection:
            order.append("second")
            connection.execute(select(tables.users)).all()

    thread = threading.Thread(target=second)
    thread.start()
    with writing(engine) as connection:
        connection.execute(select(tables.users)).all()
        has_read.set()
        time.sleep(0.2)  # gives the second every chance to come in between
        connection.execute(tables.build_logs.insert().values(build_id="a", text="x"))
        order.append("first")
    thread.join(30)
    engine.dispose()
    assert order == ["first", "second"]


def test_failed_transaction_leaves_nothing(engine: Engine) -> None:
    """What an error interrupts is undone."""

    def fail() -> None:
        with writing(engine) as connection:
            connection.execute(tables.build_logs.insert().values(build_id="a", text="x"))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with reading(engine) as connection:
        assert connection.execute(select(tables.build_logs)).all() == []


def test_postgresql_away() -> None:
    """A PostgreSQL that does not answer is StoreUnavailable, soon, and the password is told to nobody."""
    engine = open_engine(f"postgresql://slipway@127.0.0.1:{free_port()}/x", password="canary-password")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        current_revision(engine)
    assert time.monotonic() - began < 10
    assert "canary" not in f"{caught.value.message} {engine.url}"


def test_postgresql_comes_back(postgresql_server: PostgreSQLServer, postgresql_url: str) -> None:
    """A connection that the server dropped is noticed and replaced."""
    engine = open_engine(postgresql_url)
    rows = SessionRows(engine, FixedClock())
    rows.add(PLAIN, [])
    postgresql_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'slipway'"
    )
    assert rows.get(PLAIN.name) is not None
    engine.dispose()


def test_sqlite_unusable(tmp_path: Path) -> None:
    """A file that is no database is StoreUnavailable or refused, never a crash of another kind."""
    path = tmp_path / "a.db"
    path.write_text("no database" * 1000)
    with pytest.raises(StoreUnavailable):
        is_current(open_engine(f"sqlite:///{path}"))


def test_migrations_make_the_tables(engine: Engine) -> None:
    """The migrated schema is the one that the tables describe, and migrating again does nothing."""
    migrate(engine)
    assert (current_revision(engine), True) == (newest_revision(), is_current(engine))
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, tables.metadata) == []


def test_migrations_leave_the_log_alone(tmp_path: Path) -> None:
    """Migrating neither prints nor changes how the process logs."""
    handlers = list(logging.getLogger().handlers)
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}")
    assert not is_current(engine)
    migrate(engine)
    engine.dispose()
    assert list(logging.getLogger().handlers) == handlers


@pytest.mark.parametrize("offset_seconds", [0.0, 4.0, -1.5, 86400.0])
def test_database_time(engine: Engine, offset_seconds: float) -> None:
    """The database's clock comes back aware, in UTC, with the offset, and compares with stored times."""
    with writing(engine) as connection:
        there = connection.execute(select(DatabaseTime(offset_seconds))).scalar_one()
        assert abs(there - datetime.now(UTC) - timedelta(seconds=offset_seconds)) < timedelta(seconds=5)
        for seconds in (-60, 60):
            values = {"id": f"l{seconds}", "user_id": "a", "created_at": there}
            values["expires_at"] = there + timedelta(seconds=seconds)
            connection.execute(tables.logins.insert().values(values))
        later = select(tables.logins.c.id).where(tables.logins.c.expires_at > DatabaseTime(offset_seconds))
        assert connection.execute(later).scalars().all() == ["l60"]


@pytest.mark.parametrize(
    ("text_", "expected"),
    [("plain ü \U0001f600", "plain ü \U0001f600"), ("a\x00b", "a\ufffdb"), ("\ud800x\udfff", "\ufffdx\ufffd")],
)
def test_clean(text_: str, expected: str) -> None:
    """Only what a database cannot hold is replaced."""
    assert clean(text_) == expected


# ---------------------------------------------------------------- indexes

QUERIES: dict[str, Callable[[SessionRows, BuildRows], object]] = {
    "due": lambda rows, _: rows.due(datetime.now(UTC), limit=10),
    "list of a person": lambda rows, _: rows.list(Filter(user_id=PLAIN.user_id)),
    "list of a project": lambda rows, _: rows.list(Filter(project_id=1)),
    "list by path": lambda rows, _: rows.list(Filter(namespace="ada", project="one")),
    "stamps": lambda rows, _: rows.stamps(Filter(user_id=PLAIN.user_id)),
    "some": lambda rows, _: rows.some([PLAIN.name, SessionName("b")]),
    "some builds": lambda _, builds: builds.some(["b", "c"]),
    "interested in": lambda rows, _: rows.interested_in("b", limit=9),
    "heads": lambda rows, _: rows.heads(PLAIN.user_id, gone_since=datetime.now(UTC)),
    "events": lambda rows, _: rows.events(PLAIN.name, after=3),
    "events of many": lambda rows, _: rows.events_of({PLAIN.name: 0, SessionName("b"): 1}),
    "retained": lambda rows, _: rows.retained(datetime.now(UTC), limit=10),
    "running of a person": lambda rows, _: rows.count_running(PLAIN.user_id),
    "builds due": lambda _, builds: builds.due(datetime.now(UTC), limit=10),
}


@pytest.fixture(scope="module")
def _crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('crowd') / 'a.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("query", list(QUERIES))
def test_queries_read_by_index(_crowd: Engine, query: str) -> None:  # noqa: PT019 - its value is used
    """No frequent query reads a whole table of sessions, events or builds."""
    statements: list[tuple[str, object]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(_crowd, "before_cursor_execute", note)
    QUERIES[query](SessionRows(_crowd, FixedClock()), BuildRows(_crowd))
    event.remove(_crowd, "before_cursor_execute", note)
    selects = [each for each in statements if not each[0].startswith("BEGIN")]
    assert len(selects) == 1
    with reading(_crowd) as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {selects[0][0]}", selects[0][1])]  # type: ignore[arg-type]
    scans = [step for step in plan if step.startswith("SCAN") and step.split()[1] in tables.metadata.tables]
    assert scans == []


def test_list_grows_with_its_own_rows_alone(postgresql_url: str) -> None:
    """On PostgreSQL a person's list reads as many blocks among 3,000 strangers as among none."""
    engine = open_engine(postgresql_url)
    rows = SessionRows(engine, FixedClock())
    for number in range(3):
        rows.add(named(f"mine{number}"), [])
    strangers = text(
        "INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object('name', 'x' || n,"
        " 'user_id', 'u' || n % 300, 'is_gone', n % 2 = 0, 'phase', CAST(:phase AS text)))).*"
        " FROM sessions s, generate_series(1, 3000) n WHERE s.name = 'mine0'"
    )
    with writing(engine) as connection:
        connection.execute(strangers, {"phase": Phase.RUNNING.value})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE sessions")
        plan = connection.exec_driver_sql(
            "EXPLAIN SELECT * FROM sessions WHERE is_gone = false AND user_id = 'user-ada' ORDER BY created_at DESC"
        )
        steps = "\n".join(plan.scalars())
    engine.dispose()
    assert "Seq Scan" not in steps
    assert "ix_sessions_user_id_is_gone_created_at" in steps
