"""What people, programs and agents may ask of sessions.

For: the edges call one method per request. Promises: a session is shown to nobody who may not know of it (the
same SessionNotFound as for one that does not exist); a launch is accepted, not awaited; asking twice is asking
once.
Must not know: HTTP, the database, any runtime's or GitLab's shapes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlencode, urlsplit

from spawner import metrics
from spawner.errors import (
    Conflict,
    HibernationUnavailable,
    InvalidInput,
    RevisionNotFound,
    SessionNotFound,
    TemporaryError,
)
from spawner.images.model import Build
from spawner.images.resolve import MOVING
from spawner.images.service import ImageService, Subject
from spawner.names import (
    SessionName,
)
from spawner.ports import (
    Clock,
    Dispatcher,
    Forge,
    ImageKind,
    JobStatus,
    Observation,
    Routes,
    Runtime,
    TaskKind,
    WorkloadImage,
)
from spawner.sessions import machine
from spawner.sessions.acceptance import Acceptance, LaunchCommand
from spawner.sessions.access import Access
from spawner.sessions.addresses import Destination, namings
from spawner.sessions.housekeeping import Housekeeping
from spawner.sessions.inventory import Inventory
from spawner.sessions.launching import Named, Place
from spawner.sessions.model import Event, LaunchRequest, Phase, Session, Target
from spawner.sessions.options import GIGABYTE, ResourceClass, by_id, resources
from spawner.sessions.reconcile import Reconciler, SessionSettings
from spawner.sessions.store import Filter, SessionStore, Stamp
from spawner.users.access import Relation, may_change, may_see, may_stop
from spawner.users.model import Caller
from spawner.users.service import UserService

__all__ = ["LaunchCommand", "Located", "Opened", "SessionService"]

DUE_LIMIT = 200
TOLD_WHEN_GONE_FOR = timedelta(hours=1)  # a guess: longer than a viewer is away and comes back to the same page


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A URL that lets its holder into the session once, until it expires."""

    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What an address names: a place, and the file of it that the address shows (empty for none)."""

    place: Place
    path: str = ""


class SessionService:
    """Launch, see, open, stop."""

    def __init__(  # noqa: PLR0913 - a service is its ports
        self,
        *,
        sessions: SessionStore,
        images: ImageService,
        users: UserService,
        forge: Forge,
        runtimes: Mapping[str, Runtime],
        routes: Mapping[str, Routes],
        dispatcher: Dispatcher,
        clock: Clock,
        settings: SessionSettings,
        reconciler: Reconciler,
        access: Access,
        inventory: Inventory,
        chores: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._sessions = sessions
        self._images = images
        self._users = users
        self._runtimes = runtimes
        self._routes = routes
        self._dispatcher = dispatcher
        self._clock = clock
        self.settings = settings
        self._reconciler = reconciler
        self._access = access
        self.inventory = inventory
        self._acceptance = Acceptance(
            sessions=sessions,
            images=images,
            users=users,
            forge=forge,
            runtimes=runtimes,
            dispatcher=dispatcher,
            clock=clock,
            settings=settings,
            access=access,
        )
        self._housekeeping = Housekeeping(
            sessions=sessions,
            users=users,
            forge=forge,
            runtimes=runtimes,
            dispatcher=dispatcher,
            clock=clock,
            settings=settings,
            inventory=inventory,
            chores=chores,
        )

    # ------------------------------------------------------------ launch

    def launch(self, caller: Caller, command: LaunchCommand) -> tuple[Session, bool]:
        """Accept a launch; (session, False) when it was there already. Asks GitLab with the person's own token."""
        with metrics.LAUNCH_STAGE_SECONDS.labels(stage="accept").time():
            return self._acceptance.launch(caller, command)

    def again(self, caller: Caller, session: Session, request: LaunchRequest) -> Session:
        """Launch the caller's session anew as `request` asks, whatever its project is called now."""
        return self._acceptance.again(caller, session, request)

    def preview(self, caller: Caller, named: Named) -> Place:
        """Return what a launch of `named` would launch, without launching it."""
        return self._acceptance.preview(caller, named)

    def locate(
        self, caller: Caller, destination: Destination, *, sha: str | None = None, ref: str | None = None
    ) -> Located:
        """Return what an address names, in the first of its readings that is there; raises as `preview`."""
        for named, path in namings(destination, sha=sha, ref=ref):
            try:
                return Located(place=self.preview(caller, named), path=path)
            except RevisionNotFound as error:
                missing = error
        raise missing

    def find(self, caller: Caller, place: Place) -> Session | None:
        """Return the caller's session of a place, or None; whatever the project and the person were called before."""
        return self._acceptance.find(caller, place)

    # ------------------------------------------------------------ see

    def get(self, caller: Caller, name: SessionName) -> Session:
        """Return a session; raises SessionNotFound, also for one this person may not know of."""
        session = self._sessions.get(name)
        if session is None or not may_see(self._access.relation(caller, session)):
            raise SessionNotFound(f"The server {name} does not exist.", remedy="See your sessions for those that do.")
        return session

    def own(self, caller: Caller, name: SessionName) -> Session:
        """Return a session of the caller's own; raises SessionNotFound for everybody else."""
        session = self.get(caller, name)
        if not may_change(Relation(is_owner=session.user_id == caller.user.id)):
            raise SessionNotFound(f"The server {name} does not exist.", remedy="See your sessions for those that do.")
        return session

    def list(self, caller: Caller, wanted: Filter, *, offset: int = 0, limit: int | None = None) -> Sequence[Session]:
        """Return the caller's sessions, newest first."""
        return self._sessions.list(_of(caller, wanted), offset=offset, limit=limit)

    def stamps(self, caller: Caller, wanted: Filter, *, offset: int = 0, limit: int | None = None) -> Sequence[Stamp]:
        """Return, newest first, what tells whether any of the caller's sessions has changed."""
        return self._sessions.stamps(_of(caller, wanted), offset=offset, limit=limit)

    def some(self, caller: Caller, names: Sequence[SessionName]) -> Sequence[tuple[Session, Build | None]]:
        """Return the caller's own living sessions of these names, each with its commit's build; in two queries."""
        found = [
            each
            for each in self._sessions.some(names)
            if each.user_id == caller.user.id and each.phase is not Phase.GONE
        ]
        builds = self._images.builds([each.build_id for each in found if each.build_id])
        return [(each, builds.get(each.build_id or "")) for each in found]

    def events(self, caller: Caller, name: SessionName, *, after: int) -> Sequence[Event]:
        """Return a session's events after one, in order."""
        self.get(caller, name)
        return self._sessions.events(name, after=after)

    def heads(self, caller: Caller) -> Mapping[SessionName, int]:
        """Return the newest event id of each of the caller's sessions, but those that ended long ago."""
        return self._sessions.heads(caller.user.id, gone_since=self._clock.now() - TOLD_WHEN_GONE_FOR)

    def events_of(self, cursors: Mapping[SessionName, int]) -> Sequence[Event]:
        """Return the events of sessions whose right to see was checked, each after its own cursor."""
        return self._sessions.events_of(cursors)

    def usage(self, session: Session) -> Observation | None:
        """Return what its runtime sees of a session now; None when it cannot be asked."""
        row = self._sessions.workload(session.workload) if session.workload else None
        if row is None or not row.state:
            return None
        try:
            return self._runtimes[session.runtime].observe([row.state])[0]
        except TemporaryError:
            return None

    def build_of(self, session: Session) -> Build | None:
        """Return the build of the session's commit, or None when nobody ever asked for it."""
        return self._images.build(session.build_id) if session.build_id else None

    def build_log(self, caller: Caller, session: Session) -> str:
        """Return the copied build log, if GitLab lets this person read the job; empty otherwise."""
        build = self.build_of(session)
        if build is None or build.job is None or not self._access.may_read_job(caller, session, build.job.id):
            return ""
        return self._images.log(build.id)

    def has_built_image(self, session: Session) -> bool:
        """Say whether the commit's own image has arrived while the session runs on a lesser one."""
        build = self.build_of(session)
        is_lesser = session.image is not None and session.image.source in machine.LESSER
        found = None if build is None else build.found
        is_there = found is not None and found.kind in self._runtimes[session.runtime].image_kinds
        return is_lesser and is_there and session.request.image is None

    def can_build(self, session: Session) -> bool:
        """Say whether the commit's own image can be had by building it, while the session runs on a lesser one."""
        if session.phase is not Phase.RUNNING or session.image is None or session.image.source not in machine.LESSER:
            return False
        build = self.build_of(session)
        job = None if build is None else build.job
        is_coming = job is not None and (job.status is JobStatus.SUCCESS or job.status in MOVING)
        return build is not None and not is_coming and session.request.image is None

    def build(self, caller: Caller, name: SessionName) -> None:
        """Have a running session's commit built, once however often it is asked; raises as `BuildOrders` does."""
        session = self.own(caller, name)
        if not self.can_build(session):
            raise Conflict("There is nothing to build for this session.", remedy="Reload the page.")
        # Asked for now: what ended since the launch was the launch's own try.
        subject = replace(self.subject(session), asked_at=self._clock.now())
        self._images.build_now(subject, self._users.credential_of(caller))

    def logs(self, caller: Caller, name: SessionName, *, max_lines: int) -> dict[str, str]:
        """Return each container's last lines, and the build's, by container; empty ones left out."""
        session = self.get(caller, name)
        texts: dict[str, list[str]] = {}
        row = self._sessions.workload(session.workload) if session.workload else None
        if row is not None and row.state:
            for line in self._runtimes[session.runtime].logs(row.state, max_lines=max_lines):
                stamp = f"{line.at.isoformat()} " if line.at else ""
                texts.setdefault(line.container, []).append(stamp + line.text)
        built = self.build_log(caller, session).splitlines()
        if built:
            texts["image-build"] = built
        kept = {container: lines[-max_lines:] if max_lines else [] for container, lines in texts.items()}
        return {container: "\n".join(lines) + "\n" for container, lines in kept.items() if lines}

    # ------------------------------------------------------------ change

    def stop(self, caller: Caller, name: SessionName) -> None:
        """End a session, in whatever phase it is; idempotent."""
        session = self.get(caller, name)
        if not may_stop(self._access.relation(caller, session)) or session.phase is Phase.GONE:
            raise SessionNotFound(f"The server {name} does not exist.")
        self._sessions.wish(name, target=Target.GONE)
        self._wake(name)

    def start_now(self, caller: Caller, name: SessionName) -> Session:
        """Stop waiting for the build: the best rung below waiting is taken."""
        session = self.own(caller, name)
        if session.phase not in {Phase.NEW, Phase.QUEUED, Phase.WAITING}:
            raise Conflict("The session is not waiting any more.", remedy="Reload the page.")
        self._sessions.wish(name, is_start_now=True)
        self._wake(name)
        return self._sessions.get(name) or session

    def use_built_image(self, caller: Caller, name: SessionName) -> Session:
        """Start the session again on the commit's own image, which has arrived; same workspace."""
        session = self.own(caller, name)
        if session.phase is not Phase.RUNNING or not self.has_built_image(session):
            raise Conflict("No newer image of this commit has arrived.", remedy="Wait for its build to succeed.")
        self._sessions.wish(name, wants_built_image=True, is_start_now=False)
        self._wake(name)
        return self._sessions.get(name) or session

    def patch_state(
        self, caller: Caller, name: SessionName, *, state: str | None, resource_class_id: int | None
    ) -> Session:
        """Change a session's state as the compatible contract has it."""
        session = self.own(caller, name)
        if state == "hibernated":
            raise HibernationUnavailable("Sessions cannot be hibernated here.", remedy="Stop the session instead.")
        if resource_class_id is not None:
            chosen = by_id(self.settings.classes, resource_class_id)
            if session.phase is not Phase.FAILED:
                raise InvalidInput(
                    "The resource class can change only while the session is hibernated or failed.",
                    remedy="Stop the session, then launch it with the other class.",
                    detail="resource_class_id",
                )
            resources(chosen, storage_bytes=round(session.request.storage_gigabytes * GIGABYTE))
            session = self._asked(session, replace(session.request, resource_class_id=resource_class_id))
        is_again = state == "running" and session.phase is Phase.FAILED
        return self.again(caller, session, session.request) if is_again else session

    def _asked(self, session: Session, request: LaunchRequest) -> Session:
        """Change what a session is started with the next time."""
        saved = self._sessions.ask(session, request)
        if saved is None:
            raise Conflict("The session is changing at this moment.", remedy="Try again in a few seconds.")
        return saved

    def open(self, caller: Caller, name: SessionName) -> Opened:
        """Make a one-time URL to the running session; its owner's only.

        A browser that is signed in gets the session's own origin, a program (a bearer) an address that any resolver
        knows; a browser that comes to the latter is sent on to the former.
        """
        session = self.own(caller, name)
        row = self._sessions.workload(session.workload) if session.workload else None
        address = self._routes[session.runtime].address(name, row.state) if row is not None and row.state else None
        if session.phase is not Phase.RUNNING or address is None:
            raise Conflict("The session is not running.", remedy="Wait until it is ready, then open it.")
        code, expires_at = self._users.make_code(name, caller.user.id)
        if caller.login_id is not None:
            url = f"{address.people_url}{address.open_path}?{urlencode({'code': code})}"
        else:  # the session sends a browser on to its own name only where it is named: others learn no name
            query = urlencode({"code": code, "host": urlsplit(address.people_url).hostname or ""})
            url = f"{address.programs_url}{address.open_path}?{query}"
        return Opened(url=url, expires_at=expires_at)

    def image_exists(self, caller: Caller, image_url: str) -> bool:
        """Say whether a launch would get this image, or one as good: rung 1, or 2 and 3 for the commit's own."""
        return self._images.would_start(image_url, self._accepts(), self._users.credential_of(caller))

    def resource_classes(self) -> Sequence[ResourceClass]:
        """Return the resource classes there are."""
        return self.settings.classes

    def _accepts(self) -> frozenset[ImageKind]:
        return self._runtimes[self.settings.default_runtime].image_kinds

    # ------------------------------------------------------------ tasks

    def reconcile(self, name: SessionName) -> None:
        """Bring one session closer to its target; see `sessions.reconcile`."""
        self._reconciler.reconcile(name)

    def due(self) -> Sequence[SessionName]:
        """Return the sessions to look at now."""
        return self._sessions.due(self._clock.now(), limit=DUE_LIMIT)

    def housekeeping(self) -> None:
        """End what is over; see `sessions.housekeeping`."""
        self._housekeeping.run()

    def prepare(self) -> None:
        """Have each runtime's default image at hand, where it can; idempotent, and soon over when nothing is to do."""
        if not self.settings.prepares_default_image:
            return
        for runtime in self._runtimes.values():
            prepare = getattr(runtime, "prepare", None)
            image = None if prepare is None else self._images.default(runtime.image_kinds)
            if prepare is not None and image is not None:
                prepare(WorkloadImage(reference=image.reference, digest=image.digest, kind=image.kind))

    def _wake(self, name: SessionName) -> None:
        self._dispatcher.soon(TaskKind.SESSION, name)
        self._dispatcher.announce(name)

    def subject(self, session: Session) -> Subject:
        """Return what the image service must know of a session."""
        return self._reconciler.choice.subject(session)


def _of(caller: Caller, wanted: Filter) -> Filter:
    """Return a filter for a caller's own sessions; a CI job's are those of its project."""
    return replace(wanted, user_id=caller.user.id, project_id=caller.project_id or wanted.project_id)
