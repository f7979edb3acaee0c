"""From a launch that is asked for to a session's row: found, relaunched or new.

For: `SessionService`, which people's launches come to. Promises: a session is known by its project's id and its
owner's, never by names that change; asking twice is asking once; GitLab is asked with the person's own token, and
what it said about a path counts for a minute; what is accepted is dispatched, not awaited.
Must not know: HTTP, the database, any runtime's or GitLab's shapes.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from spawner.errors import Conflict, EnvironmentOverridden, Forbidden, InvalidInput, NameTooLong, TemporaryError
from spawner.images.reference import parse
from spawner.images.service import ImageService
from spawner.names import ProjectPath, SessionName, SessionSubject, safe_username, session_name, workspace_name
from spawner.ports import AccessLevel, Clock, Dispatcher, Forge, Runtime, TaskKind
from spawner.sessions import machine
from spawner.sessions.access import Access
from spawner.sessions.launching import Finder, Named, Place
from spawner.sessions.model import ENDED, EventKind, LaunchRequest, NewEvent, Phase, Session, Target, workload_subject
from spawner.sessions.options import GIGABYTE, by_id, resources
from spawner.sessions.reconcile import SessionSettings
from spawner.sessions.store import Filter, SessionStore
from spawner.users.model import Caller
from spawner.users.service import UserService

USERNAME_LIMIT = 63  # a label's; Renku refuses longer ones too
TRIES = 10  # against whoever is at a session at the same moment, which saves a few times in a second


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchCommand:
    """A launch, as a person or program asks for it. Absent branch: the project's default; absent SHA: its head."""

    project: ProjectPath
    request: LaunchRequest
    sha: str | None = None
    branch: str | None = None
    forge: str = "default"


