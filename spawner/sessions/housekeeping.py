"""What nobody asks for and time brings: workspaces past their retention, owners who lost access, leftovers.

For: the `cleanup` task calls `run`, once a minute. Promises: one folder, one session or one part that fails stops
no other and is tried again later; a workspace is deleted only while its ended session is held by its lease, so
that a relaunch neither starts in it meanwhile nor is told that it was kept; who may not be asked is not starved.
Must not know: HTTP, the database, any runtime's or GitLab's shapes.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from enum import Enum, auto
from typing import cast

import structlog

from spawner import metrics
from spawner.errors import Forbidden, MissingScope, NotFound, SignInRequired, TemporaryError
from spawner.names import SessionName, UserId
from spawner.ports import AdmitsPeople, Clock, Dispatcher, Forge, Runtime, TaskKind
from spawner.sessions.inventory import Inventory
from spawner.sessions.model import ENDED, EventKind, NewEvent, Session, Target
from spawner.sessions.reconcile import SessionSettings
from spawner.sessions.store import AccessDue, Claim, SessionStore
from spawner.users.service import UserService

_log = structlog.get_logger()

PASS_SECONDS = 30.0  # of each part that asks or deletes: a task has an end, and the rest comes in a minute
RETENTION_LIMIT = 200
ACCESS_LIMIT = 200
CLAIM_SECONDS = 30.0  # longer than a folder takes to leave its place; what it takes to delete does not matter
REMOVE_AGAIN = timedelta(hours=1)
# A guess: long enough for a person to come back after a night, short for somebody who was locked out.
UNKNOWN_ACCESS_FOR = timedelta(hours=24)


class Answer(Enum):
    """What GitLab said about a session's owner and its project."""

    SEES = auto()
    LOST = auto()
    UNKNOWN = auto()  # it cannot be asked as this person any more: their sign-in has ended
    UNASKED = auto()  # it could not be asked just now


