"""What the user service needs of a database."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from spawner.names import SessionName, UserId
from spawner.users.model import Grant, Login, OwnToken, User


class UserStore(Protocol):
    """People, their grants (encrypted at rest), logins, own tokens and one-time codes."""

    def put(self, user: User) -> User:
        """Insert or update a person."""
        ...

    def get(self, id: UserId) -> User | None:  # noqa: A002 - the row's own name for it
        """Return a person, or None."""
        ...

    def by_username(self, forge: str, username: str) -> User | None:
        """Return the person of that name at a forge, or None."""
        ...

    def put_grant(self, grant: Grant) -> None:
        """Insert or replace the grant of (user, session)."""
        ...

    def grant(self, user_id: UserId, *, session: SessionName | None = None) -> Grant | None:
        """Return the person's grant, or the one kept with a session."""
        ...

    def remove_grant(self, user_id: UserId, *, session: SessionName | None = None) -> None:
        """Delete a grant; a no-op when gone. That of a session is kept while the session lives."""
        ...

    def with_grant_lock(self, user_id: UserId, refresh: Callable[[Grant], Grant | None]) -> Grant | None:
        """Run `refresh` on the newest grant while no other process can, and persist what it returns.

        `refresh` returning None deletes the grant (GitLab refused it: sign in again).
        """
        ...

    def put_login(self, login: Login) -> None:
        """Insert a login."""
        ...

    def login(self, id: str, now: datetime) -> Login | None:  # noqa: A002
        """Return a login that has not expired, or None."""
        ...

    def remove_login(self, id: str) -> None:  # noqa: A002
        """End a login; a no-op when gone."""
        ...

    def put_token(self, token: OwnToken) -> None:
        """Insert one of our tokens' records."""
        ...

    def token(self, id: str) -> OwnToken | None:  # noqa: A002
        """Return a token's record, or None."""
        ...

    def tokens(self, user_id: UserId) -> Sequence[OwnToken]:
        """Return a person's tokens, newest first."""
        ...

    def revoke_token(self, user_id: UserId, id: str, now: datetime) -> bool:  # noqa: A002
        """Revoke a token of this person's; False when they have none of that id."""
        ...

    def put_code(self, code_hash: str, session: SessionName, user_id: UserId, expires_at: datetime) -> None:
        """Keep the hash of a one-time code."""
        ...

    def redeem_code(self, code_hash: str, session: SessionName, now: datetime) -> UserId | None:
        """Use up a one-time code of that session; None when unknown, used or expired."""
        ...
