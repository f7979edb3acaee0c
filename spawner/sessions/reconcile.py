"""One path for launch, waiting, stop, crash recovery and retention: look, decide, save, act.

For: the `session` task calls `reconcile(name)`; it may run at any time, twice, anywhere.
Promises: at most one holder of a session's lease acts; each save comes before its actions; each step of a
start is saved before the next; a wake-up that comes meanwhile is not lost.
Must not know: HTTP, the database, any runtime's or GitLab's shapes.
"""

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from spawner import metrics
from spawner.errors import (
    PermanentError,
    TemporaryError,
)
from spawner.images.pulling import Pull, PullService
from spawner.images.service import ImageService
from spawner.names import SessionName, WorkloadName, workload_name
from spawner.ports import (
    Clock,
    Dispatcher,
    Health,
    ImageKind,
    Observation,
    Runtime,
    TaskKind,
    Workload,
    WorkloadImage,
)
from spawner.sessions import machine
from spawner.sessions.access import Access
from spawner.sessions.checkout import CheckoutPlan
from spawner.sessions.choosing import ImageChoice, pull_of
from spawner.sessions.machine import Action, Facts, Rules
from spawner.sessions.model import (
    EventKind,
    Failure,
    NewEvent,
    Phase,
    Session,
    Target,
    WorkloadRow,
    failure_of,
    workload_subject,
)
from spawner.sessions.options import GIGABYTE, ResourceClass, by_id, resources
from spawner.sessions.store import Claim, SessionStore
from spawner.users.service import UserService

_log = structlog.get_logger()

