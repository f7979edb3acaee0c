"""A worker or a beat as a process of its own, over a real store and a service as small as can be.

For: `test_processes`. `python -m tests.contract.tasks.program worker|beat <database url> <redis url>`.
A session whose step is "hold" is held for ever by the first process that gets it.
"""

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Engine

from spawner import config, log
from spawner.names import SessionName
from spawner.sessions.model import EventKind, NewEvent
from spawner.store.engine import open_engine
from spawner.store.sessions import SessionRows
from spawner.tasks.celery import CeleryDispatcher
from spawner.tasks.running import run_beat, run_worker

LEASE_SECONDS = 2.0


class RealClock:
    """The present."""

    def now(self) -> datetime:
        """Return it."""
        return datetime.now(UTC)


class Sessions:
    """Takes what is due, says who took it, and is done with it."""

    def __init__(self, rows: SessionRows) -> None:
        self._rows = rows

    def reconcile(self, name: SessionName) -> None:
        """Note that this process had the session, once per claim."""
        claim = self._rows.claim(name, holder=f"{os.getpid()}-{threading.get_ident()}", seconds=LEASE_SECONDS)
        while claim is not None:
            refreshed = self._rows.refresh(claim)
            if refreshed is None:
                return
            session, claim = refreshed
            if session.step == "hold":
                self._rows.save(
                    replace(session, step="held"), [NewEvent(kind=EventKind.STEP, message=str(os.getpid()))], claim
                )
                threading.Event().wait(600)
            event = NewEvent(kind=EventKind.READY, message=str(os.getpid()))
            self._rows.save(replace(session, step="done", due_at=None), [event], claim)
            if self._rows.release(claim):
                return

    def due(self) -> Sequence[SessionName]:
        """Return what is due."""
        return self._rows.due(datetime.now(UTC), limit=100)

    def housekeeping(self) -> None:
        """Nothing to keep."""

    def prepare(self) -> None:
        """Nothing to have at hand."""


class Images:
    """No builds."""

    def poll(self, id: str) -> None:  # noqa: A002 - the port's name for it
        """Look at nothing."""

    def due(self) -> Sequence[str]:
        """Return nothing."""
        return ()


@dataclass(frozen=True)
class Services:
    """What a task may call."""

    sessions: Sessions
    images: Images
    dispatcher: CeleryDispatcher


@dataclass(frozen=True)
class Wired:
    """What a worker process starts and stops."""

    services: Services
    engine: Engine

    def start(self) -> None:
        """Start sending."""
        self.services.dispatcher.start()

    def stop(self) -> None:
        """End everything."""
        self.services.dispatcher.stop(timeout_seconds=2)
        self.engine.dispose()


def build(settings: config.Settings) -> Wired:
    """Build the services of one process."""
    engine = open_engine(settings.database.url)
    rows = SessionRows(engine, RealClock())
    return Wired(
        services=Services(sessions=Sessions(rows), images=Images(), dispatcher=CeleryDispatcher(settings.redis)),
        engine=engine,
    )


def main(role: str, database_url: str, redis_url: str) -> int:
    """Run one role until told to end."""
    log.configure(level="INFO", form="json")
    settings = config.load(
        database={"url": database_url},
        redis={"url": redis_url},
        tasks={"dispatcher": "celery", "processes": 2},
    )
    return run_worker(settings, build) if role == "worker" else run_beat(settings)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
