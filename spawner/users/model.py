"""The values of the user service.

Promises: a user's id is made of issuer and subject and never changes; a grant's tokens are never printed.
Must not know: HTTP, the database, GitLab's REST shapes.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from spawner.names import UserId
from spawner.ports import Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person, keyed by issuer (a forge's name) and subject (their numeric id there, as text)."""

    id: UserId
    forge: str
    subject: str
    username: str
    name: str
    email: str
    is_admin: bool = False


def user_id(forge_url: str, subject: str) -> UserId:
    """Return the id of the person that `subject` names at the forge of that URL."""
    return UserId(hashlib.sha256(f"{len(forge_url)}:{forge_url}{subject}".encode()).hexdigest()[:20])


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A person's stored OAuth grant, or a personal token kept with one session (`session` is its name)."""

    user_id: UserId
    forge: str
    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    scopes: frozenset[str] = frozenset()
    session: str | None = None
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnToken:
    """A token of ours: a JWT signed by the spawner, listed and revoked by its owner. Never stored itself."""

    id: str  # `jti`
    user_id: UserId
    name: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A browser's sign-in, kept on the server so that logging out ends it everywhere."""

    id: str
    user_id: UserId
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a request, and what they hold: a GitLab bearer of their own, or (None) their stored grant.

    `project_id` is set for a CI job, whose code is not its person's: it launches in its project and looks, no more.
    """

    user: User
    bearer: Credential | None = field(default=None, repr=False)
    login_id: str | None = field(default=None, repr=False)
    project_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """A sign-in under way, kept in the browser's signed cookie until the forge sends the person back."""

    state: str
    verifier: str = field(repr=False)
    redirect_uri: str
    return_to: str
    person: UserId | None = None  # who must come back: somebody who is signed in, and asks for one scope more
