"""What the runtimes hold against what the database knows, so that nothing runs on unowned.

For: housekeeping calls `sweep`, `spawner gc` shows `strays`. Promises: a workload whose session went on without
it is ended; one that the database has never heard of is reported for a day first, then its compute is ended,
and never its workspace; the day is counted in the database, whatever restarts meanwhile; when that would end more
than five and over a tenth of what runs, nothing is ended and an error is logged: a restored or wrong database
must not end live sessions.
Must not know: any runtime's shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from spawner.errors import TemporaryError
from spawner.names import WorkloadName
from spawner.ports import Clock, Owned, Runtime
from spawner.sessions.model import ENDED, Phase, Session
from spawner.sessions.store import SessionStore

_log = structlog.get_logger()

REPORTED_FOR = timedelta(hours=24)
FEW = 5  # this many may always be ended
SHARE = 0.1  # of all that runs; more is taken for a wrong database
OUTLIVED_LIMIT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A workload that runs although no session is served by it. `is_known`: the database has its row."""

    runtime: str
    owned: Owned
    is_known: bool
    first_seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One look at the runtimes that could be asked: what each holds, and what of it is a stray."""

    owned: Mapping[str, Mapping[WorkloadName, Owned]]
    strays: tuple[Stray, ...]

    @property
    def running(self) -> int:
        return sum(len(each) for each in self.owned.values())


class Inventory:
    """Compares, reports, ends."""

    def __init__(self, *, sessions: SessionStore, runtimes: Mapping[str, Runtime], clock: Clock) -> None:
        self._sessions = sessions
        self._runtimes = runtimes
        self._clock = clock

    def strays(self) -> tuple[Stray, ...]:
        """Return every stray, by runtime."""
        return self._look().strays

    def sweep(self, *, grace_seconds: float) -> tuple[Stray, ...]:
        """End the strays whose time has come since they were first seen; returns those that were ended.

        Rows of workloads that their sessions have outlived go with what they were of.
        """
        look = self._look()
        now = self._clock.now()
        over = [stray for stray in look.strays if stray.is_known or now - stray.first_seen_at >= REPORTED_FOR]
        ended = self._end(over, look.running, grace_seconds)
        self._end_rows(look)
        return ended

    def end_old(self, *, grace_seconds: float) -> tuple[Stray, ...]:
        """End the strays that were started over a day ago, as an operator asks; returns those that were ended."""
        look = self._look()
        since = self._clock.now() - REPORTED_FOR
        over = [stray for stray in look.strays if stray.is_known or (stray.owned.created_at or since) < since]
        return self._end(over, look.running, grace_seconds)

    def _end(self, over: list[Stray], running: int, grace_seconds: float) -> tuple[Stray, ...]:
        unknown = sum(not stray.is_known for stray in over)
        if unknown > FEW and unknown > SHARE * running:
            _log.error("too_many_strays", strays=unknown, running=running)
            over = [stray for stray in over if stray.is_known]
        return tuple(stray for stray in over if self._stop(stray, grace_seconds))

    def _stop(self, stray: Stray, grace_seconds: float) -> bool:
        try:
            self._runtimes[stray.runtime].stop(stray.owned.state, grace_seconds=grace_seconds)
        except TemporaryError as error:
            _log.warning("stray_not_ended", workload=stray.owned.workload, reason=error.message)
            return False
        _log.warning("stray_ended", workload=stray.owned.workload, is_known=stray.is_known)
        return True

    def _end_rows(self, look: _Look) -> None:
        """Delete the rows of earlier generations, once their runtime was asked and holds nothing of theirs."""
        rows = self._sessions.outlived(limit=OUTLIVED_LIMIT)
        over = [row.name for row in rows if row.site in look.owned and row.name not in look.owned[row.site]]
        self._sessions.end_workloads(over)

    def _look(self) -> _Look:
        owned = {}
        for name, runtime in self._runtimes.items():
            try:
                owned[name] = {each.workload: each for each in runtime.inventory()}
            except TemporaryError as error:
                _log.warning("inventory_not_taken", runtime=name, reason=error.message)
        strays = tuple(stray for name, each in owned.items() for stray in self._strays(name, each))
        return _Look(owned=owned, strays=strays)

    def _strays(self, runtime: str, owned: Mapping[WorkloadName, Owned]) -> list[Stray]:
        owners = self._sessions.owners(list(owned))
        found = [name for name in owned if not _serves(name, owners.get(name))]
        first_seen = self._sessions.strays_seen(runtime, found, self._clock.now())
        for name in found:
            if name not in owners:
                _log.warning("stray_found", workload=name, since=first_seen[name].isoformat())
        return [
            Stray(runtime=runtime, owned=owned[name], is_known=name in owners, first_seen_at=first_seen[name])
            for name in found
        ]


def _serves(workload: WorkloadName, session: Session | None) -> bool:
    """Say whether a workload serves, or is made to serve, a session; one that is stopping is its session's care."""
    if session is None:
        return False
    is_current = session.workload == workload
    is_settled = session.phase in ENDED and session.due_at is None
    return (is_current and not is_settled) or session.phase is Phase.STOPPING
