"""The distributed dispatcher: wake-ups through Redis, tasks in Celery workers.

For: `spawner.wiring` gives `CeleryDispatcher` to services; `spawner.worker` runs `worker_app` and its beat.
Promises: `soon` and `announce` only queue in memory: one thread sends, each try bounded by the Redis timeout and
never repeated, so that a Redis that hangs costs a request nothing; what cannot be sent is dropped and counted, the
sweep finds it. Messages are JSON, hold an id, expire, and want no answer.
Must not know: what a task does, the database.
Source: Celery 5.5 "Configuration"; kombu 5.5, `transport.redis`.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError
from redis import Redis as RedisClient
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from spawner import config, metrics
from spawner.config import read_secret
from spawner.errors import Misconfigured
from spawner.log import get_logger
from spawner.names import SessionName
from spawner.ports import TaskKind
from spawner.tasks import reconcile
from spawner.tasks.announcements import LocalAnnouncements
from spawner.tasks.reconcile import TaskServices

QUEUE = "slipway"
CHANNEL = "slipway:events"
SWEEP = "slipway.sweep_due"
TASKS = {
    TaskKind.SESSION: "slipway.reconcile_session",
    TaskKind.BUILD: "slipway.look_at_build",
    TaskKind.CLEANUP: "slipway.cleanup",
    TaskKind.PREPARE: "slipway.prepare",
}

WAKE_UP_SECONDS = 30.0  # after which a message is dropped: the sweep has found its subject long since
QUIET_SECONDS = 1.0  # after a failure nothing is tried for so long
RESWEEP_SECONDS = 5.0  # a subject that stays due is sent again after so long
QUEUED_LIMIT = 10_000
VISIBILITY_SECONDS = 3600  # must exceed the longest task; a late redelivery is harmless

_log = get_logger(__name__)
_UNSENT = (KombuError, RedisError, OSError)


def _password(redis: config.Redis) -> str | None:
    if redis.password_file is None:
        return None
    return read_secret(redis.password_file, setting="SPAWNER_REDIS__PASSWORD_FILE")


def _url(redis: config.Redis) -> str:
    if redis.url is None:
        raise Misconfigured("The dispatcher 'celery' needs Redis.", remedy="Set SPAWNER_REDIS__URL.")
    return redis.url


def redis_client(redis: config.Redis, *, timeout_seconds: float | None = None) -> RedisClient:
    """Return a client whose every call is bounded and never repeated; connects to nothing yet."""
    seconds = timeout_seconds or redis.timeout_seconds
    return RedisClient.from_url(
        _url(redis),
        password=_password(redis),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
    )


def make_app(redis: config.Redis, *, timeout_seconds: float | None = None) -> Celery:
    """Return the Celery application as a sender needs it; connects to nothing yet."""
    seconds = timeout_seconds or redis.timeout_seconds
    app = Celery("slipway", set_as_current=False)
    app.conf.update(
        broker_url=_url(redis),
        broker_password=_password(redis),
        broker_connection_timeout=seconds,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "retry_on_timeout": False,
            "max_retries": 0,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_track_started=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=60,
        enable_utc=True,
        timezone="UTC",
    )
    return app


class RedisAnnouncements(LocalAnnouncements):
    """Announcements of every process; listens from the first wait on, so that only viewers' processes do."""

    def __init__(self, redis: config.Redis) -> None:
        super().__init__()
        self._redis = redis
        self._stopping = threading.Event()
        self._listener: threading.Thread | None = None
        self._starting = threading.Lock()

    def wait(self, names: Collection[SessionName], timeout_seconds: float) -> bool:
        """Return True when one of the sessions was announced since this thread last returned, False at the timeout."""
        self._listen_from_now()
        return super().wait(names, timeout_seconds)

    def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()

    def _listen_from_now(self) -> None:
        with self._starting:
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen, name="announcements", daemon=True)
                self._listener.start()

    def _listen(self) -> None:
        is_away = False
        while not self._stopping.is_set():
            try:
                with redis_client(self._redis) as client, client.pubsub(ignore_subscribe_messages=True) as channel:
                    channel.subscribe(CHANNEL)
                    if is_away:
                        _log.info("announcements_back")
                    is_away = False
                    self._hear(channel)
            except _UNSENT as error:
                if not is_away:
                    _log.warning("announcements_away", reason=str(error))
                is_away = True
                self._stopping.wait(QUIET_SECONDS)

    def _hear(self, channel: Any) -> None:
        asked_at = time.monotonic()
        while not self._stopping.is_set():
            message = channel.get_message(timeout=QUIET_SECONDS)
            if message is not None and message["type"] == "message":
                self.announce(SessionName(message["data"].decode()))
            if time.monotonic() - asked_at > WAKE_UP_SECONDS:
                # A connection that a middlebox forgot is silent like a quiet one; only asking tells.
                asked_at = time.monotonic()
                channel.ping()