class Acceptance:
    """Accepts launches."""

    def __init__(  # noqa: PLR0913 - a service is its ports
        self,
        *,
        sessions: SessionStore,
        images: ImageService,
        users: UserService,
        forge: Forge,
        runtimes: Mapping[str, Runtime],
        dispatcher: Dispatcher,
        clock: Clock,
        settings: SessionSettings,
        access: Access,
    ) -> None:
        self._sessions = sessions
        self._images = images
        self._users = users
        self._runtimes = runtimes
        self._dispatcher = dispatcher
        self._clock = clock
        self._settings = settings
        self._access = access
        pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="gitlab")
        self._finder = Finder(forge=forge, pool=pool)

    def launch(self, caller: Caller, command: LaunchCommand) -> tuple[Session, bool]:
        """Accept a launch; (session, False) when it was there already. Asks GitLab with the person's own token."""
        request = self._checked(command.request)
        project_id, kept = self._existing(caller, command)
        if kept is not None and _is_living(kept):
            _keep_within(caller, kept.project_id)
            return self._accepted(caller, kept, is_new=False)
        try:
            place = self.preview(caller, Named(project=command.project, sha=command.sha, branch=command.branch))
        except TemporaryError:
            existing = self._living_by_words(caller, command)
            if existing is None:
                raise
            _keep_within(caller, existing.project_id)
            return existing, False
        is_looked_at = (project_id, command.branch, command.sha) == (place.project.id, place.branch, place.commit.sha)
        return self._launch_at(caller, place, request, kept if is_looked_at else self.find(caller, place))

    def preview(self, caller: Caller, named: Named) -> Place:
        """Return what a launch of `named` would launch, without launching it."""
        credential = self._users.credential_of(caller)
        place = self._finder.find(named, credential, int(caller.user.subject))
        _keep_within(caller, place.project.id)
        self._access.remember(caller.user.id, place.project.id, place.access_level)
        self._access.remember_path(caller.user.id, named.project, place.project)
        return place

    def find(self, caller: Caller, place: Place) -> Session | None:
        """Return the caller's session of a place, or None; whatever the project and the person were called before."""
        return self._of(caller, place.project.id, place.branch, place.commit.sha)

    def again(self, caller: Caller, session: Session, request: LaunchRequest) -> Session:
        """Launch the caller's session anew, its project by id, as `request` asks and with the rights they have now."""
        request = self._checked(request)
        place = self.preview(caller, Named(project=session.project_id, sha=session.sha, branch=session.branch))
        return self._launch_at(caller, place, request, self.find(caller, place))[0]

    def _launch_at(
        self, caller: Caller, place: Place, request: LaunchRequest, kept: Session | None
    ) -> tuple[Session, bool]:
        runtime = self._runtimes[request.runtime or self._settings.default_runtime]
        warnings = self._admit(runtime, caller, place)
        session = self._new(caller, place, replace(request, runtime=runtime.name), warnings)
        if kept is not None:
            self._users.keep_bearer(caller, kept.name)  # before anybody can look at what it has become
        found, is_new = self._put(caller, session) if kept is None else self._relaunched(kept, session)
        return self._accepted(caller, found, is_new=is_new)

    def _accepted(self, caller: Caller, session: Session, *, is_new: bool) -> tuple[Session, bool]:
        """Keep the caller's newest bearer with their session, also with a living one; have it looked at with that.

        A first generation has it already. The end of an earlier one may have dropped what was kept for the next.
        """
        is_first = is_new and session.generation == 1
        if is_first or self._users.keep_bearer(caller, session.name) or is_new:
            self._wake(session.name)
        return session, is_new

    def _of(self, caller: Caller, project_id: int, branch: str, sha: str) -> Session | None:
        """Return the session of an identity. Where an earlier release made several, the living one, else the newest."""
        wanted = Filter(user_id=caller.user.id, project_id=project_id, branch=branch, sha=sha, has_ended=None)
        found = self._sessions.list(wanted)
        return next((each for each in found if _is_living(each)), found[0] if found else None)

    def _checked(self, request: LaunchRequest) -> LaunchRequest:
        if request.image:
            parse(request.image)
        name = request.runtime or self._settings.default_runtime
        if name not in self._runtimes:
            there = ", ".join(sorted(self._runtimes))
            raise InvalidInput(f"There is no runtime '{name}'.", remedy=f"Choose one of: {there}.", detail="runtime")
        taken = sorted(getattr(self._runtimes[name], "own_variables", frozenset()) & request.environment.keys())
        if taken:
            raise EnvironmentOverridden(
                f"The session sets {', '.join(taken)} itself.",
                remedy="Launch without, or set it where it is used.",
                detail="environment_variables",
            )
        chosen = by_id(self._settings.classes, request.resource_class_id)
        resources(chosen, storage_bytes=round(request.storage_gigabytes * GIGABYTE))
        return request

    def _existing(self, caller: Caller, command: LaunchCommand) -> tuple[int | None, Session | None]:
        """Return the project that GitLab has told a moment ago, and the session there, without asking it again."""
        project_id = self._access.project_of(caller.user.id, command.project)
        if project_id is None or command.sha is None or command.branch is None:
            return None, None
        return project_id, self._of(caller, project_id, command.branch, command.sha)

    def _living_by_words(self, caller: Caller, command: LaunchCommand) -> Session | None:
        """Return the living session launched in exactly these words: the best there is while GitLab cannot be asked."""
        if command.sha is None or command.branch is None:
            return None
        namespace, _, project = command.project.rpartition("/")
        wanted = Filter(
            user_id=caller.user.id, namespace=namespace, project=project, branch=command.branch, sha=command.sha
        )
        return next((each for each in self._sessions.list(wanted) if _is_living(each)), None)

    def _name(self, caller: Caller, path: str, branch: str, sha: str, length: int) -> SessionName:
        if len(safe_username(caller.user.username)) > USERNAME_LIMIT:
            raise NameTooLong(
                "Your user name is too long for the name of a session.",
                remedy=f"Escaped, it may have {USERNAME_LIMIT} characters at most.",
            )
        namespace, _, project = path.lower().rpartition("/")
        subject = SessionSubject(
            username=caller.user.username, namespace=namespace, project=project, branch=branch, sha=sha
        )
        return session_name(subject, hash_length=length)

    def _admit(self, runtime: Runtime, caller: Caller, place: Place) -> tuple[str, ...]:
        """Have the person admitted; returns what they must read first, more of it for a stranger's project."""
        admit = getattr(runtime, "admit", None)
        warnings = () if admit is None else tuple(admit(caller.user.id, caller.user.username))
        if warnings and place.access_level == AccessLevel.NONE:
            path = place.project.path
            warnings += (f"You are no member of {path}: its code will run with everything this account may do.",)
        return warnings

    def _new(self, caller: Caller, place: Place, request: LaunchRequest, warnings: tuple[str, ...]) -> Session:
        now = self._clock.now()
        session = Session(
            name=SessionName(""),
            instance=self._settings.instance,
            forge=caller.user.forge,
            user_id=caller.user.id,
            username=caller.user.username,
            project=place.project,
            branch=place.branch,
            ref_kind=place.ref_kind,
            sha=place.commit.sha,
            request=request,
            runtime=request.runtime or self._settings.default_runtime,
            target=Target.RUNNING,
            phase=Phase.NEW,
            phase_since=now,
            created_at=now,
            image_asked_at=now,
            due_at=now,
            warnings=warnings,
            build_id=self._images.id_of(caller.user.forge, place.project.id, place.commit.sha),
        )
        return replace(session, workspace=workspace_name(workload_subject(session)))

    def _put(self, caller: Caller, session: Session) -> tuple[Session, bool]:
        for length in (8, 16, 32):
            named = replace(session, name=self._name(caller, session.project_path, session.branch, session.sha, length))
            event = NewEvent(kind=EventKind.PHASE, message="Accepted.", data={"to": Phase.NEW.value})
            events = [event, *(NewEvent(kind=EventKind.WARNING, message=text) for text in session.warnings)]
            self._users.keep_bearer(caller, named.name)  # before anybody can look at the row
            kept, is_new = self._sessions.add(named, events)
            if is_new:
                return kept, True
            if _is_same(kept, session):
                return self._relaunched(kept, named)
            if kept.user_id != caller.user.id or not _is_living(kept):  # a living one of theirs may well have it
                self._users.drop_bearer(caller.user.id, named.name)
        raise Conflict("Three sessions meet in one name.", remedy="Stop one of them, then launch again.")

    def _relaunched(self, kept: Session, wanted: Session) -> tuple[Session, bool]:
        """Begin the next generation of a session that has ended or is ending, as it is wanted now; or find it."""
        for _ in range(TRIES):
            if kept.target is Target.RUNNING and kept.phase not in ENDED:
                return kept, False
            asked = replace(
                kept,
                request=wanted.request,
                project=wanted.project,
                username=wanted.username,
                ref_kind=wanted.ref_kind,
                warnings=wanted.warnings,
                target=Target.RUNNING,
                is_start_now=False,
                wants_built_image=False,
            )
            step = machine.relaunch(asked, self._clock.now())
            saved = self._sessions.relaunch(step.session, step.events)
            if saved is not None:
                return saved, True
            kept = self._sessions.get(kept.name) or kept  # it changed meanwhile, maybe into what is wanted
        raise Conflict("The session is changing at this moment.", remedy="Launch it again in a few seconds.")

    def _wake(self, name: SessionName) -> None:
        self._dispatcher.soon(TaskKind.SESSION, name)
        self._dispatcher.announce(name)


def _is_living(session: Session) -> bool:
    is_over = session.phase in {Phase.GONE, Phase.FAILED, Phase.STOPPING}
    return not is_over and session.target is not Target.GONE


def _is_same(one: Session, other: Session) -> bool:
    """Say whether two are one session: paths and user names change, and are given to others."""
    return (one.forge, one.user_id, one.project_id, one.branch, one.sha) == (
        other.forge,
        other.user_id,
        other.project_id,
        other.branch,
        other.sha,
    )


def _keep_within(caller: Caller, project_id: int) -> None:
    """Raise Forbidden where a CI job launches elsewhere than in the project that it runs in."""
    if caller.project_id not in {None, project_id}:
        raise Forbidden("A CI job launches in its own project only.", remedy="Name the project that the job runs in.")
