"""The in-process dispatcher: threads of this process run the tasks, and one thread sweeps.

For: `spawner demo`, `spawner serve --embedded`, and (as its safety net) each worker process of the distributed one.
Promises: `soon` never waits and never raises; a subject that is queued is not queued twice; builds come before what
else there is, and that in the order it was asked for; what is due is found by the sweep although nobody asked; a
subject that keeps failing is swept less and less often, up to once a minute, so that a defect does not fill the log.
`stop` is bounded.
Must not know: what a task does.
"""

import itertools
import queue
import threading
import time
from dataclasses import dataclass

from spawner.log import get_logger
from spawner.names import SessionName
from spawner.ports import TaskKind
from spawner.tasks import reconcile
from spawner.tasks.announcements import LocalAnnouncements
from spawner.tasks.reconcile import TaskServices

PATIENCE_SECONDS = 60.0  # the longest pause between two sweeps of a subject that keeps failing

_log = get_logger(__name__)

Task = tuple[TaskKind, str]
_FIRST = 0
# One look at a build moves all who wait for it, so it must not queue behind a thousand of them.
_RANKS = {TaskKind.BUILD: 1, TaskKind.SESSION: 2, TaskKind.CLEANUP: 2, TaskKind.PREPARE: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much and how often. `is_net`: run only what two looks in a row found due, others being at it too."""

    threads: int = 8
    sweep_seconds: float = 0.5
    housekeeping_seconds: float = 60.0
    is_net: bool = False


class InProcessDispatcher:
    """`Dispatcher` over threads; does nothing before `start`, but remembers what was asked."""

    def __init__(self, pace: Pace | None = None, announcements: LocalAnnouncements | None = None) -> None:
        self.announcements = announcements or LocalAnnouncements()
        self._pace = pace or Pace()
        self._tasks: queue.PriorityQueue[tuple[int, int, Task | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._queued: set[Task] = set()
        self._failures: dict[Task, tuple[int, float]] = {}  # how often in a row, and when to sweep again
        self._seen_due: set[Task] = set()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    # ------------------------------------------------------------ the port

    def soon(self, kind: TaskKind, subject: str) -> None:
        """Queue the task unless it is queued already; one that is running is queued again."""
        task = (kind, subject)
        with self._lock:
            if task in self._queued:
                return
            self._queued.add(task)
        self._put(_RANKS[kind], task)

    def _put(self, rank: int, task: Task | None) -> None:
        """Queue behind what has the same rank: a tuple's second part settles every comparison."""
        self._tasks.put((rank, next(self._numbers), task))

    def announce(self, session: SessionName) -> None:
        """Wake this process's viewers of a session."""
        self.announcements.announce(session)

    # ------------------------------------------------------------ its life

    def start(self, services: TaskServices) -> None:
        """Start the threads; call once, after the fork where there is one."""
        if self._threads:
            raise RuntimeError("this dispatcher was started already")
        workers = [
            threading.Thread(target=self._work, args=(services,), name=f"task-{number}", daemon=True)
            for number in range(self._pace.threads)
        ]
        sweeper = threading.Thread(target=self._sweep, args=(services,), name="sweep", daemon=True)
        self._threads = [*workers, sweeper]
        for thread in self._threads:
            thread.start()

    def stop(self, *, timeout_seconds: float = 10.0) -> bool:
        """Take no more tasks and wait for the running ones; False when one is still running at the timeout."""
        self._stopping.set()
        for _ in self._threads:
            self._put(_FIRST, None)
        end = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, services: TaskServices) -> None:
        while not self._stopping.is_set():
            task = self._tasks.get()[2]
            if task is None:
                return
            with self._lock:
                self._queued.discard(task)
            self._note(task, is_done=reconcile.run(services, *task))

    def _note(self, task: Task, *, is_done: bool) -> None:
        with self._lock:
            if is_done:
                self._failures.pop(task, None)
                return
            count, _ = self._failures.get(task, (0, 0.0))
            pause_seconds = min(PATIENCE_SECONDS, self._pace.sweep_seconds * 2 ** min(count + 1, 10))
            self._failures[task] = (count + 1, time.monotonic() + pause_seconds)

    # ------------------------------------------------------------ the sweep

    def _sweep(self, services: TaskServices) -> None:
        housekeeping_at = time.monotonic() + self._pace.housekeeping_seconds
        while not self._stopping.wait(self._pace.sweep_seconds):
            try:
                self._look(services)
            except Exception:  # noqa: BLE001 - the outermost loop of the sweep
                _log.exception("sweep_failed")
            if time.monotonic() >= housekeeping_at:
                housekeeping_at = time.monotonic() + self._pace.housekeeping_seconds
                self.soon(TaskKind.CLEANUP, "")

    def _look(self, services: TaskServices) -> None:
        found: set[Task] = set()
        reconcile.sweep(services, lambda kind, subject: found.add((kind, subject)))
        now = time.monotonic()
        with self._lock:
            patient = {task for task in found if self._failures.get(task, (0, 0.0))[1] > now}
        wanted = found & self._seen_due if self._pace.is_net else found
        self._seen_due = found
        for task in sorted(wanted - patient):
            self.soon(*task)
