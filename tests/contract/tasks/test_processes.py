"""Worker, beat and Redis as real processes over a real PostgreSQL: what is lost when each is killed.

Covered: a wake-up by Redis, the beat's sweep, a worker's own sweep without beat, without Redis, and with a Redis
that hangs, and a worker killed while it holds a session. Left out: the services' own steps (the kill matrix).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spawner import config
from spawner.names import SessionName
from spawner.ports import TaskKind
from spawner.sessions.model import Event, EventKind
from spawner.store.engine import open_engine
from spawner.store.sessions import SessionRows
from spawner.tasks.celery import CeleryDispatcher
from tests.contract.store.values import named
from tests.contract.tasks.program import LEASE_SECONDS, RealClock
from tests.servers import RedisServer

ROOT = Path(__file__).parents[3]
NAME = SessionName("a")


@contextmanager
def running(role: str, database_url: str, redis: RedisServer, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker or a beat; it and its children are ended by their process group."""
    with (folder / f"{role}-{time.monotonic_ns()}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.tasks.program", role, database_url, redis.url],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that we started with the children of its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@pytest.fixture
def rows(postgresql_url: str) -> Iterator[SessionRows]:
    """The store, as the test looks at it."""
    engine = open_engine(postgresql_url)
    yield SessionRows(engine, RealClock())
    engine.dispose()


def until(look: Callable[[], bool], what: str, folder: Path, *, seconds: float = 30.0) -> float:
    """Wait until something is so, and return how long that took; fail with the logs."""
    began = time.monotonic()
    while not look():
        if time.monotonic() - began > seconds:
            logs = "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.log")))
            pytest.fail(f"{what} did not happen within {seconds} s\n{logs}")
        time.sleep(0.02)
    return time.monotonic() - began


def ready(rows: SessionRows, name: SessionName) -> list[Event]:
    """Return a session's events of being done."""
    return [each for each in rows.events(name, after=0) if each.kind is EventKind.READY]


def due(rows: SessionRows, name: str) -> SessionName:
    """Add a session that is due now."""
    rows.add(named(name, due_at=datetime.now(UTC)), [])
    return SessionName(name)


def test_killed_one_by_one(rows: SessionRows, postgresql_url: str, redis_server: RedisServer, tmp_path: Path) -> None:
    """Whichever of beat and Redis is killed or hangs, what is due is taken, by somebody, once."""
    taken: dict[str, float] = {}

    def take(case: str) -> None:
        name = due(rows, case)
        taken[case] = until(lambda: bool(ready(rows, name)), case, tmp_path)

    with running("worker", postgresql_url, redis_server, tmp_path):
        take("alone")
        with running("beat", postgresql_url, redis_server, tmp_path) as beat:
            take("with beat")
            os.kill(beat.pid, signal.SIGKILL)
        take("beat killed")
        redis_server.pause()
        take("redis hangs")
        redis_server.resume()
        redis_server.stop()
        take("redis killed")
        redis_server.start()
        take("redis back")
        woken = replace(named("woken"), due_at=datetime.now(UTC) + timedelta(hours=1))
        rows.add(woken, [])
        dispatcher = CeleryDispatcher(config.Redis(url=redis_server.url))
        dispatcher.start()
        dispatcher.soon(TaskKind.SESSION, woken.name)
        until(lambda: bool(ready(rows, woken.name)), "a wake-up after Redis came back", tmp_path)
        dispatcher.stop()
    assert {case: len(ready(rows, SessionName(case))) for case in taken} == dict.fromkeys(taken, 1)


def test_worker_killed_while_holding(
    rows: SessionRows, postgresql_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A session whose holder is killed is taken by another worker once the lease is over, and not before."""
    rows.add(named("a", step="hold", due_at=datetime.now(UTC)), [])
    with running("worker", postgresql_url, redis_server, tmp_path) as first:
        until(lambda: len(rows.events(NAME, after=0)) == 1, "a hold", tmp_path)
        kill(first)
    with running("worker", postgresql_url, redis_server, tmp_path):
        until(lambda: bool(ready(rows, NAME)), "the second worker's turn", tmp_path)
    held, done = rows.events(NAME, after=0)
    assert held.message != done.message
    assert done.at - held.at >= timedelta(seconds=LEASE_SECONDS * 0.9)


@pytest.mark.parametrize("hangs", [False, True], ids=["redis answers", "redis hangs"])
def test_worker_ends_when_told(postgresql_url: str, redis_server: RedisServer, tmp_path: Path, *, hangs: bool) -> None:
    """A worker ends by SIGTERM within seconds, also while Redis hangs, and leaves no process."""
    with running("worker", postgresql_url, redis_server, tmp_path) as worker:
        log = next(tmp_path.glob("worker-*.log"))
        until(lambda: log.read_text().count("worker_process_started") == 2, "two processes", tmp_path)
        if hangs:
            redis_server.pause()
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
        with pytest.raises(ProcessLookupError):
            os.killpg(worker.pid, 0)
