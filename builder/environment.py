"""The environment image: a locked Python environment as a tiny, valid OCI image.

The format, shared by the builder that packs it and the runtime that unpacks it. Ordinary media types (OCI image spec
1.1), so that any registry keeps it; its `io.slipway.kind` label says what it is. Layer 1 holds two files under
`slipway/`: `environment.json` (which Python and platform, what was added) and `requirements.lock` (`name==version` and
the SHA-256 of its wheels: nothing else, no address and no option). Layer 2, if there is one, holds
`slipway/wheels/*.whl`: what the job built or fetched because no index has it as a wheel for everyone.

It promises: packing the same environment gives the same layers; unpacking believes nothing that it did not check
(digests, sizes, names, the lock's grammar, every wheel's hash against the lock) and writes nowhere but into the folder
it was given. It must not know a registry, `uv`, or where environments are installed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform as machine
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.errors import FormatError, capped
from builder.tags import Label

FORMAT = 1
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
METADATA_FILE = "environment.json"
LOCK_FILE = "requirements.lock"
WHEELS_FOLDER = "wheels"
_ROOT = "slipway"

_LOCKED = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.!+_-]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PYTHON = re.compile(r"3\.[0-9]{1,2}")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What unpacking accepts at most; guesses that no honest environment has met."""

    manifest_bytes: int = 1 << 20
    lock_layer_bytes: int = 16 << 20
    wheel_layer_bytes: int = 4 << 30
    unpacked_bytes: int = 8 << 30
    wheels: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A locked environment.

    `python` is a minor version (`3.12`), `platform` as Go writes it (`linux/amd64`), `added` the pinned packages that
    the session needs and the commit lacks, `project` the folder (`""` is the root) of a Python project to be installed
    editable, without dependencies or build isolation, when a session starts; None if there is none.
    """

    python: str
    platform: str
    recipe: str
    key: str
    added: tuple[str, ...] = ()
    project: str | None = None
    lock: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A part of a packed image: its digest, size, type, and the file that holds it."""

    digest: str
    size_bytes: int
    media_type: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """An image ready to be pushed: its blobs first, then its manifest."""

    manifest: bytes
    media_type: str
    digest: str
    blobs: tuple[Blob, ...]


Fetch = Callable[[str, Path, int], None]
"""Write the blob of a digest to a new file, refusing more than so many bytes."""


def this_platform() -> str:
    """Name this machine's platform as keys and images do: `linux/amd64`."""
    architecture = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
    name = machine.machine().lower()
    return f"{machine.system().lower()}/{architecture.get(name, name)}"


def locked_packages(lock: str) -> Mapping[str, tuple[str, frozenset[str]]]:
    """Read a lock: name as written → (version, SHA-256 hashes). FormatError at anything that is not a pinned wheel."""
    packages: dict[str, tuple[str, frozenset[str]]] = {}
    for line in lock.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words:
            continue
        pinned = _LOCKED.fullmatch(words[0])
        hashes = [_HASH.fullmatch(word) for word in words[1:]]
        if pinned is None or not hashes or not all(hashes):
            raise FormatError(f"The lock holds “{capped(line)}”, which is not a version with its hashes.")
        packages[pinned["name"]] = (pinned["version"], frozenset(found.group(1) for found in hashes if found))
    return packages


def render_lock(packages: Mapping[str, tuple[str, frozenset[str]]]) -> str:
    """Write a lock, sorted by name, hashes sorted: equal packages give equal text."""
    blocks = []
    for name in sorted(packages):
        version, hashes = packages[name]
        blocks.append(
            " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{digest}" for digest in sorted(hashes))])
        )
    return "".join(f"{block}\n" for block in blocks)


