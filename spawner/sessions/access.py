"""How a person stands to a session, asked of GitLab and remembered for a minute.

For: the session service asks before it shows or changes anything. Promises: GitLab is asked with the person's
own token; what it says is kept per person and project, never across people; a GitLab that cannot be asked
gives nobody a right; which project a path names is forgotten as soon, because projects move.
Must not know: HTTP, phases, the database.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from spawner.errors import NotFound, SignInRequired, TemporaryError
from spawner.names import ProjectPath, UserId
from spawner.ports import AccessLevel, Clock, Credential, Forge, Project, ProjectKey
from spawner.sessions.model import Session
from spawner.users.access import Relation
from spawner.users.model import Caller
from spawner.users.service import UserService

_Thing = TypeVar("_Thing", int, str)

REMEMBERED_SECONDS = 60.0
REMEMBERED_LIMIT = 10_000  # a bound, so that strangers cannot fill the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    level: int
    at: datetime


class Access:
    """Relations of people to sessions, with a short memory."""

    def __init__(self, *, users: UserService, forge: Forge, clock: Clock) -> None:
        self._users = users
        self._forge = forge
        self._clock = clock
        self._levels: dict[tuple[UserId, int], _Standing] = {}
        self._jobs: dict[tuple[UserId, int], _Standing] = {}
        self._paths: dict[tuple[UserId, str], _Standing] = {}

    def relation(self, caller: Caller, session: Session) -> Relation:
        """Return how the caller stands to the session; a stranger where GitLab does not tell, or in a foreign job."""
        if caller.project_id not in {None, session.project_id}:
            return Relation(is_owner=False)
        if session.user_id == caller.user.id:
            return Relation(is_owner=True)
        if caller.user.is_admin:
            return Relation(is_owner=False, is_admin=True)
        if caller.user.forge != session.forge:
            return Relation(is_owner=False)
        try:
            level = self._level_of(caller, session.project_id)
        except (NotFound, TemporaryError, SignInRequired):
            level = AccessLevel.NONE
        return Relation(is_owner=False, access_level=level)

    def owner_level(self, session: Session, credential: Credential) -> int:
        """Return the owner's level in the session's project; raises NotFound when they lost sight of it."""
        known = self._known(self._levels, session.user_id, session.project_id)
        if known is not None:
            return known
        owner = self._users.person(session.user_id)
        self._forge.project(credential, session.project_id)
        level = self._forge.access_level(credential, session.project_id, int(owner.subject))
        return self.remember(session.user_id, session.project_id, level)

    def may_read_job(self, caller: Caller, session: Session, job_id: int) -> bool:
        """Say whether GitLab lets this person read a job: it may hide CI from people who may read code."""
        known = self._known(self._jobs, caller.user.id, job_id)
        if known is not None:
            return bool(known)
        try:
            job = self._forge.job(self._users.credential_of(caller), session.project_id, job_id)
        except (NotFound, TemporaryError, SignInRequired):
            return False
        self._keep(self._jobs, caller.user.id, job_id, int(job is not None))
        return job is not None

    def remember(self, person: UserId, project_id: int, level: int) -> int:
        """Keep a level that GitLab has just told; returns it."""
        return self._keep(self._levels, person, project_id, level)

    def remember_path(self, person: UserId, named: ProjectKey, project: Project) -> None:
        """Keep which project a path names for this person, as GitLab has just told."""
        for path in {str(named), project.path}:
            self._keep(self._paths, person, path.lower(), project.id)

    def project_of(self, person: UserId, path: ProjectPath) -> int | None:
        """Return the id of the project that a path named for this person a moment ago, or None."""
        return self._known(self._paths, person, path.lower())

    def _level_of(self, caller: Caller, project_id: int) -> int:
        known = self._known(self._levels, caller.user.id, project_id)
        if known is not None:
            return known
        credential = self._users.credential_of(caller)
        level = self._forge.access_level(credential, project_id, int(caller.user.subject))
        return self.remember(caller.user.id, project_id, level)

    def _known(self, memory: dict[tuple[UserId, _Thing], _Standing], person: UserId, thing: _Thing) -> int | None:
        known = memory.get((person, thing))
        if known is None or (self._clock.now() - known.at).total_seconds() >= REMEMBERED_SECONDS:
            return None
        return known.level

    def _keep(self, memory: dict[tuple[UserId, _Thing], _Standing], person: UserId, thing: _Thing, level: int) -> int:
        if len(memory) >= REMEMBERED_LIMIT:
            memory.clear()
        memory[(person, thing)] = _Standing(level=level, at=self._clock.now())
        return level
