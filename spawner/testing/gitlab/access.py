"""Who is calling, and what they may see and do.

Promises: a token is looked up by digest; expired and revoked ones are told apart as GitLab's answers tell them
apart. What a person may not see does not exist for them. Levels come from project, groups above it and invited
groups, expired memberships left out.
Must not know: routes, bodies.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from spawner.testing.gitlab.instance import digest, now
from spawner.testing.gitlab.records import (
    DeployToken,
    Grant,
    Group,
    GroupLink,
    Job,
    Level,
    Member,
    Project,
    Status,
    Token,
    User,
    Visibility,
)

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance


class Kind(enum.Enum):
    """How the caller proved who they are."""

    ANONYMOUS = "anonymous"
    PERSONAL = "personal_access_token"
    OAUTH = "oauth"
    JOB = "build"
    DEPLOY = "deploy_token"
    PASSWORD = "password"  # noqa: S105 - a kind of proof, not a password


class Refusal(enum.Enum):
    """Why a token was not taken."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """The caller of one request."""

    kind: Kind
    user: User | None = None
    scopes: frozenset[str] = frozenset()
    job: Job | None = None
    grant: Grant | None = None
    token: Token | None = None
    deploy: DeployToken | None = None

    def may(self, *scopes: str) -> bool:
        """Tell whether the token has one of the scopes."""
        return bool(self.scopes & set(scopes))


ANONYMOUS = Actor(kind=Kind.ANONYMOUS)
_JOB_SCOPES = frozenset({"job", "read_repository", "read_registry", "write_registry"})


def actor_for_token(instance: Instance, secret: str) -> Actor | Refusal:
    """Find whose token this is: a personal one, an OAuth one or a running job's."""
    found = _personal(instance, secret) or _oauth(instance, secret) or _job(instance, secret)
    return found or Refusal.UNKNOWN


def actor_for_basic(instance: Instance, username: str, password: str) -> Actor | Refusal:
    """Find who signs in with a name and a password or token, as Git and the registry do.

    `oauth2` and `gitlab-ci-token` stand for any OAuth and job token; a person's name takes their tokens and password.
    """
    actor = _signed(instance, password) or actor_for_token(instance, password)
    if isinstance(actor, Actor):
        if username == "gitlab-ci-token":
            return actor if actor.kind is Kind.JOB else Refusal.UNKNOWN
        return actor if actor.kind is not Kind.JOB else Refusal.UNKNOWN
    user = user_by_name(instance, username)
    if user and user.password_digest and password_matches(user, password):
        scopes = frozenset({"api", "read_repository", "write_repository", "read_registry", "write_registry"})
        return Actor(kind=Kind.PASSWORD, user=user, scopes=scopes)
    return actor


def actor_for_deploy_token(instance: Instance, username: str, password: str) -> Actor | None:
    """Find a project's own token by its name and secret: good for the registry, and for no call of the API."""
    mark, moment = digest(password), now()
    row = instance.store.first(
        DeployToken,
        lambda row: row.username == username and hmac.compare_digest(row.digest, mark) and not row.revoked,
    )
    if row is None or (row.expires_at is not None and row.expires_at <= moment):
        return None
    return Actor(kind=Kind.DEPLOY, scopes=frozenset(row.scopes), deploy=row)


def signed_token(instance: Instance, user: User, *, writing: bool, life_seconds: int) -> str:
    """Return a secret that opens what a person may read (or write) by Git and LFS, and is kept nowhere."""
    claim = f"{user.id}.{'write' if writing else 'read'}.{int(now().timestamp()) + life_seconds}"
    return f"lfs.{claim}.{_mark(instance, claim)}"


def parse_basic(header: str) -> tuple[str, str] | None:
    """Take a Basic header apart, or return None."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return name, password


def user_by_name(instance: Instance, username: str) -> User | None:
    """Find a person by user name, letter case aside."""
    return instance.store.first(User, lambda user: user.username.lower() == username.lower())


def password_matches(user: User, password: str) -> bool:
    """Compare a password in constant time."""
    return bool(user.password_digest) and hmac.compare_digest(user.password_digest or "", digest(password))


def find_project(instance: Instance, key: str) -> Project | None:
    """Find a project by id or full path, letter case aside, or None."""
    if key.isdigit():
        return instance.store.get(Project, int(key))
    return instance.store.first(Project, lambda project: project.path.lower() == key.lower())


def find_group(instance: Instance, key: str) -> Group | None:
    """Find a group by id or full path, or None."""
    if key.isdigit():
        return instance.store.get(Group, int(key))
    return instance.store.first(Group, lambda group: group.path.lower() == key.lower())


def groups_above(instance: Instance, path: str) -> list[Group]:
    """Return the groups that hold a project or group, innermost first."""
    parts = path.split("/")[:-1]
    prefixes = {"/".join(parts[: count + 1]) for count in range(len(parts))}
    found = instance.store.all(Group, lambda group: group.path in prefixes)
    return sorted(found, key=lambda group: -len(group.path))


def members_of(instance: Instance, target: Project | Group) -> list[Member]:
    """Return the direct and inherited memberships that count for a project or group; expired ones do not."""
    today = now().date()
    sources = {("project" if isinstance(target, Project) else "group", target.id)}
    sources |= {("group", group.id) for group in groups_above(instance, target.path)}
    found = instance.store.all(
        Member,
        lambda row: (row.source, row.source_id) in sources and (row.expires_at is None or row.expires_at > today),
    )
    if isinstance(target, Project):
        found += _invited(instance, target)
    return found


def membership(instance: Instance, target: Project | Group, user: User) -> Member | None:
    """Return a person's membership with the highest level, or None."""
    rows = [row for row in members_of(instance, target) if row.user_id == user.id]
    return max(rows, key=lambda row: row.level, default=None)


