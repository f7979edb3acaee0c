"""Real PostgreSQL and Redis for tests: private instances on free loopback ports.

For: any suite; the fixtures `postgresql_server`, `postgresql_url`, `redis_server` and `sqlite_url` are there for all.
Promises: one PostgreSQL per run and a database per test; a Redis per test module, emptied before each test that
asks; everything is stopped by its own process id and its folder removed. Where the programs are missing the test is
skipped, saying how to get them.
"""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import redis

from spawner.store.engine import open_engine
from spawner.store.migrations import migrate

START_SECONDS = 60.0
STOP_SECONDS = 30.0
_numbers = itertools.count(1)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ending_with_us(sign: str) -> list[str]:
    """Return the words in front of a command that end it with this process, should this one be killed."""
    return ["setpriv", "--pdeathsig", sign] if shutil.which("setpriv") else []


def _stop(process: subprocess.Popen[bytes], sign: signal.Signals) -> None:
    """Stop one process that we started, kindly and then for good."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)  # one that a test paused would never read the other
    process.send_signal(sign)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)


# ---------------------------------------------------------------- PostgreSQL


def _postgresql_folder() -> Path:
    """Return the folder of PostgreSQL's programs, or skip the test."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    found = [path for path in newest if (path / "initdb").exists()]
    on_path = shutil.which("initdb")
    if found:
        return found[0]
    if on_path is not None and shutil.which("postgres") is not None:
        return Path(on_path).resolve().parent
    pytest.skip("PostgreSQL is missing: `apt-get install postgresql` (15 or newer) brings initdb and postgres")


@dataclass
class PostgreSQLServer:
    """A private PostgreSQL; `process` may be paused or killed by a test that then calls `start` again."""

    programs: Path
    folder: Path
    port: int
    user: int | None  # PostgreSQL refuses to run as root
    process: subprocess.Popen[bytes] | None = None

    @property
    def admin_url(self) -> str:
        """The URL of the database that is always there, as libpq wants it."""
        return self.url("postgres")

    def url(self, database: str) -> str:
        """Return the URL of a database, as the settings want it."""
        return f"postgresql://slipway@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *_ending_with_us("QUIT"),
                    str(self.programs / "postgres"),
                    "-D",
                    str(self.folder / "data"),
                    "-p",
                    str(self.port),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
                cwd=self.folder,
            )
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.admin_url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > end:
                    text = (self.folder / "server.log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL did not start:\n{text}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server at once, without waiting for its clients."""
        if self.process is not None:
            _stop(self.process, signal.SIGINT)

    def execute(self, statement: str) -> None:
        """Run one administrative statement outside a transaction."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """One PostgreSQL for the whole run, with a migrated database called `template_slipway`."""
    programs = _postgresql_folder()
    folder = Path(tempfile.mkdtemp(prefix="slipway-postgresql-"))
    user = 65534 if os.geteuid() == 0 else None  # `nobody`
    if user is not None:
        os.chown(folder, user, user)
    server = PostgreSQLServer(programs=programs, folder=folder, port=free_port(), user=user)
    try:
        subprocess.run(
            [
                str(programs / "initdb"),
                "-D",
                str(folder / "data"),
                "-U",
                "slipway",
                "-A",
                "trust",
                "-N",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-instructions",
            ],
            check=True,
            capture_output=True,
            timeout=120,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            cwd=folder,
        )
        server.start()
        server.execute("CREATE DATABASE template_slipway")
        engine = open_engine(server.url("template_slipway"))
        migrate(engine)
        engine.dispose()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQLServer) -> Iterator[str]:
    """A migrated PostgreSQL database of the test's own, as a URL for `open_engine`."""
    name = f"slipway_{os.getpid()}_{next(_numbers)}"
    postgresql_server.execute(f"CREATE DATABASE {name} TEMPLATE template_slipway STRATEGY file_copy")
    yield postgresql_server.url(name)
    postgresql_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


# ---------------------------------------------------------------- SQLite


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of the test's own, as a URL for `open_engine`."""
    path = tmp_path / "slipway.db"
    shutil.copyfile(_sqlite_template, path)
    return f"sqlite:///{path}"


# ---------------------------------------------------------------- Redis


@dataclass
class RedisServer:
    """A private Redis, which a test may pause, kill and start again on the same port."""

    program: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        """Its URL, as the settings want it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.process = subprocess.Popen(
            [
                self.program,
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(self.folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + START_SECONDS
        client = redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=2)
        while True:
            try:
                client.ping()
                client.close()
                return
            except redis.RedisError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("Redis did not start") from None
                time.sleep(0.02)

    def empty(self) -> None:
        """Forget every key."""
        client = redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5)
        client.flushall()
        client.close()

    def pause(self) -> None:
        """Make it hang: connections are taken and never answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill it: what it held is lost."""
        if self.process is not None:
            _stop(self.process, signal.SIGKILL)


@pytest.fixture(scope="module")
def _redis() -> Iterator[RedisServer]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("Redis is missing: `apt-get install redis-server` brings it")
    folder = Path(tempfile.mkdtemp(prefix="slipway-redis-"))
    server = RedisServer(program=program, port=free_port(), folder=folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_server(_redis: RedisServer) -> RedisServer:
    """An empty Redis that answers, whatever the test before did to it."""
    assert _redis.process is not None
    if _redis.process.poll() is not None:
        _redis.start()
    _redis.resume()
    _redis.empty()
    return _redis