def pack(environment: Environment, wheels: Sequence[Path], labels: Mapping[str, str], folder: Path) -> Packed:
    """Write the image's blobs into a folder. The layers depend on nothing but the environment and the wheels."""
    locked_packages(environment.lock)  # never pack what would not unpack
    files = {METADATA_FILE: _metadata(environment), LOCK_FILE: environment.lock.encode("utf-8")}
    layers = [_layer(folder / "layer-1", [(name, io.BytesIO(files[name]), len(files[name])) for name in sorted(files)])]
    if wheels:
        layers.append(_wheel_layer(folder / "layer-2", wheels))
    system, _, architecture = environment.platform.partition("/")
    config = _json({
        "created": labels.get(Label.CREATED, "1970-01-01T00:00:00Z"),
        "architecture": architecture,
        "os": system,
        "config": {"Labels": dict(labels), "User": "1000"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
    })  # fmt: skip
    config_path = folder / "config"
    config_path.write_bytes(config)
    config_blob = Blob(digest=_digest(config), size_bytes=len(config), media_type=CONFIG_TYPE, path=config_path)
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(config_blob),
        "layers": [_descriptor(blob) for blob, _ in layers],
        "annotations": dict(labels),
    })  # fmt: skip
    blobs = (*(blob for blob, _ in layers), config_blob)
    return Packed(manifest=manifest, media_type=MANIFEST_TYPE, digest=_digest(manifest), blobs=blobs)


def unpack(manifest: bytes, fetch: Fetch, folder: Path, *, limits: Limits | None = None) -> Environment:
    """Write an environment image's lock, metadata and wheels into an existing, empty folder, and return what it says.

    Afterwards the folder holds `environment.json`, `requirements.lock` and, if the image brings any, `wheels/`.
    FormatError names what is not as it must be; the folder is then to be thrown away.
    """
    bounds = limits or Limits()
    config, layers = _parts(manifest, bounds)
    work = folder / ".unpack"
    work.mkdir()
    try:
        fetch(config, work / "config", bounds.manifest_bytes)
        _check_config((work / "config").read_bytes())
        fetch(layers[0], work / "layer-1", bounds.lock_layer_bytes)
        with _whole():
            files = dict(_small_files(work / "layer-1", bounds))
        environment = _environment(files)
        hashes = {digest for _, found in locked_packages(environment.lock).values() for digest in found}
        if len(layers) > 1:
            fetch(layers[1], work / "layer-2", bounds.wheel_layer_bytes)
            with _whole():
                _write_wheels(work / "layer-2", folder / WHEELS_FOLDER, hashes, bounds)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    finally:
        shutil.rmtree(work)
    return environment


def _metadata(environment: Environment) -> bytes:
    document = {
        "format": FORMAT, "python": environment.python, "platform": environment.platform,
        "recipe": environment.recipe, "key": environment.key, "added": list(environment.added),
        "project": environment.project,
    }  # fmt: skip
    return _json(document)


def _environment(files: Mapping[str, bytes]) -> Environment:
    if set(files) != {METADATA_FILE, LOCK_FILE}:
        raise FormatError(f"The first layer must hold {METADATA_FILE} and {LOCK_FILE}, and nothing else.")
    document = _object(files[METADATA_FILE])
    if document.get("format") != FORMAT:
        raise FormatError(f"The environment has format {capped(str(document.get('format')))}; {FORMAT} is understood.")
    texts = {name: document.get(name) for name in ("python", "platform", "recipe", "key")}
    added, project = document.get("added"), document.get("project")
    if not all(isinstance(text, str) for text in texts.values()) or not _PYTHON.fullmatch(str(texts["python"])):
        raise FormatError(f"{METADATA_FILE} lacks its Python version, platform, recipe or key.")
    if not isinstance(added, list) or not (project is None or isinstance(project, str)):
        raise FormatError(f"{METADATA_FILE} does not say what was added, or names its project wrongly.")
    if isinstance(project, str) and (project.startswith("/") or ".." in project.split("/")):
        raise FormatError(f"{METADATA_FILE} names a project outside the repository.")
    lock = files[LOCK_FILE].decode("utf-8", "replace")
    locked_packages(lock)
    return Environment(
        python=str(texts["python"]), platform=str(texts["platform"]), recipe=str(texts["recipe"]),
        key=str(texts["key"]), added=tuple(str(name) for name in added), project=project, lock=lock,
    )  # fmt: skip


