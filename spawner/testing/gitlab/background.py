"""The threads that work beside the requests: pushes are settled, time is kept, hooks are told.

Promises: started once per process; one failing push, job or hook never stops the others; `stop` returns when all
have ended.
Must not know: what a push or a hook means.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from spawner.testing.gitlab import pushes
from spawner.testing.gitlab.ci import lifecycle
from spawner.testing.gitlab.hooks import delivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from spawner.testing.gitlab.instance import Instance

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.25
_TELLERS = 8


class Background:
    """The threads of one process."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._stopping = threading.Event()
        work: list[Callable[[], None]] = [self._settle, self._keep_time, *([self._tell] * _TELLERS)]
        self._threads = [threading.Thread(target=self._guarded, args=(step,), daemon=True) for step in work]

    def start(self) -> None:
        """Start working."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the present steps and end."""
        self._stopping.set()
        self._instance.store.wake()
        for thread in self._threads:
            thread.join(_TICK_SECONDS * 8)

    def _guarded(self, step: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            try:
                step()
            except Exception:  # noqa: BLE001 - the outermost loop of a thread
                _log.exception("A background step failed; it will be tried again.")
                self._stopping.wait(_TICK_SECONDS)

    def _settle(self) -> None:
        seen = self._instance.store.changes
        pushes.settle(self._instance)
        self._instance.store.wait(seen=seen, timeout_seconds=_TICK_SECONDS)

    def _keep_time(self) -> None:
        lifecycle.tick(self._instance)
        self._stopping.wait(_TICK_SECONDS)

    def _tell(self) -> None:
        try:
            letter = self._instance.outbox.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return
        delivery.deliver(self._instance, letter)
