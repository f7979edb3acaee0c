"""The names under which a commit's images are kept and looked for.

Pure; the contract that builder and spawner share. The container names are Renku's contract (full SHA and its first
seven characters; GitLab's own short SHA has eight), the labels are OCI's and ours. It must not know a registry.
"""

from __future__ import annotations

import re
from enum import StrEnum

from builder.entries import Kind
from builder.errors import UsageError, capped

ENVIRONMENT_TAG_HEX = 32
SHORT_SHA_CHARACTERS = 7
GITLAB_SHORT_SHA_CHARACTERS = 8
ENVIRONMENT_SUFFIX = "-environment"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # OCI distribution 1.1
_OURS = re.compile(rf"env-.*|[0-9a-f]{{7,64}}({ENVIRONMENT_SUFFIX})?")
LOWEST_PORT_SEPARATOR = re.compile(r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})$")


class Label(StrEnum):
    """The labels on every image that the builder makes."""

    REVISION = "org.opencontainers.image.revision"
    SOURCE = "org.opencontainers.image.source"
    CREATED = "org.opencontainers.image.created"
    ENVIRONMENT_KEY = "io.slipway.environment-key"
    KIND = "io.slipway.kind"
    RECIPE = "io.slipway.recipe"
    BASE_DIGEST = "io.slipway.base-digest"
    UID = "io.slipway.uid"


def repository(project_path: str) -> str:
    """Return the registry repository of a project: its path with namespace, lower-cased."""
    return project_path.strip("/").lower()


def commit_tag(sha: str, kind: Kind) -> str:
    """Return the full tag of a commit's image: the SHA, or `<sha>-environment`."""
    match kind:
        case Kind.CONTAINER:
            return sha
        case Kind.ENVIRONMENT:
            return f"{sha}{ENVIRONMENT_SUFFIX}"


def published_tags(sha: str, kind: Kind) -> tuple[str, ...]:
    """Return the commit's tags that a build pushes, the full one first."""
    match kind:
        case Kind.CONTAINER:
            return (sha, sha[:SHORT_SHA_CHARACTERS])
        case Kind.ENVIRONMENT:
            return (commit_tag(sha, kind),)


def extra_tags(text: str) -> tuple[str, ...]:
    """Return the tags of a text that lists them with blanks between, each once.

    UsageError for what is no tag, and for one that looks like an environment's or a commit's, which others rely on.
    """
    tags = tuple(dict.fromkeys(text.split()))
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise UsageError(f"“{capped(tag)}” can be no tag: letters, digits, “_”, “.” and “-”, 128 at most.")
        if _OURS.fullmatch(tag):
            raise UsageError(f"“{tag}” is a name for an environment or a commit; choose another extra tag.")
    return tags


def candidate_tags(sha: str, kind: Kind) -> tuple[str, ...]:
    """Return the tags under which a commit's image is looked for, best first.

    A short one counts only where the image's revision label, if it has one, names this commit.
    """
    match kind:
        case Kind.CONTAINER:
            return (sha, sha[:GITLAB_SHORT_SHA_CHARACTERS], sha[:SHORT_SHA_CHARACTERS])
        case Kind.ENVIRONMENT:
            return (commit_tag(sha, kind),)


def environment_tag(key: str) -> str:
    """Return the tag of an environment key (64 hex): `env-` and its first 32 characters."""
    return f"env-{key[:ENVIRONMENT_TAG_HEX]}"


def is_short_tag(tag: str) -> bool:
    """Tell whether a tag is a shortened SHA, so that the revision label must be compared."""
    return bool(re.fullmatch(r"[0-9a-f]{7,39}", tag))


def names_commit(image: str, registry: str, project_path: str, sha: str) -> bool:
    """Tell whether a requested image is only another way to say "the commit's own", and so no request at all."""
    found = LOWEST_PORT_SEPARATOR.search(image)
    if found is None or image[: found.start()].lower() != f"{registry}/{repository(project_path)}":
        return False
    lengths = {len(sha), GITLAB_SHORT_SHA_CHARACTERS, SHORT_SHA_CHARACTERS}
    tag = found.group("tag")
    return tag == commit_tag(sha, Kind.ENVIRONMENT) or (len(tag) in lengths and sha.startswith(tag))
