"""What the runtimes hold against what the database knows, so that nothing runs on unowned.

For: housekeeping calls `sweep`, `spawner gc` shows `strays`. Promises: a workload whose session went on without
it is ended; one that the database has never heard of is reported for a day first, then its compute is ended,
and never its workspace; when that would end more than five and over a tenth of what runs, nothing is ended and
an error is logged: a restored or wrong database must not end live sessions.
Must not know: any runtime's shapes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from spawner.errors import TemporaryError
from spawner.names import SessionName, WorkloadName
from spawner.ports import Clock, Owned, Runtime
from spawner.sessions.model import ENDED, Phase
from spawner.sessions.store import SessionStore

_log = structlog.get_logger()

REPORTED_FOR = timedelta(hours=24)
FEW = 5  # this many may always be ended
SHARE = 0.1  # of all that runs; more is taken for a wrong database


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A workload that runs although no session is served by it. `is_known`: the database has its row."""

    runtime: str
    owned: Owned
    is_known: bool
    first_seen_at: datetime


class Inventory:
    """Compares, reports, ends."""

    def __init__(self, *, sessions: SessionStore, runtimes: Mapping[str, Runtime], clock: Clock) -> None:
        self._sessions = sessions
        self._runtimes = runtimes
        self._clock = clock
        self._first_seen: dict[WorkloadName, datetime] = {}

    def strays(self) -> tuple[Stray, ...]:
        """Return every stray, by runtime."""
        return tuple(stray for stray, _ in self._looked())

    def sweep(self, *, grace_seconds: float) -> tuple[Stray, ...]:
        """End the strays whose time has come since they were first seen; returns those that were ended."""
        found = list(self._looked())
        now = self._clock.now()
        over = [stray for stray, _ in found if stray.is_known or now - stray.first_seen_at >= REPORTED_FOR]
        return self._end(over, found[0][1] if found else 0, grace_seconds)

    def end_old(self, *, grace_seconds: float) -> tuple[Stray, ...]:
        """End the strays that were started over a day ago, as an operator asks; returns those that were ended."""
        found = list(self._looked())
        since = self._clock.now() - REPORTED_FOR
        over = [stray for stray, _ in found if stray.is_known or (stray.owned.created_at or since) < since]
        return self._end(over, found[0][1] if found else 0, grace_seconds)

    def _end(self, over: list[Stray], running: int, grace_seconds: float) -> tuple[Stray, ...]:
        unknown = sum(not stray.is_known for stray in over)
        if unknown > FEW and unknown > SHARE * running:
            _log.error("too_many_strays", strays=unknown, running=running)
            over = [stray for stray in over if stray.is_known]
        for stray in over:
            _log.warning("stray_ended", workload=stray.owned.workload, is_known=stray.is_known)
            self._runtimes[stray.runtime].stop(stray.owned.state, grace_seconds=grace_seconds)
        return tuple(over)

    def _looked(self) -> Iterator[tuple[Stray, int]]:
        """Yield each stray, with the number of workloads that run in all."""
        owned = [(name, each) for name, runtime in self._runtimes.items() for each in self._owned(runtime)]
        seen = {each.workload for _, each in owned}
        self._first_seen = {name: at for name, at in self._first_seen.items() if name in seen}
        for runtime, each in owned:
            is_known = self._sessions.workload(each.workload) is not None
            if is_known and self._is_served(each.workload):
                continue
            first_seen_at = self._first_seen.setdefault(each.workload, self._clock.now())
            stray = Stray(runtime=runtime, owned=each, is_known=is_known, first_seen_at=first_seen_at)
            if not is_known:
                _log.warning("stray_found", workload=each.workload, since=first_seen_at.isoformat())
            yield stray, len(owned)

    def _owned(self, runtime: Runtime) -> list[Owned]:
        try:
            return list(runtime.inventory())
        except TemporaryError as error:
            _log.warning("inventory_not_taken", runtime=runtime.name, error=error.message)
            return []

    def _is_served(self, workload: WorkloadName) -> bool:
        """Say whether a session is, or is being, served by a workload; one that is stopping is its session's care."""
        row = self._sessions.workload(workload)
        session = self._sessions.get(SessionName(row.owner_name)) if row is not None else None
        if session is None:
            return False
        is_current = session.workload == workload
        is_settled = session.phase in ENDED and session.due_at is None
        return (is_current and not is_settled) or session.phase is Phase.STOPPING