class Housekeeping:
    """Ends what is over; `chores` of other parts are done after its own."""

    def __init__(  # noqa: PLR0913 - a service is its ports
        self,
        *,
        sessions: SessionStore,
        users: UserService,
        forge: Forge,
        runtimes: Mapping[str, Runtime],
        dispatcher: Dispatcher,
        clock: Clock,
        settings: SessionSettings,
        inventory: Inventory,
        chores: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._sessions = sessions
        self._users = users
        self._forge = forge
        self._runtimes = runtimes
        self._dispatcher = dispatcher
        self._clock = clock
        self._settings = settings
        self._inventory = inventory
        self._chores = tuple(chores)
        self._holder = uuid.uuid4().hex

    def run(self) -> None:
        """Do every part; one that fails is logged and stops no other."""
        parts: tuple[Callable[[], None], ...] = (
            self._check_access,
            self._end_retention,
            self._prepare,
            self._sweep,
            self._release,
            self._count,
            *self._chores,
        )
        for part in parts:
            try:
                part()
            except TemporaryError as error:
                _log.warning("housekeeping_put_off", part=part.__name__, reason=error.message)
            except Exception:  # noqa: BLE001 - the outermost loop of each part
                _log.exception("housekeeping_failed", part=part.__name__)

    def _prepare(self) -> None:
        self._dispatcher.soon(TaskKind.PREPARE, "")

    def _sweep(self) -> None:
        self._inventory.sweep(grace_seconds=self._settings.rules.stop_grace_seconds)

    def _release(self) -> None:
        """Let go of who was admitted and has no session: a launch may break off before its session is written."""
        doorkeepers = (cast("AdmitsPeople", each) for each in self._runtimes.values() if hasattr(each, "admitted"))
        for doorkeeper in doorkeepers:
            for user_id in doorkeeper.admitted:
                if self._sessions.count_running(user_id) == 0:
                    doorkeeper.release(user_id)

    def _count(self) -> None:
        for phase, count in self._sessions.count_by_phase().items():
            metrics.SESSIONS.labels(phase=phase.value).set(count)

    # ------------------------------------------------------------ retention

    def _end_retention(self) -> None:
        """Delete the workspaces whose retention is over, oldest first."""
        now = self._clock.now()
        ends_at = now + timedelta(seconds=PASS_SECONDS)
        for session in self._sessions.retained(now, limit=RETENTION_LIMIT):
            try:
                self._end_workspace(session.name)
            except Exception:  # noqa: BLE001 - the outermost loop of each session
                _log.exception("workspace_not_removed", session=session.name, workspace=session.workspace)
            if self._clock.now() >= ends_at:
                return

    def _end_workspace(self, name: SessionName) -> None:
        with self._held(name) as held:
            if held is None:
                return
            session, claim = held
            now = self._clock.now()
            if session.phase not in ENDED or session.retain_until is None or session.retain_until > now:
                return
            # Said before it is done: whoever launches it from here on is told the truth, and is started after us.
            # Done again an hour later if it fails, so that one bad folder is not the first of every pass.
            doomed = replace(session, has_workspace=False, launched_at=None, retain_until=now + REMOVE_AGAIN)
            said = self._sessions.save(doomed, (), claim)
            if said is None:
                return
            remove = getattr(self._runtimes.get(session.runtime), "remove_workspace", None)
            if remove is not None:
                remove(session.workspace)
            if session.workload is not None:
                self._sessions.end_workload(session.workload)
            self._sessions.forget_workspace(said)
            _log.info("workspace_removed", session=name)

    @contextmanager
    def _held(self, name: SessionName) -> Iterator[tuple[Session, Claim] | None]:
        """Hold a session's lease; None while somebody else is at it. Who came meanwhile is served afterwards."""
        holder = f"{self._holder}-{threading.get_ident()}"
        claim = self._sessions.claim(name, holder=holder, seconds=CLAIM_SECONDS)
        held = None if claim is None else self._sessions.refresh(claim)
        if held is None:
            yield None
            return
        try:
            yield held
        finally:
            if not self._sessions.release(held[1]):
                self._free(name, holder)

    def _free(self, name: SessionName, holder: str) -> None:
        """Let go of a session that somebody wanted meanwhile, and have it looked at."""
        claim = self._sessions.claim(name, holder=holder, seconds=CLAIM_SECONDS)
        if claim is not None:
            self._sessions.release(claim)
        self._wake(name)

    # ------------------------------------------------------------ access

    def _check_access(self) -> None:
        """Ask GitLab whether the owners of running sessions still see their projects, the longest unasked first."""
        now = self._clock.now()
        ends_at = now + timedelta(seconds=PASS_SECONDS)
        before = now - timedelta(seconds=self._settings.access_check_seconds)
        told: dict[tuple[UserId, int], Answer] = {}
        for due in self._sessions.access_due(before, limit=ACCESS_LIMIT):
            key = (due.session.user_id, due.session.project_id)
            answer = told.get(key) or self._ask(due.session)
            if answer in {Answer.SEES, Answer.LOST}:  # of the others each session may have a token of its own
                told[key] = answer
            self._heed(due, answer)
            if self._clock.now() >= ends_at:
                return

    def _ask(self, session: Session) -> Answer:
        try:
            credential = self._users.credential(session.user_id, session=session.name)
            self._forge.project(credential, session.project_id)
        except (SignInRequired, MissingScope):
            return Answer.UNKNOWN
        except (NotFound, Forbidden):  # Forbidden is what GitLab answers to a blocked person
            return Answer.LOST
        except TemporaryError as error:
            _log.warning("access_not_asked", session=session.name, reason=error.message)
            return Answer.UNASKED
        except Exception:  # noqa: BLE001 - the outermost loop of each session
            _log.exception("access_check_failed", session=session.name)
            return Answer.UNASKED
        return Answer.SEES

    def _heed(self, due: AccessDue, answer: Answer) -> None:
        now = self._clock.now()
        since = due.unknown_since
        message = ""
        match answer:
            case Answer.SEES:
                since = None
            case Answer.LOST:
                message = f"You may not see {due.session.project_path} any more: the session is stopped."
            case Answer.UNKNOWN:
                since = since or now
                if now - since >= UNKNOWN_ACCESS_FOR:
                    message = "Your sign-in with GitLab ended a day ago: the session is stopped."
            case Answer.UNASKED:
                pass
        if not message or self._end(due.session.name, message):
            self._sessions.access_checked(due.session.name, at=now, unknown_since=since)

    def _end(self, name: SessionName, message: str) -> bool:
        """Say why and stop a session; False, and the next pass comes back, while somebody else is at it."""
        with self._held(name) as held:
            if held is None:
                return False
            self._sessions.save(held[0], [NewEvent(kind=EventKind.WARNING, message=message)], held[1])
            self._sessions.wish(name, target=Target.GONE)
        _log.info("access_lost", session=name)
        return True

    def _wake(self, name: SessionName) -> None:
        self._dispatcher.soon(TaskKind.SESSION, name)
        self._dispatcher.announce(name)
