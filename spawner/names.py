"""Names: identifiers as types, and the name of every object we create outside.

For: any string of a person's becomes a valid, collision-free name here and nowhere else.
Promises: the compatible session name equals Renku's byte for byte (`session_name`); a workload name is a
DNS label of at most 52 characters, injective over its whole tuple; a workspace name hashes the same tuple
without the generation.
Must not know: any runtime, the database, GitLab.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import NewType

SessionName = NewType("SessionName", str)
WorkloadName = NewType("WorkloadName", str)
ProjectPath = NewType("ProjectPath", str)
CommitSha = NewType("CommitSha", str)
UserId = NewType("UserId", str)

SHORT_SHA_LENGTH = 7
PULL_TOKEN_NAME = "slipway-pull"  # noqa: S105 - the name of the deploy tokens that we make
_FULL_SHA = re.compile(r"[0-9a-f]{40}")
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def is_full_sha(text: str) -> bool:
    """Say whether `text` is a full SHA-1 commit id in lower case."""
    return _FULL_SHA.fullmatch(text) is not None


def escape(text: str) -> str:
    """Replace every byte outside letters and digits by `-` and two hex digits, as Renku's service does.

    Source: `escapism.escape(text, escape_char="-")`, which Renku's notebooks service calls.
    """
    return "".join(c if c in _SAFE else "".join(f"-{byte:02x}" for byte in c.encode()) for c in text)


def safe_username(username: str) -> str:
    """Return the escaped, lower-cased form of a user name: unique, and valid in a label when short."""
    return escape(username).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSubject:
    """What makes a session unique: one person's one commit on one branch of one project."""

    username: str
    namespace: str
    project: str
    branch: str
    sha: str


def session_name(subject: SessionSubject, *, hash_length: int = 8) -> SessionName:
    """Return the compatible name of a session, at most 42 characters with the default hash.

    A longer `hash_length` (up to 32) is for the second of two subjects that meet in the short name.
    Source: renku-notebooks 1.31, `make_server_name`.
    """
    username = safe_username(subject.username)
    identity = f"{username}-{subject.namespace}-{subject.project}-{subject.branch}-{subject.sha}"
    digest = hashlib.md5(identity.encode(), usedforsecurity=False).hexdigest()
    prefix = username if re.match(r"[a-zA-Z]", username) else f"n{username}"
    return SessionName(f"{prefix[:12]}-{escape(subject.project)[:20].lower()}-{digest[:hash_length]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSubject:
    """Everything a workload's name must tell apart."""

    instance: str
    forge: str
    user_id: str
    project_id: int
    project: str
    branch: str
    sha: str


def workload_name(subject: WorkloadSubject, *, generation: int) -> WorkloadName:
    """Return `<project slug>-<sha[:7]>-<16 hex>`: readable, injective, a DNS label."""
    return WorkloadName(_name(subject, str(generation)))


def workspace_name(subject: WorkloadSubject) -> str:
    """Return the name of the folder or claim that outlives generations."""
    return _name(subject)


def _name(subject: WorkloadSubject, *more: str) -> str:
    parts = (
        subject.instance,
        subject.forge,
        subject.user_id,
        str(subject.project_id),
        subject.branch,
        subject.sha,
        *more,
    )
    # Lengths in front of the parts keep the tuple injective whatever the parts contain.
    identity = "".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return f"{slug(subject.project, limit=24)}-{subject.sha[:SHORT_SHA_LENGTH]}-{digest}"


def slug(text: str, *, limit: int) -> str:
    """Return a readable DNS label made of `text`; not injective, so never a name by itself."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].rstrip("-")
    return label if label and label[0].isalpha() else f"p{label}"[:limit].rstrip("-")
