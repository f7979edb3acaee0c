"""Keeps images in a folder: content by digest once, and per repository what it may see of it.

Layout: `blobs/<algorithm>/<hex>` holds bytes; `repositories/<name>/_blobs/<algorithm>-<hex>` and
`…/_revisions/<algorithm>-<hex>` say that the repository has this blob or manifest (the latter holds its media type);
`…/_tags/<tag>` holds a digest; `…/_uploads/<id>` is a blob on its way. A part of a repository's name never begins with
an underscore, so nested names cannot collide.

Promises: a file is there whole or not at all (written aside, then renamed), under any number of threads and processes.
Must not know: HTTP, tokens.
"""

import fcntl
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedRandom
from pathlib import Path
from typing import Any, Protocol

from spawner.testing.gitlab.registry.faults import RefusalError

_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_UPLOAD = re.compile(r"[0-9a-f]{32}")
_LONGEST_NAME = 255
_CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """A stream of bytes, as a request's body is one."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A stored manifest: its digest, the media type it was pushed with, and its exact bytes."""

    digest: str
    media_type: str
    content: bytes


def is_tag(text: str) -> bool:
    """Say whether a text has the form of a tag."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Say whether a text has the form of a digest that this registry can check."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(content: bytes) -> str:
    """Return the SHA-256 digest of some bytes, as `sha256:<hex>`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The registry's folder."""

    data: Path

    def repositories(self) -> tuple[str, ...]:
        """Return the names of all repositories that ever held a manifest, sorted."""
        root = self.data / "repositories"
        found = (path.parent.relative_to(root).as_posix() for path in root.rglob("_revisions"))
        return tuple(sorted(found))

    def tags(self, name: str) -> tuple[str, ...] | None:
        """Return a repository's tags, sorted; None when there is no such repository."""
        root = self._repository(name)
        if not (root / "_revisions").is_dir():
            return None
        return tuple(sorted(path.name for path in _listed(root / "_tags")))

    def tagged_at(self, name: str, tag: str) -> datetime | None:
        """Return when a tag was last written, or None when it is not there."""
        try:
            return datetime.fromtimestamp((self._repository(name) / "_tags" / tag).stat().st_mtime, tz=UTC)
        except FileNotFoundError:
            return None

    def manifest(self, name: str, reference: str) -> Manifest | None:
        """Return the manifest that a tag or digest names in a repository, or None."""
        root, digest = self._repository(name), reference
        try:
            if not is_digest(reference):
                digest = (root / "_tags" / _checked_tag(reference)).read_text()
            media_type = json.loads((root / "_revisions" / _file(digest)).read_text())["media_type"]
            return Manifest(digest=digest, media_type=media_type, content=self._content(digest).read_bytes())
        except FileNotFoundError:
            return None

    def revisions(self, name: str) -> Iterator[Manifest]:
        """Yield every manifest of a repository, in the order of their digests."""
        for path in sorted(_listed(self._repository(name) / "_revisions")):
            found = self.manifest(name, path.name.replace("-", ":", 1))
            if found is not None:
                yield found

    def put_manifest(self, name: str, manifest: Manifest, *, tag: str | None) -> None:
        """Store a manifest, and point `tag` at it when one is given."""
        root = self._repository(name)
        tagged = None if tag is None else root / "_tags" / _checked_tag(tag)
        self._write(self._content(manifest.digest), manifest.content)
        kept = json.dumps({"media_type": manifest.media_type}).encode()
        self._write(root / "_revisions" / _file(manifest.digest), kept)
        if tagged is not None:
            self._write(tagged, manifest.digest.encode())

    def delete_manifest(self, name: str, digest: str) -> bool:
        """Forget a manifest and every tag that names it; say whether it was there."""
        root = self._repository(name)
        if not _unlinked(root / "_revisions" / _file(digest)):
            return False
        for path in _listed(root / "_tags"):
            if path.read_text() == digest:
                _unlinked(path)
        return True

    def delete_tag(self, name: str, tag: str) -> bool:
        """Forget a tag; say whether it was there. Its manifest stays and can be asked for by digest."""
        return _unlinked(self._repository(name) / "_tags" / _checked_tag(tag))

    def blob(self, name: str, digest: str) -> Path | None:
        """Return the file of a blob that a repository may see, or None."""
        content = self._content(digest)
        linked = self._repository(name) / "_blobs" / _file(digest)
        return content if linked.is_file() and content.is_file() else None

    def link_blob(self, name: str, digest: str) -> None:
        """Let a repository see a blob that is stored already."""
        self._write(self._repository(name) / "_blobs" / _file(digest), b"")

    def unlink_blob(self, name: str, digest: str) -> bool:
        """Let a repository see a blob no more; say whether it did."""
        return _unlinked(self._repository(name) / "_blobs" / _file(digest))

    def start_upload(self, name: str) -> str:
        """Begin a blob and return the upload's id."""
        made = uuid.uuid4().hex
        path = self._upload(name, made)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return made

    def upload_bytes(self, name: str, upload: str) -> int:
        """Return how many bytes of an upload are here.

        Raises:
            RefusalError: there is no such upload.
        """
        with self._opened_upload(name, upload) as file:
            return file.seek(0, os.SEEK_END)

    def append(self, name: str, upload: str, stream: Readable, *, start: int | None = None) -> int:
        """Add a stream to an upload and return its new size; `start` is where the sender believes to be.

        Raises:
            RefusalError: there is no such upload, or `start` is not where it ends.
        """
        with self._opened_upload(name, upload) as file:
            size = file.seek(0, os.SEEK_END)
            if start is not None and start != size:
                raise RefusalError("RANGE_INVALID", headers={"Range": f"0-{max(size - 1, 0)}"})
            while chunk := stream.read(_CHUNK_BYTES):
                file.write(chunk)
            return file.tell()

    def finish_upload(self, name: str, upload: str, *, digest: str) -> None:
        """Turn an upload into the blob `digest` of a repository; a second finish finds no upload.

        Raises:
            RefusalError: there is no such upload, or its bytes have another digest; in the latter case it is dropped.
        """
        with self._opened_upload(name, upload) as file:
            path = self._upload(name, upload)
            file.seek(0)
            if not _has_digest(file, digest):
                path.unlink()
                raise RefusalError("DIGEST_INVALID", digest)
            target = self._content(digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.flush()
            path.replace(target)
            self.link_blob(name, digest)

    def drop_upload(self, name: str, upload: str) -> bool:
        """Forget an upload; say whether it was there."""
        return _unlinked(self._upload(name, upload))

    @contextmanager
    def _opened_upload(self, name: str, upload: str) -> Iterator[BufferedRandom]:
        path = self._upload(name, upload)
        try:
            file = path.open("r+b")
        except FileNotFoundError as exc:
            raise RefusalError("BLOB_UPLOAD_UNKNOWN", upload) from exc
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists():
                raise RefusalError("BLOB_UPLOAD_UNKNOWN", upload)
            yield file

    def _upload(self, name: str, upload: str) -> Path:
        if not _UPLOAD.fullmatch(upload):
            raise RefusalError("BLOB_UPLOAD_UNKNOWN", upload[:64])
        return self._repository(name) / "_uploads" / upload

    def _repository(self, name: str) -> Path:
        if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
            raise RefusalError("NAME_INVALID", name[:_LONGEST_NAME])
        return self.data / "repositories" / name

    def _content(self, digest: str) -> Path:
        if not is_digest(digest):
            raise RefusalError("DIGEST_INVALID", digest[:_LONGEST_NAME])
        return self.data / "blobs" / digest.split(":", maxsplit=1)[0] / _hex(digest)

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.data, prefix="new-", delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)


def config_created_at(storage: Storage, name: str, document: dict[str, Any]) -> datetime | None:
    """Return the time that an image's configuration says it was made at, or None where it says none."""
    digest = str((document.get("config") or {}).get("digest", ""))
    path = storage.blob(name, digest) if is_digest(digest) else None
    if path is None:
        return None
    try:
        found = datetime.fromisoformat(json.loads(path.read_bytes())["created"])
    except (ValueError, KeyError, TypeError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _has_digest(file: BufferedRandom, digest: str) -> bool:
    algorithm, _, hexadecimal = digest.partition(":")
    return is_digest(digest) and hashlib.file_digest(file, algorithm).hexdigest() == hexadecimal


def _checked_tag(tag: str) -> str:
    if not is_tag(tag):
        raise RefusalError("TAG_INVALID", tag[:_LONGEST_NAME])
    return tag


def _file(digest: str) -> str:
    if not is_digest(digest):
        raise RefusalError("DIGEST_INVALID", digest[:_LONGEST_NAME])
    return digest.replace(":", "-", 1)


def _hex(digest: str) -> str:
    return digest.split(":", 1)[1]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _unlinked(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
