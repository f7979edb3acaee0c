"""Who may do what: pure rules over an access level, a visibility and whose session it is.

For: services and edges ask here before they act; a "no" to `may_see` is answered like a session that does not exist.
Promises: no rule gives more than GitLab would give the same person; an administrator sees and stops, and never
works in another person's session.
Must not know: how a level was found out, HTTP, the database.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from spawner.ports import AccessLevel, Visibility

_WRITE_SCOPES = frozenset({"api", "write_repository"})
_READ_SCOPES = _WRITE_SCOPES | {"read_repository"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """How a person stands to a session: its owner or not, their level in its project, an administrator or not."""

    is_owner: bool
    access_level: int = AccessLevel.NONE
    is_admin: bool = False


class GitAccess(StrEnum):
    """What a session's Git may do at the relay, and with whose rights."""

    NONE = "none"
    ANONYMOUS = "anonymous"  # fetch, without any token
    READ = "read"  # fetch, with the owner's token
    WRITE = "write"  # fetch and push, with the owner's token


def may_see(relation: Relation) -> bool:
    """Say whether the person may know of the session: its owner, a maintainer of its project, an administrator."""
    return relation.is_owner or relation.is_admin or relation.access_level >= AccessLevel.MAINTAINER


def may_stop(relation: Relation) -> bool:
    """Say whether the person may stop the session: whoever may see it."""
    return may_see(relation)


def may_change(relation: Relation) -> bool:
    """Say whether the person may open, resume or change the session: its owner alone, whatever others' rights are."""
    return relation.is_owner


def may_build(access_level: int) -> bool:
    """Say whether the person may run a build job: Developer or more. Protected refs are GitLab's to refuse."""
    return access_level >= AccessLevel.DEVELOPER


def may_push(access_level: int, scopes: AbstractSet[str]) -> bool:
    """Say whether a session of theirs may push: Developer or more, with a token that may write."""
    return access_level >= AccessLevel.DEVELOPER and bool(_WRITE_SCOPES & scopes)


def may_launch_unasked(access_level: int, *, names_image: bool) -> bool:
    """Say whether a link starts by itself: a member (Reporter or more), and no image of the link's own choosing."""
    return access_level >= AccessLevel.REPORTER and not names_image


def git_access(access_level: int, visibility: Visibility, scopes: AbstractSet[str]) -> GitAccess:
    """Return what the relay does for a session's owner.

    A non-member fetches anonymously from a public project and with their own token from an internal one;
    of a private project they get nothing. `scopes` are those of the owner's credential.
    """
    may_read = bool(_READ_SCOPES & scopes)
    if access_level > AccessLevel.NONE:
        if may_push(access_level, scopes):
            return GitAccess.WRITE
        if may_read:
            return GitAccess.READ
    match visibility:
        case Visibility.PUBLIC:
            return GitAccess.ANONYMOUS
        case Visibility.INTERNAL if may_read:
            return GitAccess.READ
    return GitAccess.NONE