LEASE_SECONDS = 4.0
RENEW_SECONDS = 1.0
ROUNDS_LIMIT = 50  # a step that always asks for another is a defect, not a session
SIGN_IN_AGAIN_SECONDS = 30.0
DEFECTS_LIMIT = 5  # looks at one phase that end in what nobody foresaw: the next would too
_LAUNCHING = frozenset({Phase.NEW, Phase.QUEUED, Phase.WAITING, Phase.STARTING})
_DEFECT = Facts(
    failure=Failure(
        code="defect",
        message="This service has a defect that keeps the session from being started.",
        remedy="Tell whoever runs it: its log has the cause. Launching again may help.",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What the settings say about sessions. Times in seconds."""

    instance: str
    default_runtime: str
    report_url: str
    relay_url: str
    classes: tuple[ResourceClass, ...] = ()
    rules: Rules = field(default_factory=Rules)
    access_check_seconds: float = 900.0
    prepares_default_image: bool = True


class _LeaseLostError(Exception):
    """Somebody else holds the session now, or has changed it; leave everything as it is."""


class Reconciler:
    """Brings one session closer to its target."""

    def __init__(  # noqa: PLR0913 - a service is its ports
        self,
        *,
        sessions: SessionStore,
        images: ImageService,
        users: UserService,
        runtimes: Mapping[str, Runtime],
        dispatcher: Dispatcher,
        clock: Clock,
        settings: SessionSettings,
        checkouts: CheckoutPlan,
        access: Access,
        pulls: PullService | None = None,
    ) -> None:
        self._sessions = sessions
        self._images = images
        self._pulls = pulls
        self._users = users
        self._runtimes = runtimes
        self._dispatcher = dispatcher
        self._clock = clock
        self._settings = settings
        self._checkouts = checkouts
        self.choice = ImageChoice(images=images, users=users, access=access, runtimes=runtimes, clock=clock)
        self._holder = uuid.uuid4().hex
        self._defects: dict[SessionName, tuple[tuple[int, Phase], int]] = {}  # in a row, of one generation and phase

    def reconcile(self, name: SessionName) -> None:
        """Look at a session until nothing is left to do now; returns at once when another holder is at it."""
        holder = f"{self._holder}-{threading.get_ident()}"
        claim = self._sessions.claim(name, holder=holder, seconds=LEASE_SECONDS)
        if claim is None:
            return
        try:
            with self._renewed(claim):
                for _ in range(ROUNDS_LIMIT):
                    claim = self._settle(claim)
                    if self._sessions.release(claim):
                        self._defects.pop(name, None)
                        return
            _log.error("session_does_not_settle", session=name)
        except _LeaseLostError:
            _log.info("lease_lost", session=name)
            if self._sessions.give_up(claim):  # the row was changed under the lease, by who may have found it taken
                self._dispatcher.soon(TaskKind.SESSION, name)
        except TemporaryError:
            raise
        except Exception:
            self._count_defect(claim)
            raise

    def _count_defect(self, claim: Claim) -> None:
        """Count what nobody foresaw; end a launch that never gets on because of it, in words."""
        refreshed = self._sessions.refresh(claim)
        if refreshed is None:
            return
        session, claim = refreshed
        place = (session.generation, session.phase)
        before, count = self._defects.get(session.name, (place, 0))
        self._defects[session.name] = (place, count + 1 if before == place else 1)
        is_launch = session.target is Target.RUNNING and session.phase in _LAUNCHING
        if is_launch and self._defects[session.name][1] >= DEFECTS_LIMIT:
            del self._defects[session.name]
            self._save(session, machine.advance(session, _DEFECT, self._settings.rules, self._clock.now()), claim)
        self._sessions.release(claim)

    @contextmanager
    def _renewed(self, claim: Claim) -> Iterator[None]:
        done = threading.Event()

        def renew() -> None:
            while not done.wait(RENEW_SECONDS):
                try:
                    if not self._sessions.renew(claim, seconds=LEASE_SECONDS):
                        return
                except TemporaryError as error:  # the database is away for a moment: the lease may outlast that
                    _log.warning("lease_not_renewed", session=claim.name, error=error.message)

        thread = threading.Thread(target=renew, name=f"lease-{claim.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _settle(self, claim: Claim) -> Claim:
        """Step until a step changes nothing and asks for nothing."""
        for _ in range(ROUNDS_LIMIT):
            refreshed = self._sessions.refresh(claim)
            if refreshed is None:
                raise _LeaseLostError
            session, claim = refreshed
            step = machine.advance(session, self._facts(session), self._settings.rules, self._clock.now())
            after = self._save(session, step, claim)
            if after.wants_built_image and (session.phase, after.phase) == (Phase.RUNNING, Phase.STOPPING):
                self._sessions.wish(session.name, wants_built_image=False)  # it is being done, once
            acted = [self._perform(action, after, claim) for action in step.actions]
            if step.actions == (Action.RELEASE,):  # nothing else is left to do; said only now that it is done
                after = self._saved(replace(after, due_at=None), (), claim)
            if not any(acted) and after.phase is session.phase:
                return claim
        return claim

    def _save(self, before: Session, step: machine.Step, claim: Claim) -> Session:
        if step.session == before and not step.events:
            return before
        saved = self._sessions.save(step.session, step.events, claim)
        if saved is None:
            raise _LeaseLostError
        if step.events:
            self._dispatcher.announce(saved.name)
        if saved.phase is not before.phase:
            _measure(before, saved, self._clock.now())
            _log.info("session_phase", session=saved.name, before=before.phase.value, after=saved.phase.value)
        return saved

    # ------------------------------------------------------------ facts

    def _facts(self, session: Session) -> Facts:
        wants_image = session.target is Target.RUNNING and session.phase in {Phase.NEW, Phase.QUEUED, Phase.WAITING}
        if wants_image:
            return self.choice.facts(session)
        return Facts(observation=self._observe(session))

    def _observe(self, session: Session) -> Observation | None:
        """Return what is known of the workload: the agent's word where it is enough, else a look."""
        if session.workload is None:
            return None
        told = self._sessions.observation(session.workload)
        is_ending = session.phase in {Phase.STOPPING, Phase.FAILED} or session.target is Target.GONE
        is_over = told is not None and told.health in {Health.EXITED, Health.GONE}
        is_being_submitted = session.phase is Phase.STARTING and session.launched_at is None
        if not is_ending and (is_over or is_being_submitted):
            return told
        return self._look(session, session.workload, told)

    def _look(self, session: Session, workload: WorkloadName, told: Observation | None) -> Observation | None:
        row = self._sessions.workload(workload)
        if row is None or not row.state:
            return Observation(health=Health.GONE)
        try:
            seen = self._runtimes[session.runtime].observe([row.state])[0]
        except TemporaryError as error:
            _log.warning("runtime_not_asked", session=session.name, error=error.message)
            return told
        is_less = seen.health in {Health.UNKNOWN, Health.STARTING}
        return told if is_less and told is not None else seen

    # ------------------------------------------------------------ actions

    def _perform(self, action: Action, session: Session, claim: Claim) -> bool:
        """Perform one action; True asks for another look at once."""
        match action:
            case Action.WATCH_BUILD:
                self._images.watch(self.choice.subject(session))
                return False
            case Action.START:
                return self._start(session, claim)
            case Action.STOP:
                return self._stop(session)
            case Action.RELEASE:
                self._release(session)
                return False

    def _start(self, session: Session, claim: Claim) -> bool:
        """Have the runtime start a workload; False where that was put off."""
        runtime = self._runtimes[session.runtime]
        try:
            pull = pull_of(session, self._users, self._pulls)
            workload = self._workload(session, pull)
            is_new = session.workload != workload.name  # a start that was put off says it once
            events = (NewEvent(kind=EventKind.STEP, message=pull.message),) if is_new and pull and pull.message else ()
            session = self._saved(replace(session, workload=workload.name), events, claim)
            if self._sessions.workload(workload.name) is None:
                self._sessions.put_workload(_row(workload, session))
            for progress in runtime.start(workload):
                self._sessions.set_state(workload.name, progress.state)
                if progress.message != session.step:
                    step = NewEvent(kind=EventKind.STEP, message=progress.message)
                    session = self._saved(replace(session, step=progress.message), (step,), claim)
                if self._is_unwanted(session):
                    return True
            now = self._clock.now()
            self._saved(replace(session, launched_at=now, trouble=""), (), claim)
            metrics.LAUNCH_STAGE_SECONDS.labels(stage="pull").observe((now - session.phase_since).total_seconds())
        except TemporaryError as error:
            return self._hold(session, error, claim)
        except PermanentError as error:
            failed = machine.advance(session, Facts(failure=failure_of(error)), self._settings.rules, self._clock.now())
            after = self._save(session, failed, claim)
            for action in failed.actions:
                self._perform(action, after, claim)
        return True

    def _hold(self, session: Session, error: TemporaryError, claim: Claim) -> bool:
        """Put a start off, and return False: `due_at` brings the session back. True: its budget is spent."""
        now = self._clock.now()
        budget = timedelta(seconds=self._settings.rules.start_budget_seconds)
        if now >= session.phase_since + budget:
            failure = Failure(code="start_failed", message=error.message, remedy=error.remedy)
            step = machine.advance(session, Facts(failure=failure), self._settings.rules, now)
            self._save(session, step, claim)
            return True
        due_at = now + timedelta(seconds=error.retry_after_seconds)
        later = replace(session, step=error.message, trouble=error.message, due_at=due_at)
        event = NewEvent(kind=EventKind.WARNING, message=error.message)
        self._saved(later, (event,) if session.trouble != error.message else (), claim)
        return False

    def _saved(self, session: Session, events: Sequence[NewEvent], claim: Claim) -> Session:
        saved = self._sessions.save(session, events, claim)
        if saved is None:
            raise _LeaseLostError
        if events:
            self._dispatcher.announce(saved.name)
        return saved

    def _is_unwanted(self, session: Session) -> bool:
        current = self._sessions.get(session.name)
        return current is None or current.target is not Target.RUNNING

    def _workload(self, session: Session, pull: Pull | None) -> Workload:
        image = session.image
        name = workload_name(workload_subject(session), generation=session.generation)
        secret = self._users.session_credential(name, session.generation)
        chosen = by_id(self._settings.classes, session.request.resource_class_id)
        return Workload(
            name=name,
            generation=session.generation,
            session=session.name,
            user_id=session.user_id,
            username=session.username,
            workspace=session.workspace,
            image=None
            if image is None
            else WorkloadImage(
                reference=image.reference,
                digest=image.digest,
                kind=ImageKind(image.kind),
                pull_credential=pull.credential if pull else None,
            ),
            checkout=self._checkouts.of(session),
            credential=secret,
            report_url=self._settings.report_url,
            default_url=session.request.default_url,
            environment=session.request.environment,
            resources=resources(chosen, storage_bytes=round(session.request.storage_gigabytes * GIGABYTE)),
            annotations={"project": session.project_path, "branch": session.branch, "commit": session.sha},
        )

    def _stop(self, session: Session) -> bool:
        """Ask the runtime to end the workload; the next look comes by `due_at` or by the agent's last word."""
        row = self._sessions.workload(session.workload) if session.workload else None
        if row is None or not row.state:
            return session.phase in {Phase.STOPPING, Phase.FAILED}
        try:
            self._runtimes[session.runtime].stop(row.state, grace_seconds=self._settings.rules.stop_grace_seconds)
        except TemporaryError as error:
            _log.warning("stop_put_off", session=session.name, error=error.message)
        return False

    def _release(self, session: Session) -> None:
        self._users.drop_bearer(session.user_id, session.name)
        runtime = self._runtimes[session.runtime]
        release = getattr(runtime, "release", None)
        if release is not None and self._sessions.count_running(session.user_id) == 0:
            release(session.user_id)


def _measure(before: Session, after: Session, now: datetime) -> None:
    """Count a launch that came to an end, and the time of the stage that a session has just left."""
    source = after.image.source.value if after.image else "none"
    asked_at = after.image_asked_at or after.created_at
    match after.phase:
        case Phase.STARTING if before.phase is not Phase.RUNNING:
            metrics.LAUNCH_STAGE_SECONDS.labels(stage="image").observe((now - asked_at).total_seconds())
        case Phase.RUNNING:
            metrics.LAUNCHES.labels(outcome="ready", source=source).inc()
            metrics.LAUNCH_SECONDS.labels(source=source).observe((now - asked_at).total_seconds())
            boot_seconds = (now - (after.launched_at or now)).total_seconds()
            metrics.LAUNCH_STAGE_SECONDS.labels(stage="boot").observe(boot_seconds)
        case Phase.FAILED:
            metrics.LAUNCHES.labels(outcome="failed", source=source).inc()
        case Phase.GONE if before.phase is not Phase.FAILED and after.ready_at is None:
            metrics.LAUNCHES.labels(outcome="gone", source=source).inc()
        case _:
            pass


def _row(workload: Workload, session: Session) -> WorkloadRow:
    return WorkloadRow(
        name=workload.name,
        owner_kind="session",
        owner_name=session.name,
        site=session.runtime,
        image=workload.image.reference if workload.image else None,
        state={},
        generation=workload.generation,
    )
