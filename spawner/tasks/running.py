"""Running the distributed tasks: a worker's processes, and the beat.

For: `spawner.worker`.
Promises: each worker process builds its services once, after the fork; besides what Redis brings it sweeps by
itself every second, and runs what two looks in a row found due, so that a lost Redis or beat stops nothing.
Must not know: how services are built, HTTP, any adapter.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from celery import signals

from spawner.config import Settings
from spawner.log import get_logger
from spawner.tasks.celery import worker_app
from spawner.tasks.inprocess import InProcessDispatcher, Pace
from spawner.tasks.reconcile import TaskServices

NET_SECONDS = 1.0  # between two looks of a worker's own sweep
NET_THREADS = 2
NET_HOUSEKEEPING_FACTOR = 5  # beat asks for housekeeping; this is for when it does not

_log = get_logger(__name__)


class Startable(Protocol):
    """One process's services and what it must start and stop."""

    @property
    def services(self) -> TaskServices:
        """What tasks call."""
        ...

    def start(self) -> None:
        """Start the dispatcher's threads."""
        ...

    def stop(self) -> None:
        """End threads and connections, bounded in time."""
        ...


Build = Callable[[Settings], Startable]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one worker process holds."""

    wired: Startable
    net: InProcessDispatcher


class WorkerProcess:
    """The services of this process, built at their first use and never inherited through a fork."""

    def __init__(self, settings: Settings, build: Build) -> None:
        self._settings = settings
        self._build = build
        self._lock = threading.Lock()
        self._parts: dict[int, _Part] = {}  # by process id

    def services(self) -> TaskServices:
        """Return this process's services, started."""
        with self._lock:
            part = self._parts.get(os.getpid())
            if part is None:
                part = self._start()
                self._parts[os.getpid()] = part
        return part.wired.services

    def _start(self) -> _Part:
        wired = self._build(self._settings)
        wired.start()
        pace = Pace(
            threads=NET_THREADS,
            sweep_seconds=NET_SECONDS,
            housekeeping_seconds=self._settings.tasks.housekeeping_seconds * NET_HOUSEKEEPING_FACTOR,
            is_net=True,
        )
        net = InProcessDispatcher(pace)
        net.start(wired.services)
        _log.info("worker_process_started", pid=os.getpid())
        return _Part(wired, net)

    def stop(self) -> None:
        """End this process's threads and connections, bounded in time."""
        with self._lock:
            part = self._parts.pop(os.getpid(), None)
        if part is not None:
            part.net.stop(timeout_seconds=5.0)
            part.wired.stop()


def run_worker(settings: Settings, build: Build) -> int:
    """Run a worker until it is told to end; return its exit code. Raises Misconfigured."""
    process = WorkerProcess(settings, build)
    app = worker_app(settings, process.services)

    def begin(**_: Any) -> None:
        process.services()

    def end(**_: Any) -> None:
        process.stop()

    signals.setup_logging.connect(_leave_logging, weak=False)
    signals.worker_process_init.connect(begin, weak=False)
    signals.worker_process_shutdown.connect(end, weak=False)
    worker = app.Worker(
        concurrency=settings.tasks.processes,
        pool="prefork",
        loglevel=settings.log.level.value,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def run_beat(settings: Settings) -> int:
    """Run the beat until it is told to end; a second one is harmless."""
    app = worker_app(settings, _no_services)
    signals.setup_logging.connect(_leave_logging, weak=False)
    app.Beat(loglevel=settings.log.level.value, quiet=True).run()
    return 0


def _leave_logging(**_: Any) -> None:
    """Keep Celery from setting up logging: it is set up."""


def _no_services() -> TaskServices:
    raise RuntimeError("the beat runs no task")
