"""The task functions: ids in, nothing out, one service call each; the same for every dispatcher.

Promises: `run` never raises (it is the outermost loop of a task) and logs what it swallowed; every task may be
run again, twice at once, or anywhere.
Must not know: who calls it, Celery, threads.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

from structlog.contextvars import bound_contextvars

from spawner import metrics
from spawner.errors import TemporaryError
from spawner.log import get_logger
from spawner.names import SessionName
from spawner.ports import Dispatcher, TaskKind

_log = get_logger(__name__)


class SessionTasks(Protocol):
    """What tasks need of the session service."""

    def reconcile(self, name: SessionName) -> None:
        """Bring one session closer to its target."""
        ...

    def due(self) -> Sequence[SessionName]:
        """Return the sessions to look at now."""
        ...

    def housekeeping(self) -> None:
        """End what is over."""
        ...

    def prepare(self) -> None:
        """Have the default images at hand."""
        ...


class ImageTasks(Protocol):
    """What tasks need of the image service."""

    def poll(self, id: str) -> None:  # noqa: A002 - the row's own name for it
        """Look at one build."""
        ...

    def due(self) -> Sequence[str]:
        """Return the builds to look at now."""
        ...


class TaskServices(Protocol):
    """What tasks need of `Services`."""

    @property
    def sessions(self) -> SessionTasks:
        """The session service."""
        ...

    @property
    def images(self) -> ImageTasks:
        """The image service."""
        ...

    @property
    def dispatcher(self) -> Dispatcher:
        """Whom to ask for a task."""
        ...


def reconcile_session(services: TaskServices, name: str) -> None:
    """Bring one session closer to its target."""
    services.sessions.reconcile(SessionName(name))


def look_at_build(services: TaskServices, build_id: str) -> None:
    """Look at one commit's build."""
    services.images.poll(build_id)


def cleanup(services: TaskServices) -> None:
    """End what is over: retention, lost access."""
    services.sessions.housekeeping()


def prepare(services: TaskServices) -> None:
    """Have at hand what sessions without an image of their own start in."""
    services.sessions.prepare()


def run(services: TaskServices, kind: TaskKind, subject: str) -> bool:
    """Run one task to its end, whatever happens; say whether it ended well."""
    started = time.monotonic()
    outcome = "failed"
    with bound_contextvars(task=kind.value, subject=subject):
        try:
            _call(services, kind, subject)
            outcome = "done"
        except TemporaryError as error:
            outcome = "postponed"
            _log.warning("task_postponed", reason=error.message)
        except Exception:  # noqa: BLE001 - the outermost loop of a task
            _log.exception("task_failed")
    metrics.TASK_SECONDS.labels(kind=kind.value, outcome=outcome).observe(time.monotonic() - started)
    return outcome == "done"


def _call(services: TaskServices, kind: TaskKind, subject: str) -> None:
    match kind:
        case TaskKind.SESSION:
            reconcile_session(services, subject)
        case TaskKind.BUILD:
            look_at_build(services, subject)
        case TaskKind.CLEANUP:
            cleanup(services)
        case TaskKind.PREPARE:
            prepare(services)
        case _:
            assert_never(kind)


def sweep(services: TaskServices, soon: Callable[[TaskKind, str], None]) -> None:
    """Ask for everything that is due; raises what the store raises."""
    for name in services.sessions.due():
        soon(TaskKind.SESSION, name)
    for build_id in services.images.due():
        soon(TaskKind.BUILD, build_id)
