"""The threads that work beside the requests: pushes are settled, time is kept, hooks are told.

Promises: started once per process; one failing push, job or hook never stops the others; a push that fails is tried
again until it is settled.
Must not know: what a push or a hook means.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from spawner.testing.gitlab import pushes
from spawner.testing.gitlab.ci import lifecycle
from spawner.testing.gitlab.hooks import delivery
from spawner.testing.gitlab.records import Push

if TYPE_CHECKING:
    from collections.abc import Callable

    from spawner.testing.gitlab.instance import Instance

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.25
_TELLERS = 8
_RETRY_SECONDS = 5.0


class Background:
    """The threads of one process."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._retry_at: dict[int, float] = {}  # monotonic seconds, by the id of a push that failed
        work: list[Callable[[], None]] = [self._settle, self._keep_time, *([self._tell] * _TELLERS)]
        self._threads = [threading.Thread(target=self._guarded, args=(step,), daemon=True) for step in work]

    def start(self) -> None:
        """Start working."""
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _guarded(step: Callable[[], None]) -> None:
        while True:
            try:
                step()
            except Exception:  # noqa: BLE001 - the outermost loop of a thread
                _log.exception("A background step failed; it will be tried again.")
                time.sleep(_TICK_SECONDS)

    def _settle(self) -> None:
        seen = self._instance.store.changes
        for push in self._instance.store.all(Push):
            if self._retry_at.get(push.id, 0.0) <= time.monotonic():
                self._settle_one(push)
        self._instance.store.wait(seen=seen, timeout_seconds=_TICK_SECONDS)

    def _settle_one(self, push: Push) -> None:
        try:
            pushes.settle(self._instance, push)
        except Exception:  # noqa: BLE001 - the others are settled meanwhile
            _log.exception("Push %s of %s could not be followed up; it will be tried again.", push.after, push.ref)
            self._retry_at[push.id] = time.monotonic() + _RETRY_SECONDS

    def _keep_time(self) -> None:
        lifecycle.tick(self._instance)
        time.sleep(_TICK_SECONDS)

    def _tell(self) -> None:
        try:
            letter = self._instance.outbox.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return
        delivery.deliver(self._instance, letter)
