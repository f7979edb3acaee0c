"""Reads manifests as far as a registry must: what they refer to, and what they are about.

Promises: pure functions over the pushed bytes.
Must not know: where anything is stored.
Source: https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md
"""

import json
from typing import Any

from spawner.testing.gitlab.registry.faults import RefusalError

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_TYPES = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)


def read_manifest(content: bytes, *, media_type: str) -> dict[str, Any]:
    """Return a manifest's document.

    Raises:
        RefusalError: MANIFEST_INVALID, when it is no such document or says another media type than its header.
    """
    if media_type not in MEDIA_TYPES:
        raise RefusalError("MANIFEST_INVALID", f"unsupported media type: {media_type[:100]}")
    try:
        document = json.loads(content)
    except ValueError as exc:
        raise RefusalError("MANIFEST_INVALID", "not JSON") from exc
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:  # noqa: PLR2004 - the only version left
        raise RefusalError("MANIFEST_INVALID", "schemaVersion must be 2")
    if document.get("mediaType", media_type) != media_type:
        raise RefusalError("MANIFEST_INVALID", "mediaType differs from Content-Type")
    wanted = "manifests" if media_type in INDEX_TYPES else "layers"
    if not isinstance(document.get(wanted), list):
        raise RefusalError("MANIFEST_INVALID", f"{wanted} is missing")
    return document


def needed_blobs(document: dict[str, Any]) -> list[str]:
    """Return the digests of the blobs that an image manifest needs, without layers that live elsewhere (`urls`)."""
    parts = [document["config"]] if document.get("config") else []
    parts += [layer for layer in document.get("layers") or () if not layer.get("urls")]
    return [str(part.get("digest", "")) for part in parts]


def needed_manifests(document: dict[str, Any]) -> list[str]:
    """Return the digests of the manifests that an index lists."""
    return [str(part.get("digest", "")) for part in document.get("manifests") or ()]


def subject_of(document: dict[str, Any]) -> str | None:
    """Return the digest of the manifest that this one is about, or None."""
    found = (document.get("subject") or {}).get("digest")
    return None if found is None else str(found)


def referrer(content: bytes, document: dict[str, Any], *, digest: str, media_type: str) -> dict[str, Any]:
    """Return the descriptor of a manifest as a list of referrers shows it."""
    artifact = document.get("artifactType") or (document.get("config") or {}).get("mediaType")
    found = {"mediaType": media_type, "digest": digest, "size": len(content)}
    if artifact:
        found["artifactType"] = artifact
    if document.get("annotations"):
        found["annotations"] = document["annotations"]
    return found
