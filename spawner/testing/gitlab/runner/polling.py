"""Asks for jobs and runs them, some at a time, until told to stop.

Promises: SIGTERM ends running jobs at once and reports them; SIGQUIT lets them end first; then the runner ends.
Must not know: what a job does.
"""

import fcntl
import logging
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from spawner.testing.gitlab.runner.coordinator import Coordinator, CoordinatorError, RefusedError
from spawner.testing.gitlab.runner.execution import Settings, run_job
from spawner.testing.gitlab.runner.job import RunnerJob, read_job

_ENDING_SECONDS = 60.0
_POLL_ENDING_SECONDS = 1.0
_log = logging.getLogger(__name__)


class DataTakenError(RuntimeError):
    """Another runner works in this folder."""


@dataclass(kw_only=True)
class Polling:
    """One runner at work."""

    coordinator: Coordinator
    settings: Settings
    poll_seconds: float
    concurrency: int
    once: bool = False
    _enough: threading.Event = field(default_factory=threading.Event)
    _refused: list[str] = field(default_factory=list)
    _jobs: list[threading.Thread] = field(default_factory=list)

    def run(self) -> str | None:
        """Work until a signal comes, or until one job is done with `once`; return why the server refuses us, or None.

        Raises:
            CoordinatorError: the server does not know this runner, or does not answer at the start.
        """
        self.coordinator.verify()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop(abort=True))
        signal.signal(signal.SIGQUIT, lambda *_: self._stop(abort=False))
        slots = threading.Semaphore(1 if self.once else self.concurrency)
        asking = threading.Thread(target=self._ask, args=(slots,), name="ask", daemon=True)
        asking.start()
        _log.info("Waiting for jobs from %s", self.coordinator.url)
        # Signals are handled between two waits of the main thread.
        while not self._enough.wait(1.0):
            pass
        for thread in list(self._jobs):
            thread.join(_ENDING_SECONDS if self.coordinator.stopping.is_set() else None)
        asking.join(_POLL_ENDING_SECONDS)
        return self._refused[0] if self._refused else None

    def _stop(self, *, abort: bool) -> None:
        if abort:
            self.coordinator.stopping.set()
        self._enough.set()

    def _ask(self, slots: threading.Semaphore) -> None:
        last_update, trouble = "", ""
        while not self._enough.is_set():
            slots.acquire()
            document = None
            try:
                if not self._enough.is_set():
                    answer = self.coordinator.request_job(last_update=last_update)
                    document, last_update = answer.job, answer.last_update
                if document is not None:
                    self._begin(read_job(document), slots)
            except RefusedError as exc:
                self._refused.append(str(exc))
                self._enough.set()
            except (CoordinatorError, KeyError, TypeError, ValueError) as exc:
                if str(exc) != trouble and not self._enough.is_set():
                    _log.warning("No job could be taken: %s", exc)
                document, trouble = None, str(exc)
            else:
                trouble = ""
            if document is None:
                slots.release()
                self._enough.wait(self.poll_seconds)
        self.coordinator.close()

    def _begin(self, job: RunnerJob, slots: threading.Semaphore) -> None:
        thread = threading.Thread(target=self._work, args=(job, slots), name=f"job-{job.id}", daemon=True)
        self._jobs[:] = [known for known in self._jobs if known.is_alive()]
        self._jobs.append(thread)
        thread.start()

    def _work(self, job: RunnerJob, slots: threading.Semaphore) -> None:
        _log.info("Job %s (%s) begins", job.id, job.name)
        try:
            run_job(job, coordinator=self.coordinator, settings=self.settings, stopping=self.coordinator.stopping)
        except CoordinatorError as exc:
            _log.warning("Job %s (%s) could not be reported: %s", job.id, job.name, exc)
        except Exception:  # noqa: BLE001 - the outermost loop of one job
            _log.exception("Job %s (%s) broke", job.id, job.name)
        _log.info("Job %s (%s) has ended", job.id, job.name)
        if self.once:
            self._enough.set()
        slots.release()


@contextmanager
def claimed_folder(data: Path) -> Iterator[str]:
    """Hold the runner's folder for this process, clear what a crash left in it, and yield the runner's system id.

    Raises:
        DataTakenError: another runner holds it.
    """
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DataTakenError(f"Another runner works in {data}; give this one a folder of its own.") from exc
        known = data / "system_id"
        if not known.is_file():
            known.write_text(f"s_{uuid.uuid4().hex[:12]}")
        yield known.read_text().strip()
