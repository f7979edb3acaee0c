"""What a session itself may ask: its agent's reports, its one-time codes, its Git.

For: the agent's and the relay's edges. Promises: a session's credential opens what its own session may do and
nothing else, and ends with it; no answer holds a forge token (the relay adds it on the way out).
Must not know: HTTP, the database, runtimes.
"""

from dataclasses import dataclass

import structlog

from spawner.errors import NotFound, TokenRejected
from spawner.names import ProjectPath, SessionName
from spawner.ports import Credential, Dispatcher, Health, Observation, TaskKind
from spawner.sessions.access import Access
from spawner.sessions.model import ENDED, Session, Target
from spawner.sessions.store import SessionStore
from spawner.users.access import GitAccess, git_access
from spawner.users.service import UserService

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an agent says of its session: `event` is `ready`, `exited` or `step`."""

    event: str
    message: str = ""
    exit_code: int | None = None
    is_out_of_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayGrant:
    """What one relayed Git request may do: the project, the rights, and the token to add (never shown)."""

    session: SessionName
    project: ProjectPath
    access: GitAccess
    credential: Credential | None


class AgentService:
    """Answers sessions."""

    def __init__(self, *, sessions: SessionStore, users: UserService, access: Access, dispatcher: Dispatcher) -> None:
        self._sessions = sessions
        self._users = users
        self._access = access
        self._dispatcher = dispatcher

    def report(self, credential: str, report: Report) -> None:
        """Take an agent's word: ready or exited; anything else only wakes the session."""
        session = self._of_credential(credential)
        health = {"ready": Health.READY, "exited": Health.EXITED}.get(report.event)
        if health is not None and session.workload is not None:
            observation = Observation(
                health=health,
                message=report.message if health is Health.EXITED else "",
                exit_code=report.exit_code,
                is_out_of_memory=report.is_out_of_memory,
            )
            self._sessions.observe(session.workload, observation)
        self._wake(session)

    def redeem(self, credential: str, code: str) -> str | None:
        """Use up a one-time code at its session; returns the user name it lets in, or None."""
        session = self._of_credential(credential)
        user_id = self._users.redeem_code(session.name, code)
        return session.username if user_id == session.user_id else None

    def relay(self, credential: str, name: SessionName) -> RelayGrant:
        """Return what a session's Git may do now; raises TokenRejected for a credential that is not the session's."""
        session = self._of_credential(credential)
        if session.name != name:
            raise TokenRejected("This credential belongs to another session.", remedy="Use the session's own.")
        token = self._users.credential(session.user_id, session=session.name)
        try:
            level = self._access.owner_level(session, token)
        except NotFound:
            _log.info("access_lost", session=session.name)
            self._sessions.wish(session.name, target=Target.GONE)
            self._wake(session)
            raise
        scopes = self._users.scopes(session.user_id, session=session.name)
        access = git_access(level, session.project.visibility, scopes)
        is_anonymous = access in {GitAccess.ANONYMOUS, GitAccess.NONE}
        return RelayGrant(
            session=name,
            project=session.project_path,
            access=access,
            credential=None if is_anonymous else token,
        )

    def _of_credential(self, credential: str) -> Session:
        verified = self._users.verify_session_credential(credential)
        row = self._sessions.workload(verified[0]) if verified is not None else None
        session = self._sessions.get(SessionName(row.owner_name)) if row is not None else None
        if verified is None or session is None or session.generation != verified[1] or session.phase in ENDED:
            raise TokenRejected("This session has ended, or never was.", remedy="Launch it again.")
        return session

    def _wake(self, session: Session) -> None:
        self._dispatcher.soon(TaskKind.SESSION, session.name)
        self._dispatcher.announce(session.name)
