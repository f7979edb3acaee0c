"""The distributed dispatcher over a real Redis.

Covered: what a message holds, queueing once, announcements across processes' dispatchers, a Redis that hangs or is
killed, a password, the sweep's restraint, Celery's settings. Left out: workers (`tests/contract/tasks`).
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from spawner import config, metrics
from spawner.errors import Misconfigured
from spawner.names import SessionName
from spawner.ports import TaskKind
from spawner.tasks.celery import QUEUE, SWEEP, TASKS, CeleryDispatcher, Resweep, make_app, redis_client, worker_app
from tests.servers import RedisServer

A = SessionName("a")


@pytest.fixture
def settings(redis_server: RedisServer) -> config.Redis:
    """The settings of a Redis that gives up soon."""
    return config.Redis(url=redis_server.url, timeout_seconds=0.2)


@pytest.fixture
def dispatcher(settings: config.Redis) -> Iterator[CeleryDispatcher]:
    """A dispatcher that must end in time."""
    dispatcher = CeleryDispatcher(settings)
    yield dispatcher
    assert dispatcher.stop(timeout_seconds=30)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Redis, as the test looks at it."""
    client = redis.Redis.from_url(redis_server.url, socket_timeout=30)
    yield client
    client.close()


def until(look: Callable[[], object]) -> None:
    """Wait until something is so, at most 30 s."""
    end = time.monotonic() + 30
    while not look():
        assert time.monotonic() < end
        time.sleep(0.005)


def counted(outcome: str) -> float:
    """Return how many wake-ups had this outcome."""
    return metrics.REGISTRY.get_sample_value("slipway_wakeups_total", {"outcome": outcome}) or 0


def messages(client: redis.Redis) -> list[tuple[str, list[str]]]:
    """Return (task, arguments) of every message in the queue, oldest first."""
    import base64  # noqa: PLC0415 - of this function alone

    raw: Any = client.lrange(QUEUE, 0, -1)
    found = []
    for each in reversed([json.loads(one) for one in raw]):
        arguments = json.loads(base64.b64decode(each["body"]))[0]
        found.append((each["headers"]["task"], arguments))
    return found


def test_messages(dispatcher: CeleryDispatcher, client: redis.Redis) -> None:
    """Each kind is a message of its own task with the id alone; one that waits is not queued again."""
    for kind in TaskKind:
        for _ in range(3):
            dispatcher.soon(kind, "x")
    assert messages(client) == []
    dispatcher.start()
    until(lambda: len(messages(client)) == len(TaskKind))
    assert messages(client) == [(TASKS[kind], ["x"]) for kind in TaskKind]


def test_announcements(dispatcher: CeleryDispatcher, settings: config.Redis, client: redis.Redis) -> None:
    """An announcement wakes viewers of this process without Redis, and of others through it."""
    other = CeleryDispatcher(settings)
    other.announcements.wait({A}, 0.01)
    until(lambda: client.pubsub_numsub("slipway:events")[0][1] == 1)
    dispatcher.announce(A)
    assert dispatcher.announcements.wait({A}, 0)
    assert not other.announcements.wait({A}, 0.05)
    dispatcher.start()
    assert other.announcements.wait({A}, 10)
    other.stop()


@pytest.mark.parametrize("trouble", ["pause", "stop"])
def test_redis_away(
    dispatcher: CeleryDispatcher,
    redis_server: RedisServer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    """A Redis that hangs or is gone is never waited for by the asker, is counted, and is used again when it is back."""
    senders: set[threading.Thread] = set()
    send = dispatcher._send

    def note(kind: TaskKind | None, subject: str) -> str:
        senders.add(threading.current_thread())
        return send(kind, subject)

    monkeypatch.setattr(dispatcher, "_send", note)
    dispatcher.start()
    dispatcher.soon(TaskKind.SESSION, "before")
    until(lambda: len(messages(client)) == 1)
    failed, dropped = counted("failed"), counted("dropped")
    getattr(redis_server, trouble)()
    for number in range(100):
        dispatcher.soon(TaskKind.SESSION, f"s{number}")
        dispatcher.announce(A)
    until(lambda: counted("failed") + counted("dropped") - failed - dropped >= 101)
    assert counted("failed") > failed
    if trouble == "stop":
        redis_server.start()
    redis_server.resume()

    def arrives() -> bool:
        dispatcher.soon(TaskKind.SESSION, "after")
        return (TASKS[TaskKind.SESSION], ["after"]) in messages(client)

    until(arrives)
    assert [thread.name for thread in senders] == ["wake-ups"]


def test_password(redis_server: RedisServer, client: redis.Redis, tmp_path: Path) -> None:
    """A password comes from its file and stands in no URL."""
    path = tmp_path / "password"
    path.write_text("canary-password\n")
    settings = config.Redis(url=redis_server.url, password_file=path)
    client.config_set("requirepass", "canary-password")
    try:
        dispatcher = CeleryDispatcher(settings)
        dispatcher.start()
        sent = counted("sent")
        dispatcher.soon(TaskKind.SESSION, "a")
        dispatcher.announce(A)
        until(lambda: counted("sent") == sent + 2)
        assert dispatcher.stop()
        assert "canary" not in make_app(settings).conf.broker_url
    finally:
        with redis_client(settings) as admin:
            admin.config_set("requirepass", "")


def test_no_redis() -> None:
    """Without a Redis in the settings the dispatcher is refused."""
    with pytest.raises(Misconfigured, match="needs Redis"):
        CeleryDispatcher(config.Redis())


def test_start_twice(dispatcher: CeleryDispatcher) -> None:
    """A dispatcher starts once."""
    dispatcher.start()
    with pytest.raises(RuntimeError):
        dispatcher.start()


def test_resweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject that stays due is sent again only after a while; other subjects and kinds are apart."""
    now = [100.0]
    monkeypatch.setattr("spawner.tasks.celery.time.monotonic", lambda: now[0])
    sent: list[tuple[TaskKind, str]] = []
    resweep = Resweep(lambda kind, subject: sent.append((kind, subject)))
    for _ in range(3):
        resweep(TaskKind.SESSION, "a")
        resweep(TaskKind.BUILD, "a")
    assert sent == [(TaskKind.SESSION, "a"), (TaskKind.BUILD, "a")]
    now[0] += 6
    resweep(TaskKind.SESSION, "a")
    assert sent[2:] == [(TaskKind.SESSION, "a")]


def test_celery_settings(settings: config.Redis) -> None:
    """Messages are JSON, acknowledged late, bounded in time, and no result is kept; the beat sweeps twice a second."""

    def nothing() -> Any:
        raise AssertionError

    app = worker_app(config.Settings(redis=settings), nothing)
    conf = app.conf
    assert {
        "accept": conf.accept_content,
        "serializer": conf.task_serializer,
        "result": conf.result_backend,
        "late": conf.task_acks_late,
        "soft": conf.task_soft_time_limit,
        "hard": conf.task_time_limit,
        "sweep": conf.beat_schedule["sweep"]["schedule"],
        "tasks": {name for name in app.tasks if name.startswith("slipway.")},
    } == {
        "accept": ["json"],
        "serializer": "json",
        "result": None,
        "late": True,
        "soft": 300.0,
        "hard": 310.0,
        "sweep": timedelta(seconds=0.5),
        "tasks": {SWEEP, *TASKS.values()},
    }
