"""An OCI image in a folder, made of tar files: what tests build on, push to registries and load into Docker.

Source of the formats: OCI image specification 1.1, and the archive that `docker load` reads. It promises that the same
files give the same digests. It must not know what is inside an image.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from builder.oci import Manifest, RegistryClient, digest_of

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
Member = tuple[tarfile.TarInfo, IO[bytes] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A compressed layer in a folder of blobs: its digest, and the digest of what it unpacks to."""

    digest: str
    diff_id: str
    size_bytes: int

    def document(self) -> dict[str, object]:
        """Return it as JSON keeps it."""
        return {"digest": self.digest, "diff_id": self.diff_id, "size_bytes": self.size_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: a folder of blobs, the layers in order, lowest first, and its configuration (`User`, `Cmd`, …)."""

    blobs: Path
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]

    def configuration(self) -> bytes:
        """Write the image's configuration."""
        return _json({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "tests"} for _ in self.layers],
        })  # fmt: skip

    def manifest(self) -> Manifest:
        """Write the image's manifest."""
        configuration = self.configuration()
        content = _json({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(configuration), "size": len(configuration)},
            "layers": [
                {"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size_bytes} for layer in self.layers
            ],
        })  # fmt: skip
        return Manifest(content=content, media_type=MANIFEST_TYPE, digest=digest_of(content))

    def push(self, registry: RegistryClient, repository: str, tag: str) -> str:
        """Push it under a tag; its digest."""
        for layer in self.layers:
            registry.upload(repository, layer.digest, self.blobs / layer.digest)
        configuration = self.configuration()
        registry.upload(repository, digest_of(configuration), configuration)
        manifest = self.manifest()
        registry.put_manifest(repository, tag, manifest)
        return manifest.digest

    def archive(self, path: Path, name: str) -> None:
        """Write it as `docker load` reads it; `name` is the `repository:tag` it will have there."""
        configuration = self.configuration()
        config_name = f"{digest_of(configuration).removeprefix('sha256:')}.json"
        layers = [f"{layer.digest.removeprefix('sha256:')}.tar" for layer in self.layers]
        listing = _json([{"Config": config_name, "RepoTags": [name], "Layers": layers}])
        with tarfile.open(path, "w") as archive:
            for filename, content in ((config_name, configuration), ("manifest.json", listing)):
                archive.addfile(file_info(filename, len(content)), io.BytesIO(content))
            for layer, filename in zip(self.layers, layers, strict=True):
                with gzip.open(self.blobs / layer.digest) as unpacked, (path.parent / filename).open("w+b") as whole:
                    while chunk := unpacked.read(1 << 20):
                        whole.write(chunk)
                    size_bytes = whole.tell()
                    whole.seek(0)
                    archive.addfile(file_info(filename, size_bytes), whole)
                (path.parent / filename).unlink()


def file_info(name: str, size_bytes: int, mode: int = 0o644) -> tarfile.TarInfo:
    """Describe a file of root's, of no particular date."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size_bytes, mode
    return member


def write_layer(blobs: Path, members: Iterable[Member]) -> Layer:
    """Write tar members as a layer into a folder of blobs."""
    partial = blobs / "partial"
    with partial.open("wb") as raw:
        packed = _Hashing(raw)
        with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=1, mtime=0) as zipped:
            unpacked = _Hashing(cast("IO[bytes]", zipped))
            with tarfile.open(fileobj=unpacked, mode="w|", format=tarfile.GNU_FORMAT) as archive:
                for member, content in members:
                    archive.addfile(member, content)
    size_bytes = partial.stat().st_size
    partial.rename(blobs / packed.digest)
    return Layer(digest=packed.digest, diff_id=unpacked.digest, size_bytes=size_bytes)


def folder_members(folder: Path, *, owner: int = 0) -> Iterator[Member]:
    """Yield what lies below a folder, sorted, without dates, all of one owner."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        with tarfile.open(fileobj=io.BytesIO(), mode="w") as describing:
            member = describing.gettarinfo(path, name)
        member.mtime, member.uid, member.gid, member.uname, member.gname = 0, owner, owner, "", ""
        if member.type == tarfile.LNKTYPE:  # every file stands for itself
            member.type, member.size = tarfile.REGTYPE, path.stat().st_size
        if member.isreg():
            with path.open("rb") as content:
                yield member, content
        else:
            yield member, None


class _Hashing(io.RawIOBase):
    """Passes bytes on and hashes them."""

    def __init__(self, target: IO[bytes]) -> None:
        super().__init__()
        self._target = target
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._hash.update(content)
        self._target.write(content)
        return len(content)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")