class CeleryDispatcher:
    """`Dispatcher` over Celery and Redis; sends nothing before `start`, but remembers what was asked."""

    def __init__(self, redis: config.Redis) -> None:
        self.announcements = RedisAnnouncements(redis)
        self._app = make_app(redis)
        self._client = redis_client(redis)
        self._messages: queue.SimpleQueue[tuple[TaskKind | None, str] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._queued: set[tuple[TaskKind | None, str]] = set()
        self._quiet_until = 0.0
        self._thread: threading.Thread | None = None

    def soon(self, kind: TaskKind, subject: str) -> None:
        """Queue a wake-up unless it is queued already."""
        self._put((kind, subject))

    def announce(self, session: SessionName) -> None:
        """Wake this process's viewers at once, and queue an announcement for the others'."""
        self.announcements.announce(session)
        self._put((None, session))

    def start(self, services: TaskServices | None = None) -> None:
        """Start sending; call once, after any fork. The services are the workers' business."""
        del services
        if self._thread is not None:
            raise RuntimeError("this dispatcher was started already")
        self._thread = threading.Thread(target=self._send_all, name="wake-ups", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_seconds: float = 10.0) -> bool:
        """Send what is queued and end; False when that takes longer."""
        self.announcements.stop()
        if self._thread is None:
            return True
        self._messages.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _put(self, message: tuple[TaskKind | None, str]) -> None:
        with self._lock:
            if message in self._queued:
                return
            if len(self._queued) >= QUEUED_LIMIT:
                metrics.WAKEUPS.labels(outcome="dropped").inc()
                return
            self._queued.add(message)
        self._messages.put(message)

    def _send_all(self) -> None:
        while (message := self._messages.get()) is not None:
            with self._lock:
                self._queued.discard(message)
            outcome = "dropped"
            if time.monotonic() >= self._quiet_until:
                outcome = self._send(*message)
            metrics.WAKEUPS.labels(outcome=outcome).inc()
        self._client.close()
        self._app.close()

    def _send(self, kind: TaskKind | None, subject: str) -> str:
        try:
            if kind is None:
                self._client.publish(CHANNEL, subject)
            else:
                self._app.send_task(TASKS[kind], args=(subject,), expires=WAKE_UP_SECONDS, retry=False)
        except _UNSENT as error:
            _log.warning("wake_up_unsent", kind=kind.value if kind else "event", subject=subject, reason=str(error))
        except Exception:  # noqa: BLE001 - the outermost loop of the sending thread
            _log.exception("wake_up_failed", kind=kind.value if kind else "event", subject=subject)
        else:
            return "sent"
        self._quiet_until = time.monotonic() + QUIET_SECONDS
        return "failed"


class Resweep:
    """Keeps the sweep from sending a subject again and again while its first message waits in the queue."""

    def __init__(self, soon: Callable[[TaskKind, str], None]) -> None:
        self._soon = soon
        self._sent: dict[tuple[TaskKind, str], float] = {}

    def __call__(self, kind: TaskKind, subject: str) -> None:
        """Send the subject unless it was sent a moment ago."""
        now = time.monotonic()
        self._sent = {task: at for task, at in self._sent.items() if now - at < RESWEEP_SECONDS}
        if (kind, subject) not in self._sent:
            self._sent[kind, subject] = now
            self._soon(kind, subject)


def worker_app(settings: config.Settings, provide: Callable[[], TaskServices]) -> Celery:
    """Return the application as worker and beat run it; `provide` gives this process's services."""
    # A worker waits at Redis for its next task; its timeout is for connections that are gone.
    app = make_app(settings.redis, timeout_seconds=max(5.0, settings.redis.timeout_seconds))
    limit_seconds = settings.tasks.limit_seconds
    app.conf.update(
        task_time_limit=limit_seconds + 10,
        task_soft_time_limit=limit_seconds,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        beat_scheduler="celery.beat:Scheduler",  # in memory: there is nothing to remember
        beat_max_loop_interval=settings.tasks.sweep_seconds,
        beat_schedule={
            "sweep": {
                "task": SWEEP,
                "schedule": timedelta(seconds=settings.tasks.sweep_seconds),
                "options": {"expires": max(2.0, settings.tasks.sweep_seconds), "ignore_result": True},
            },
            "cleanup": {
                "task": TASKS[TaskKind.CLEANUP],
                "schedule": timedelta(seconds=settings.tasks.housekeeping_seconds),
                "args": ("",),
                "options": {"expires": WAKE_UP_SECONDS, "ignore_result": True},
            },
        },
    )
    for kind, name in TASKS.items():
        _register(app, kind, name, provide)
    _register_sweep(app, provide)
    return app


def _register(app: Celery, kind: TaskKind, name: str, provide: Callable[[], TaskServices]) -> None:
    def task(subject: str) -> None:
        reconcile.run(provide(), kind, subject)

    app.task(task, name=name, ignore_result=True)


def _register_sweep(app: Celery, provide: Callable[[], TaskServices]) -> None:
    resweeps: list[Resweep] = []  # made in the process that runs the first sweep

    def sweep_due() -> None:
        services = provide()
        if not resweeps:
            resweeps.append(Resweep(services.dispatcher.soon))
        try:
            reconcile.sweep(services, resweeps[0])
        except Exception:  # noqa: BLE001 - the outermost loop of a task
            _log.exception("sweep_failed")

    app.task(sweep_due, name=SWEEP, ignore_result=True)
