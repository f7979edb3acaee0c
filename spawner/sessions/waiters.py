"""The sessions interested in a build, as the image service's poller sees them.

Must not know: what a build is, or why it is looked at.
"""

from collections.abc import Iterator

import structlog

from spawner.errors import SignInRequired, TemporaryError
from spawner.names import SessionName
from spawner.ports import Credential, Dispatcher, TaskKind
from spawner.sessions.model import Phase
from spawner.sessions.store import SessionStore
from spawner.users.service import UserService

_log = structlog.get_logger()


class SessionWaiters:
    """Waiters over the session store and people's grants."""

    def __init__(self, *, sessions: SessionStore, users: UserService, dispatcher: Dispatcher) -> None:
        self._sessions = sessions
        self._users = users
        self._dispatcher = dispatcher

    def credentials(self, build: str) -> Iterator[tuple[SessionName, Credential]]:
        """Yield the waiters' credentials, oldest first; one whose sign-in has ended is passed over."""
        for name in self._sessions.waiting_on(build):
            session = self._sessions.get(name)
            if session is None:
                continue
            try:
                yield name, self._users.credential(session.user_id, session=name)
            except (SignInRequired, TemporaryError) as error:
                _log.info("waiter_without_credential", session=name, error=error.message)

    def has_waiting(self, build: str) -> bool:
        """Say whether any session is held up by the build."""
        for name in self._sessions.waiting_on(build):
            session = self._sessions.get(name)
            if session is not None and session.phase is Phase.WAITING:
                return True
        return False

    def wake(self, build: str) -> None:
        """Have every interested session look again, and its viewers with it."""
        names = self._sessions.waiting_on(build)
        self._sessions.want(names)
        for name in names:
            self._dispatcher.soon(TaskKind.SESSION, name)
            self._dispatcher.announce(name)
