"""The threads that work beside the requests: what people and jobs began is settled, time is kept, hooks are told.

Promises: started once per process; one failing push, job or hook never stops the others; what fails to be settled is
tried again until it is.
Must not know: what a push or a hook means.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from spawner.testing.gitlab import pushes
from spawner.testing.gitlab.ci import bridges, lifecycle, merging
from spawner.testing.gitlab.hooks import delivery
from spawner.testing.gitlab.records import Push

if TYPE_CHECKING:
    from collections.abc import Callable

    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.store import R

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.25
_TELLERS = 8
_RETRY_SECONDS = 5.0


class Background:
    """The threads of one process."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._retry_at: dict[tuple[type, int], float] = {}  # monotonic seconds, of what failed to be settled
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
            self._settle_one(push, pushes.settle)
        for bridge in bridges.waiting(self._instance):
            self._settle_one(bridge, bridges.settle)
        for request in merging.stale(self._instance):
            self._settle_one(request, merging.settle)
        self._instance.store.wait(seen=seen, timeout_seconds=_TICK_SECONDS)

    def _settle_one(self, row: R, settle: Callable[[Instance, R], None]) -> None:
        name = (type(row), row.id)
        if self._retry_at.get(name, 0.0) > time.monotonic():
            return
        try:
            settle(self._instance, row)
        except Exception:  # noqa: BLE001 - the others are settled meanwhile
            _log.exception("%s %s could not be followed up; it will be tried again.", *name)
            self._retry_at[name] = time.monotonic() + _RETRY_SECONDS

    def _keep_time(self) -> None:
        lifecycle.tick(self._instance)
        time.sleep(_TICK_SECONDS)

    def _tell(self) -> None:
        try:
            letter = self._instance.outbox.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return
        delivery.deliver(self._instance, letter)
