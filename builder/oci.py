"""A registry, spoken to by the OCI distribution protocol over `requests`.

Source: OCI distribution spec 1.1 and the token flow of https://distribution.github.io/distribution/spec/auth/token/.
It promises: "does not exist" is a value (None), "cannot be asked" is `UnavailableError`, and the two are never mixed
up; a person's credentials go to the registry itself and to hosts named as trusted, and to no other; a registry's token
goes to that registry alone; plain http is spoken to loopback only; every call has a timeout; what is read is bounded
and checked against its digest. It must not know projects, keys or Git.
"""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests

from builder.errors import LostError, RefusedError, UnavailableError, capped
from builder.transport import LARGEST_ANSWER_BYTES, Credentials, Transport, bounded, chunks, document, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "DIGEST", "INDEX_TYPES", "MANIFEST_TYPES", "Credentials", "Descriptor", "Manifest", "RegistryClient", "digest_of",
    "is_loopback",
]  # fmt: skip

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES = frozenset({MANIFEST_TYPES[0], MANIFEST_TYPES[2]})
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LARGEST_CONFIG_BYTES = 4 * 1024 * 1024
MOST_PAGES = 1000  # of a list of tags; registries put 100 or more names on one


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a name stands for: digest, media type and size."""

    digest: str
    media_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest's exact bytes, their type and digest."""

    content: bytes = field(repr=False)
    media_type: str
    digest: str

    def document(self) -> Mapping[str, Any]:
        """Parse the manifest; RefusedError if it is not a JSON object."""
        return document(self.content)


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes, `sha256:<64 hex>`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class RegistryClient:
    """One registry, as one person. Not to be shared between threads.

    `address` is `host[:port]`; `credentials` is asked each time a token is needed (None: anonymous);
    `trusted_hosts` are the `host[:port]` besides the registry's own that may be shown the credentials: the token
    service of the GitLab it belongs to. UnauthorizedError, UnavailableError and RefusedError may come of every method.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: Callable[[], Credentials | None] = lambda: None,
        trusted_hosts: Sequence[str] = (),
        timeout_seconds: float = 30.0,
        ca_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = Transport(
            address, credentials=credentials, trusted_hosts=trusted_hosts, timeout_seconds=timeout_seconds,
            ca_file=ca_file, clock=clock,
        )  # fmt: skip
        self.address = self._transport.address
        self.origin = self._transport.origin

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def head(self, repository: str, reference: str) -> Descriptor | None:
        """Ask what a tag or digest stands for; None if it does not exist."""
        path = f"/v2/{repository}/manifests/{reference}"
        answer = self._transport.call(
            "HEAD", path, repository, headers={"Accept": ", ".join(MANIFEST_TYPES)}, missing=True
        )
        if answer is None:
            return None
        with answer:
            digest = answer.headers.get("Docker-Content-Digest", "")
            if DIGEST.fullmatch(digest):
                length = answer.headers.get("Content-Length", "")
                size_bytes = int(length) if length.isdecimal() else 0
                return Descriptor(digest=digest, media_type=_media_type(answer), size_bytes=size_bytes)
        manifest = self.manifest(repository, reference)  # the header is optional: then the bytes decide
        if manifest is None:
            return None
        return Descriptor(digest=manifest.digest, media_type=manifest.media_type, size_bytes=len(manifest.content))

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """Get a manifest's exact bytes, checked against its digest; None if it does not exist."""
        path = f"/v2/{repository}/manifests/{reference}"
        answer = self._transport.call(
            "GET", path, repository, headers={"Accept": ", ".join(MANIFEST_TYPES)}, missing=True
        )
        if answer is None:
            return None
        with answer:
            content = bounded(answer, LARGEST_ANSWER_BYTES)
            said = answer.headers.get("Docker-Content-Digest", "")
            media_type = _media_type(answer)
        if media_type not in MANIFEST_TYPES:  # a login page, a proxy's apology: says nothing about the image
            raise UnavailableError(
                f"{self.address} answered with “{capped(media_type)}” where the manifest of {repository} belongs."
            )
        digest = digest_of(content)
        if said not in {"", digest} or (DIGEST.fullmatch(reference) and reference != digest):
            raise RefusedError(f"{self.address} sent another manifest than {capped(reference)} of {repository}.")
        return Manifest(content=content, media_type=media_type, digest=digest)

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> None:
        """Put a manifest under a tag or its digest. Idempotent: the same bytes give the same digest."""
        path = f"/v2/{repository}/manifests/{reference}"
        headers = {"Content-Type": manifest.media_type}
        answer = self._transport.call("PUT", path, repository, push=True, headers=headers, data=manifest.content)
        if answer is not None:
            answer.close()

    def retag(self, repository: str, source: str, tags: Sequence[str]) -> Manifest | None:
        """Put a tag's or digest's very manifest under other tags of the repository; None if it does not exist.

        Two calls for one tag, and no layer moves.
        """
        manifest = self.manifest(repository, source)
        if manifest is not None:
            for tag in tags:
                self.put_manifest(repository, tag, manifest)
        return manifest

    def tags(self, repository: str) -> tuple[str, ...]:
        """List a repository's tags, in the registry's order; empty if there is no such repository."""
        names: list[str] = []
        path = f"/v2/{repository}/tags/list"
        for _ in range(MOST_PAGES):
            answer = self._transport.call("GET", path, repository, missing=True)
            if answer is None:
                return tuple(names)
            with answer:
                listed = document(bounded(answer, LARGEST_ANSWER_BYTES)).get("tags") or []
                following = answer.links.get("next", {}).get("url")
            if not isinstance(listed, list):
                raise RefusedError(f"{self.address} answered what is no list of tags of {repository}.")
            names += [str(name) for name in listed]
            if following is None:
                return tuple(names)
            # Behind a proxy, an absolute link may name a host that only the registry knows: its path counts.
            target = urlsplit(urljoin(f"{self.origin}{path}", following))
            path = f"{target.path}?{target.query}"
        raise UnavailableError(f"{self.address} lists the tags of {repository} on more than {MOST_PAGES} pages.")

    def labels(self, repository: str, manifest: Manifest) -> Mapping[str, str]:
        """Read the labels in an image's configuration; empty for an index."""
        if manifest.media_type in INDEX_TYPES:
            return {}
        config = manifest.document().get("config")
        digest = config.get("digest") if isinstance(config, dict) else None
        if not isinstance(digest, str):
            return {}
        labels = document(self.blob(repository, digest, largest_bytes=LARGEST_CONFIG_BYTES)).get("config", {})
        found = labels.get("Labels") if isinstance(labels, dict) else None
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}

    def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether the repository holds a blob."""
        answer = self._transport.call("HEAD", f"/v2/{repository}/blobs/{digest}", repository, missing=True)
        if answer is not None:
            answer.close()
        return answer is not None

    def blob(self, repository: str, digest: str, *, largest_bytes: int) -> bytes:
        """Get a small blob, checked against its digest. LostError if absent, RefusedError if larger or another."""
        with self._blob(repository, digest) as answer:
            content = bounded(answer, largest_bytes)
        if digest_of(content) != digest:
            raise RefusedError(f"{self.address} sent another blob than {capped(digest)}.")
        return content

    def download(self, repository: str, digest: str, target: Path, *, largest_bytes: int) -> None:
        """Write a blob to a new file, checked against its digest; the file is complete or is not there."""
        partial = target.with_name(f"{target.name}.partial")
        hasher = hashlib.sha256()
        try:
            with self._blob(repository, digest) as answer, partial.open("wb") as file:
                for chunk in chunks(answer, largest_bytes):
                    hasher.update(chunk)
                    file.write(chunk)
            if f"sha256:{hasher.hexdigest()}" != digest:
                raise RefusedError(f"{self.address} sent another blob than {capped(digest)}.")
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    def upload(self, repository: str, digest: str, source: Path | bytes) -> None:
        """Upload a blob unless the repository has it already. Idempotent."""
        if self.has_blob(repository, digest):
            return
        start = self._transport.call("POST", f"/v2/{repository}/blobs/uploads/", repository, push=True, data=b"")
        self._finish(repository, digest, source, self._location(start))

    def mount(self, repository: str, digest: str, *, source_repository: str) -> bool:
        """Let the repository have another one's blob without moving it; False if the registry would not."""
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={source_repository}"
        answer = self._transport.call("POST", path, repository, push=True, also_pull=source_repository, data=b"")
        if answer is None:
            return False
        with answer:
            return bool(answer.status_code == requests.codes.created)

    def _finish(self, repository: str, digest: str, source: Path | bytes, location: str) -> None:
        url = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        if isinstance(source, bytes):
            answer = self._transport.call("PUT", url, repository, push=True, headers=headers, data=source)
        else:
            with source.open("rb") as file:
                answer = self._transport.call("PUT", url, repository, push=True, headers=headers, data=file)
        if answer is not None:
            answer.close()

    def _location(self, answer: requests.Response | None) -> str:
        location = answer.headers.get("Location", "") if answer is not None else ""
        if answer is not None:
            answer.close()
        if not location:
            raise RefusedError(f"{self.address} began an upload without saying where to send it.")
        return urljoin(self.origin, location)

    @contextmanager
    def _blob(self, repository: str, digest: str) -> Iterator[requests.Response]:
        if not DIGEST.fullmatch(digest):
            raise RefusedError(f"“{capped(digest)}” is not a digest.")
        answer = self._transport.call("GET", f"/v2/{repository}/blobs/{digest}", repository, missing=True)
        if answer is None:
            raise LostError(f"{self.address} has lost {digest[:19]}… of {repository}.")
        with answer:
            yield answer


def _media_type(answer: requests.Response) -> str:
    return answer.headers.get("Content-Type", "").split(";", 1)[0].strip()
