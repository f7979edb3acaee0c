"""The sessions interested in a build, as the image service's poller sees them.

Promises: a poller that needs one working credential reads no more than a few sessions, however many wait.
Must not know: what a build is, or why it is looked at.
"""

from collections.abc import Iterator, Mapping

import structlog

from spawner.errors import SignInRequired, TemporaryError
from spawner.images.service import Waiter
from spawner.ports import Dispatcher, Runtime, TaskKind
from spawner.sessions.model import Phase
from spawner.sessions.store import SessionStore
from spawner.users.service import UserService

_log = structlog.get_logger()

FIRST_FEW = 3  # enough unless several people's tokens have ended at once


class SessionWaiters:
    """Waiters over the session store and people's grants."""

    def __init__(
        self,
        *,
        sessions: SessionStore,
        users: UserService,
        runtimes: Mapping[str, Runtime],
        dispatcher: Dispatcher,
    ) -> None:
        self._sessions = sessions
        self._users = users
        self._runtimes = runtimes
        self._dispatcher = dispatcher

    def of(self, build: str) -> Iterator[Waiter]:
        """Yield the waiters whose credential can be had: those who wait, oldest first, then those who listen."""
        passed = 0
        for limit in (FIRST_FEW, None):
            for session in self._sessions.interested_in(build, limit=limit)[passed:]:
                passed += 1
                try:
                    credential = self._users.credential(session.user_id, session=session.name)
                except (SignInRequired, TemporaryError) as error:
                    _log.info("waiter_without_credential", session=session.name, error=error.message)
                    continue
                yield Waiter(
                    session=session.name,
                    credential=credential,
                    project=session.project,
                    accepts=self._runtimes[session.runtime].image_kinds,
                    is_waiting=session.phase is Phase.WAITING,
                )
            if passed < FIRST_FEW:
                return

    def wake(self, build: str) -> None:
        """Have every interested session look again, and its viewers with it."""
        names = [session.name for session in self._sessions.interested_in(build)]
        self._sessions.want(names)
        for name in names:
            self._dispatcher.soon(TaskKind.SESSION, name)
            self._dispatcher.announce(name)

    def tell(self, build: str) -> None:
        """Have the viewers of every interested session look again: the log grew, no session has work."""
        for session in self._sessions.interested_in(build):
            self._dispatcher.announce(session.name)