def _parts(manifest: bytes, bounds: Limits) -> tuple[str, list[str]]:
    if len(manifest) > bounds.manifest_bytes:
        raise FormatError("The manifest is too large for an environment image.")
    document = _object(manifest)
    layers, config = document.get("layers"), document.get("config")
    if not isinstance(config, dict) or not isinstance(layers, list) or len(layers) not in {1, 2}:
        raise FormatError("This image is not an environment image: it must have one or two layers.")
    if not all(isinstance(layer, dict) and layer.get("mediaType") == LAYER_TYPE for layer in layers):
        raise FormatError("This image is not an environment image: its layers have another type.")
    return str(config.get("digest")), [str(layer.get("digest")) for layer in layers]


def _check_config(content: bytes) -> None:
    inner = _object(content).get("config")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    kind = labels.get(Label.KIND) if isinstance(labels, dict) else None
    if kind != "environment":
        raise FormatError(f"This image is not an environment image: its label {Label.KIND} is {capped(str(kind))}.")


def _layer(path: Path, files: Sequence[tuple[str, IO[bytes], int]]) -> tuple[Blob, str]:
    """Write a layer; the blob, and the digest of its uncompressed tar (`diff_id`)."""
    with path.open("wb") as raw:
        packed = _Hashing(raw)
        with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as zipped:
            unpacked = _Hashing(cast("IO[bytes]", zipped))
            with tarfile.open(fileobj=unpacked, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for name, content, size_bytes in files:
                    member = tarfile.TarInfo(f"{_ROOT}/{name}")
                    member.size, member.mode = size_bytes, 0o644
                    archive.addfile(member, content)
    blob = Blob(digest=packed.digest, size_bytes=path.stat().st_size, media_type=LAYER_TYPE, path=path)
    return blob, unpacked.digest


def _wheel_layer(path: Path, wheels: Sequence[Path]) -> tuple[Blob, str]:
    opened = [wheel.open("rb") for wheel in sorted(wheels, key=lambda wheel: wheel.name)]
    try:
        return _layer(
            path, [(f"{WHEELS_FOLDER}/{Path(file.name).name}", file, Path(file.name).stat().st_size) for file in opened]
        )
    finally:
        for file in opened:
            file.close()


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


def _members(path: Path, bounds: Limits) -> Iterator[tuple[str, IO[bytes], int]]:
    """Yield the regular files of a layer by name under `slipway/`; FormatError at anything else in it."""
    total = 0
    with tarfile.open(path, mode="r|gz") as archive:
        for member in archive:
            total += member.size
            root, _, name = member.name.partition("/")
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or root != _ROOT or total > bounds.unpacked_bytes:
                raise FormatError(f"The layer holds “{capped(member.name)}”, which does not belong there.")
            yield name, content, member.size


@contextmanager
def _whole() -> Iterator[None]:
    """Say that a layer is damaged where reading it breaks off, or where it names a file twice."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, FileExistsError) as error:
        raise FormatError("A layer of the environment image is damaged.") from error


def _small_files(path: Path, bounds: Limits) -> Iterator[tuple[str, bytes]]:
    for name, content, size_bytes in _members(path, bounds):
        if name not in {METADATA_FILE, LOCK_FILE} or size_bytes > bounds.lock_layer_bytes:
            raise FormatError(f"The first layer holds “{capped(name)}”, which does not belong there.")
        yield name, content.read()


def _write_wheels(path: Path, folder: Path, hashes: set[str], bounds: Limits) -> None:
    folder.mkdir()
    for count, (name, content, _) in enumerate(_members(path, bounds), start=1):
        place, _, filename = name.partition("/")
        if place != WHEELS_FOLDER or not is_wheel_name(filename) or count > bounds.wheels:
            raise FormatError(f"The second layer holds “{capped(name)}”, which is not a wheel.")
        hasher = hashlib.sha256()
        with (folder / filename).open("xb") as file:
            while chunk := content.read(_CHUNK_BYTES):
                hasher.update(chunk)
                file.write(chunk)
        if hasher.hexdigest() not in hashes:
            raise FormatError(f"The wheel {capped(filename)} is not the one that the lock names.")


def is_wheel_name(filename: str) -> bool:
    """Tell whether a file name is a wheel's, and a plain name at that."""
    try:
        parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return False
    return "/" not in filename and "\\" not in filename and not filename.startswith(".")


def _descriptor(blob: Blob) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size_bytes}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def _object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError("The image holds something that is not JSON.") from error
    if not isinstance(document, dict):
        raise FormatError("The image holds JSON that is not an object.")
    return document