def level(instance: Instance, target: Project | Group, user: User | None) -> Level:
    """Return a person's level; an administrator counts as owner."""
    if user is None:
        return Level.NONE
    if user.is_admin:
        return Level.OWNER
    found = membership(instance, target, user)
    return found.level if found else Level.NONE


def can_see(instance: Instance, target: Project | Group, user: User | None) -> bool:
    """Tell whether a project or group exists for a person."""
    match target.visibility:
        case Visibility.PUBLIC:
            return True
        case Visibility.INTERNAL if user is not None:
            return True
    return level(instance, target, user) > Level.NONE


def can_read_code(instance: Instance, project: Project, user: User | None) -> bool:
    """Tell whether a person may fetch; a guest of a private project may not."""
    if project.visibility is not Visibility.PRIVATE and can_see(instance, project, user):
        return True
    return level(instance, project, user) >= Level.REPORTER


def _mark(instance: Instance, claim: str) -> str:
    return hmac.new(instance.secret, f"lfs:{claim}".encode(), hashlib.sha256).hexdigest()


def _signed(instance: Instance, secret: str) -> Actor | Refusal | None:
    parts = secret.split(".")
    if len(parts) != 5 or parts[0] != "lfs":  # noqa: PLR2004 - as `signed_token` writes it
        return None
    if not hmac.compare_digest(_mark(instance, ".".join(parts[1:4])), parts[4]):
        return Refusal.UNKNOWN
    if int(parts[3]) < now().timestamp():
        return Refusal.EXPIRED
    user = instance.store.get(User, int(parts[1]))
    if user is None or user.state != "active":
        return Refusal.UNKNOWN
    scopes = {"read_repository"} | ({"write_repository"} if parts[2] == "write" else set())
    return Actor(kind=Kind.PASSWORD, user=user, scopes=frozenset(scopes))


def _personal(instance: Instance, secret: str) -> Actor | Refusal | None:
    wanted = digest(secret)
    row = instance.store.first(Token, lambda token: token.digest == wanted)
    if row is None:
        return None
    if row.revoked:
        return Refusal.REVOKED
    if row.expires_at and row.expires_at <= now().date():
        return Refusal.EXPIRED
    user = instance.store.get(User, row.user_id)
    if user is None or user.state != "active":
        return Refusal.UNKNOWN
    return Actor(kind=Kind.PERSONAL, user=user, scopes=frozenset(row.scopes), token=row)


def _oauth(instance: Instance, secret: str) -> Actor | Refusal | None:
    wanted = digest(secret)
    row = instance.store.first(Grant, lambda grant: grant.access_digest == wanted)
    if row is None:
        return None
    if row.revoked:
        return Refusal.REVOKED
    if row.created_at + timedelta(seconds=row.expires_in_seconds) <= now():
        return Refusal.EXPIRED
    user = instance.store.get(User, row.user_id)
    if user is None or user.state != "active":
        return Refusal.UNKNOWN
    return Actor(kind=Kind.OAUTH, user=user, scopes=frozenset(row.scopes), grant=row)


def _job(instance: Instance, secret: str) -> Actor | Refusal | None:
    row = instance.store.first(Job, lambda job: job.token is not None and hmac.compare_digest(job.token, secret))
    if row is None:
        return None
    if row.status not in {Status.RUNNING, Status.CANCELING}:
        return Refusal.EXPIRED
    user = instance.store.get(User, row.user_id)
    return Actor(kind=Kind.JOB, user=user, scopes=_JOB_SCOPES, job=row)


def _invited(instance: Instance, project: Project) -> list[Member]:
    today = now().date()
    found: list[Member] = []
    for link in instance.store.all(GroupLink, lambda link: link.project_id == project.id):
        group = instance.store.get(Group, link.group_id)
        if group is None or (link.expires_at and link.expires_at <= today):
            continue
        found += [_capped(row, link.level) for row in members_of(instance, group)]
    return found


def _capped(row: Member, cap: Level) -> Member:
    return Member(
        id=row.id,
        source=row.source,
        source_id=row.source_id,
        user_id=row.user_id,
        level=min(row.level, cap),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
