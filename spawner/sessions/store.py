"""What the session service needs of a database.

Promises asked of an adapter: one transaction per method; `claim`, `release` and `save` are conditional
UPDATEs; the lease is by the database's clock; an event's id is taken in the same UPDATE that raises the
session's version. `target`, `is_start_now`, `wants_built_image` and observations are never written by `save`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spawner.names import SessionName, UserId, WorkloadName
from spawner.ports import Observation, State
from spawner.sessions.model import Event, LaunchRequest, NewEvent, Phase, Session, Target, WorkloadRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A lease on one session: who holds it, and the `wanted` counter seen when it was last looked at."""

    name: SessionName
    holder: str
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Exact matches on a list of sessions; None matches everything."""

    user_id: UserId | None = None
    namespace: str | None = None  # compared with the lower-cased namespace
    project: str | None = None  # compared with the lower-cased last part of the path
    branch: str | None = None
    sha: str | None = None
    project_id: int | None = None
    has_ended: bool | None = False  # False: GONE left out (FAILED stays, the person must see it)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What `text` stands for is unchanged as long as it is: a session's row, people's wishes and its build's row."""

    name: SessionName
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessDue:
    """A running session whose owner's access is to be asked about; since when GitLab could not be asked as them."""

    session: Session
    unknown_since: datetime | None


class SessionStore(Protocol):
    """Sessions, their events, workloads and observations."""

    def add(self, session: Session, events: Sequence[NewEvent]) -> tuple[Session, bool]:
        """Insert the session with its first events; (the row already there, False) when the name is taken."""
        ...

    def get(self, name: SessionName) -> Session | None:
        """Return a session, or None."""
        ...

    def list(self, wanted: Filter, *, offset: int = 0, limit: int | None = None) -> Sequence[Session]:
        """Return matching sessions, newest first; never grows with sessions that do not match."""
        ...

    def stamps(self, wanted: Filter, *, offset: int = 0, limit: int | None = None) -> Sequence[Stamp]:
        """Return the stamps of what `list` would return, in its order."""
        ...

    def some(self, names: Sequence[SessionName]) -> Sequence[Session]:
        """Return the sessions of these names, in no order, in one query; those that do not exist are left out."""
        ...

    def claim(self, name: SessionName, *, holder: str, seconds: float) -> Claim | None:
        """Take the lease, or raise `wanted` and return None when somebody else holds it."""
        ...

    def renew(self, claim: Claim, *, seconds: float) -> bool:
        """Prolong the lease; False when it was lost."""
        ...

    def refresh(self, claim: Claim) -> tuple[Session, Claim] | None:
        """Read the session and its `wanted` counter again under the claim; None when the lease was lost."""
        ...

    def release(self, claim: Claim) -> bool:
        """Give the lease back; False when a wake-up came since, so that the holder goes round again."""
        ...

    def give_up(self, claim: Claim) -> bool:
        """Give the lease back whoever came meanwhile, who then has to be served; False when it was lost."""
        ...

    def save(self, session: Session, events: Sequence[NewEvent], claim: Claim) -> Session | None:
        """Write all but the people's columns where `version` and lease still stand; None when they do not."""
        ...

    def wish(
        self,
        name: SessionName,
        *,
        target: Target | None = None,
        is_start_now: bool | None = None,
        wants_built_image: bool | None = None,
    ) -> bool:
        """Write what a person wants and raise `wanted`; False when the session does not exist."""
        ...

    def relaunch(self, session: Session, events: Sequence[NewEvent]) -> Session | None:
        """Replace an ended or ending session's whole row where `version` still stands; a holder's save then fails."""
        ...

    def ask(self, session: Session, request: LaunchRequest) -> Session | None:
        """Replace what a session was launched with where `version` still stands; None where it does not."""
        ...

    def want(self, names: Sequence[SessionName]) -> None:
        """Raise `wanted` and make the sessions due now, in one statement."""
        ...

    def due(self, now: datetime, *, limit: int) -> Sequence[SessionName]:
        """Return sessions that are due and not claimed, longest due first."""
        ...

    def interested_in(self, build_id: str, *, limit: int | None = None) -> Sequence[Session]:
        """Return the sessions of a build's commit that wait for it, oldest first, then those that run meanwhile."""
        ...

    def events(self, name: SessionName, *, after: int, limit: int = 500) -> Sequence[Event]:
        """Return events with id greater than `after`, in order."""
        ...

    def events_of(self, cursors: Mapping[SessionName, int], *, limit: int = 1000) -> Sequence[Event]:
        """Return events of many sessions, each after its own cursor, in one query."""
        ...

    def heads(self, user_id: UserId, *, gone_since: datetime) -> Mapping[SessionName, int]:
        """Return the newest event id of each of a person's sessions; of those gone, only if since that time."""
        ...

    def put_workload(self, row: WorkloadRow) -> None:
        """Insert or replace a workload's row (idempotent)."""
        ...

    def workload(self, name: WorkloadName) -> WorkloadRow | None:
        """Return a workload, or None."""
        ...

    def workloads(self) -> Sequence[WorkloadRow]:
        """Return every workload row of this instance."""
        ...

    def owners(self, names: Sequence[WorkloadName]) -> Mapping[WorkloadName, Session | None]:
        """Return the session of each known workload of these names in one query; None where it is of no session."""
        ...

    def outlived(self, *, limit: int) -> Sequence[WorkloadRow]:
        """Return workloads of sessions that have gone on to another."""
        ...

    def end_workloads(self, names: Sequence[WorkloadName]) -> None:
        """Delete many workloads' rows and observations in one statement."""
        ...

    def end_workload(self, name: WorkloadName) -> None:
        """Delete a workload's row and its observation; a no-op when gone."""
        ...

    def set_state(self, name: WorkloadName, state: State) -> None:
        """Save what the runtime said, before its next step."""
        ...

    def observe(self, name: WorkloadName, observation: Observation) -> SessionName | None:
        """Keep the newest observation, raise `wanted` of its session and make it due; None when unknown.

        An EXITED or GONE observation is never overwritten by STARTING or READY.
        """
        ...

    def observation(self, name: WorkloadName) -> Observation | None:
        """Return what was last observed of a workload."""
        ...

    def retained(self, now: datetime, *, limit: int) -> Sequence[Session]:
        """Return ended sessions whose workspace retention is over; never one whose workspace another still needs."""
        ...

    def forget_workspace(self, session: Session) -> None:
        """Write that an ended session's workspace is gone, where `version` still stands."""
        ...

    def access_due(self, before: datetime, *, limit: int) -> Sequence[AccessDue]:
        """Return running sessions whose owner's access was not asked about since `before`, longest ago first."""
        ...

    def access_checked(self, name: SessionName, *, at: datetime, unknown_since: datetime | None) -> None:
        """Write when a session's owner's access was asked about; a relaunch forgets both times."""
        ...

    def strays_seen(self, site: str, names: Sequence[WorkloadName], now: datetime) -> Mapping[WorkloadName, datetime]:
        """Return when each stray of a site was first seen, now for a new one; those not named are forgotten."""
        ...

    def count_by_phase(self) -> Mapping[Phase, int]:
        """Count the sessions in each phase; a phase without any is left out."""
        ...

    def count_running(self, user_id: UserId | None = None) -> int:
        """Count sessions that have not ended, of one person or of all."""
        ...
