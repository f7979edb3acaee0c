"""An image of one repository, given to another of the same registry, byte for byte.

It promises: layers are mounted where the registry can, else moved through this machine, checked; an image for several
platforms is copied with each of them, before what names them; nothing is tagged. Idempotent.
Source: OCI distribution spec 1.1, "Mounting a blob from another repository". It must not know commits or keys.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import RefusedError, capped
from builder.oci import INDEX_TYPES, Manifest, RegistryClient

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_PLATFORMS = 64  # of one index; a guess, far above what anybody builds
_DEEPEST_INDEX = 2  # an index of indexes is allowed, and rare


def copied(registry: RegistryClient, source_repository: str, source: str, repository: str) -> Manifest | None:
    """Bring an image (a tag or digest) into a repository, under its digest alone; None if it does not exist."""
    return _copied(registry, source_repository, source, repository, depth=0)


def _copied(
    registry: RegistryClient, source_repository: str, source: str, repository: str, *, depth: int
) -> Manifest | None:
    manifest = registry.manifest(source_repository, source)
    if manifest is None:
        return None
    name = f"{source_repository}:{source}"
    if manifest.media_type in INDEX_TYPES:
        children = _described(manifest, "manifests", name)
        if depth >= _DEEPEST_INDEX or len(children) > _MOST_PLATFORMS:
            raise RefusedError(f"{capped(name)} is an index that names too much to be copied.")
        for digest, _ in children:
            if _copied(registry, source_repository, digest, repository, depth=depth + 1) is None:
                raise RefusedError(f"{capped(name)} names {digest[:19]}…, which {registry.address} does not have.")
    else:
        for digest, size_bytes in (*_described(manifest, "config", name), *_described(manifest, "layers", name)):
            _move(registry, source_repository, repository, digest, size_bytes)
    registry.put_manifest(repository, manifest.digest, manifest)
    return manifest


def _move(registry: RegistryClient, source_repository: str, repository: str, digest: str, size_bytes: int) -> None:
    if registry.mount(repository, digest, source_repository=source_repository):
        return
    with tempfile.TemporaryDirectory(prefix="slipway-copy-") as folder:
        file = Path(folder) / "blob"
        registry.download(source_repository, digest, file, largest_bytes=size_bytes)
        registry.upload(repository, digest, file)


def _described(manifest: Manifest, part: str, name: str) -> Sequence[tuple[str, int]]:
    """List what a part of a manifest names, as (digest, size in bytes)."""
    try:
        found: Any = manifest.document()[part]
        return [(str(row["digest"]), int(row["size"])) for row in (found if isinstance(found, list) else [found])]
    except (LookupError, TypeError, ValueError) as error:
        raise RefusedError(f"{capped(name)} is no image: its manifest lacks its {part}.") from error
