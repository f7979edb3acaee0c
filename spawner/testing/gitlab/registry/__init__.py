"""The stand-in's container registry: the routes, and plain questions about what it holds.

Promises: the functions below see what the routes store, at once, from any thread or process.
Must not know: projects, users, how tokens are issued.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from spawner.testing.gitlab.registry.api import Intercept, registry_blueprint
from spawner.testing.gitlab.registry.manifests import INDEX_TYPES, MEDIA_TYPES, needed_manifests
from spawner.testing.gitlab.registry.storage import Storage, config_created_at

__all__ = [
    "MEDIA_TYPES",
    "Intercept",
    "TagInfo",
    "delete_tag",
    "registry_blueprint",
    "repositories",
    "tag_info",
    "tags",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TagInfo:
    """A tag, as GitLab's `registry/repositories/:id/tags/:name` shows it.

    `size_bytes` is the sum of the layers; for an index, over all its images. `created_at` is what the image's
    configuration says, else when the tag was written.
    """

    name: str
    digest: str
    media_type: str
    size_bytes: int
    created_at: datetime


def repositories(data: Path) -> tuple[str, ...]:
    """Return the names of all repositories that hold or held an image, sorted."""
    return Storage(data=data).repositories()


def tags(data: Path, repository: str) -> tuple[str, ...]:
    """Return the tags of a repository, sorted; none for a repository that is not there."""
    return Storage(data=data).tags(repository) or ()


def tag_info(data: Path, repository: str, tag: str) -> TagInfo | None:
    """Return what is known of a tag, or None when it is not there."""
    storage = Storage(data=data)
    found, written_at = storage.manifest(repository, tag), storage.tagged_at(repository, tag)
    if found is None or written_at is None:
        return None
    return TagInfo(
        name=tag,
        digest=found.digest,
        media_type=found.media_type,
        size_bytes=_size_bytes(storage, repository, found.digest),
        created_at=config_created_at(storage, repository, json.loads(found.content)) or written_at,
    )


def delete_tag(data: Path, repository: str, tag: str) -> bool:
    """Forget a tag and say whether it was there; its manifest stays and can be asked for by digest."""
    return Storage(data=data).delete_tag(repository, tag)


def _size_bytes(storage: Storage, repository: str, digest: str) -> int:
    found = storage.manifest(repository, digest)
    if found is None:
        return 0
    document = json.loads(found.content)
    if found.media_type in INDEX_TYPES:
        return sum(_size_bytes(storage, repository, child) for child in needed_manifests(document))
    return sum(int(layer.get("size", 0)) for layer in document["layers"])
