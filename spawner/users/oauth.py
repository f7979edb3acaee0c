"""What the user service needs of a forge's OAuth 2 server, and of the tokens that it signs for CI jobs.

For: `spawner.users.service` asks through `OAuthClient` and `JobTokens`; `spawner.gitlab` answers.
Promises: PKCE (S256) on every sign-in; a refused grant is TokenRejected, a server that cannot be asked is
ForgeUnavailable, and the two are never taken for each other.
Must not know: HTTP, any OAuth library, the database.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthTokens:
    """What the forge gives for a code or a refresh token. A refresh token is good once."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in_seconds: int | None = None
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """What the forge says of an OAuth access token: whom and which application it was issued to."""

    application_id: str
    subject: str
    scopes: frozenset[str]
    expires_in_seconds: int | None = None


class OAuthClient(Protocol):
    """Our application at one forge."""

    @property
    def client_id(self) -> str:
        """Our application's id at the forge."""
        ...

    def authorization_url(
        self, *, redirect_uri: str, state: str, verifier: str, more: frozenset[str] = frozenset()
    ) -> str:
        """Return where to send a person to sign in, `more` scopes besides the usual; pure, asks nobody."""
        ...

    def exchange(self, *, code: str, redirect_uri: str, verifier: str) -> OAuthTokens:
        """Trade a code for tokens; raises TokenRejected when the code is unknown, used or not ours."""
        ...

    def refresh(self, *, refresh_token: str) -> OAuthTokens:
        """Trade a refresh token for new tokens, which ends the old ones; raises TokenRejected when refused."""
        ...

    def inspect(self, token: str) -> TokenInfo | None:
        """Return what an OAuth access token is, or None when it is none (personal, expired, unknown)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClaims:
    """What a CI job's ID token proves: who started the job, and the project that it runs in."""

    subject: str
    project_id: int
    job_id: str


class JobTokens(Protocol):
    """The ID tokens that a forge signs for its CI jobs and that were made for us."""

    @property
    def issuer(self) -> str:
        """The `iss` of such a token."""
        ...

    def read(self, token: str, now: datetime) -> JobClaims:
        """Return what a token proves; raises TokenRejected, or a TemporaryError when its keys cannot be had."""
        ...
