"""The environment image's format.

Covered: packing and unpacking with and without wheels, the same layers for the same environment, validity against the
image spec's shape, a round trip through a real registry, and every hostile or damaged image. Left out: installing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from builder.environment import (
    CONFIG_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    Environment,
    Limits,
    Packed,
    locked_packages,
    pack,
    render_lock,
    unpack,
)
from builder.errors import FormatError
from builder.oci import Manifest, RegistryClient
from builder.tags import Label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LABELS: dict[str, str] = {Label.KIND: "environment", Label.CREATED: "2025-03-03T09:00:00Z", Label.REVISION: "1" * 40}


def _wheel(folder: Path, name: str = "gauge-1.0-py3-none-any.whl") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("gauge.py"), "x = 1\n")
    return path


def _environment(*wheels: Path) -> Environment:
    packages = {"six": ("1.17.0", frozenset({"4" * 64, "a" * 64}))}
    for wheel in wheels:
        name, version, *_ = wheel.name.split("-")
        packages[name] = (version, frozenset({hashlib.sha256(wheel.read_bytes()).hexdigest()}))
    return Environment(
        python="3.12", platform="linux/amd64", recipe="python-1", key="b" * 64, added=("ipykernel==7.0",),
        project="", lock=render_lock(packages),
    )  # fmt: skip


def _pack(folder: Path, environment: Environment, *wheels: Path) -> Packed:
    folder.mkdir()
    return pack(environment, wheels, LABELS, folder)


def _fetch(packed: Packed) -> Callable[[str, Path, int], None]:
    blobs = {blob.digest: blob.path for blob in packed.blobs}

    def fetch(digest: str, target: Path, largest_bytes: int) -> None:
        content = blobs[digest].read_bytes()
        assert len(content) <= largest_bytes
        target.write_bytes(content)

    return fetch


def test_what_is_packed_is_unpacked(tmp_path: Path) -> None:
    """The lock, the metadata and the wheels come out as they went in, and nothing else does."""
    wheel = _wheel(tmp_path / "wheels")
    environment = _environment(wheel)
    packed = _pack(tmp_path / "image", environment, wheel)
    out = tmp_path / "out"
    out.mkdir()
    assert unpack(packed.manifest, _fetch(packed), out) == environment
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        "environment.json", "requirements.lock", f"wheels/{wheel.name}",
    ]  # fmt: skip
    assert (out / "wheels" / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_same_environment_is_the_same_image(tmp_path: Path) -> None:
    """Packed twice, an environment has the same digest: nothing but its content and labels counts."""
    wheel = _wheel(tmp_path / "wheels")
    environment = _environment(wheel)
    assert _pack(tmp_path / "a", environment, wheel).digest == _pack(tmp_path / "b", environment, wheel).digest


def test_the_image_is_a_valid_one(tmp_path: Path) -> None:
    """Media types, digests, sizes, platform, diff_ids and labels are as the image specification asks."""
    wheel = _wheel(tmp_path / "wheels")
    packed = _pack(tmp_path / "image", _environment(wheel), wheel)
    manifest = json.loads(packed.manifest)
    blobs = {blob.digest: blob.path.read_bytes() for blob in packed.blobs}
    parts = [manifest["config"], *manifest["layers"]]
    assert [part["mediaType"] for part in parts] == [CONFIG_TYPE, LAYER_TYPE, LAYER_TYPE]
    assert manifest["mediaType"] == packed.media_type == MANIFEST_TYPE
    for part in parts:
        assert part["size"] == len(blobs[part["digest"]])
        assert part["digest"] == f"sha256:{hashlib.sha256(blobs[part['digest']]).hexdigest()}"
    config = json.loads(blobs[manifest["config"]["digest"]])
    layers = [gzip.decompress(blobs[layer["digest"]]) for layer in manifest["layers"]]
    assert config["rootfs"] == {
        "type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
    }  # fmt: skip
    assert (config["os"], config["architecture"], config["config"]["User"]) == ("linux", "amd64", "1000")
    assert config["config"]["Labels"] == manifest["annotations"] == LABELS


def test_a_registry_keeps_it(registry: str, tmp_path: Path) -> None:
    """A real registry accepts the image, gives it back, and the client reads its labels."""
    wheel = _wheel(tmp_path / "wheels")
    environment = _environment(wheel)
    packed = _pack(tmp_path / "image", environment, wheel)
    client = RegistryClient(registry)
    for blob in packed.blobs:
        client.upload("group/kept", blob.digest, blob.path)
    manifest = Manifest(content=packed.manifest, media_type=packed.media_type, digest=packed.digest)
    client.put_manifest("group/kept", "env-1", manifest)
    found = client.manifest("group/kept", "env-1")
    assert found == manifest
    assert client.labels("group/kept", manifest) == LABELS
    out = tmp_path / "out"
    out.mkdir()

    def fetch(digest: str, target: Path, largest_bytes: int) -> None:
        client.download("group/kept", digest, target, largest_bytes=largest_bytes)

    assert unpack(packed.manifest, fetch, out) == environment
    client.close()


LOCKS = [
    "six==1.17.0\n",
    "six>=1.17.0 --hash=sha256:" + "a" * 64,
    "six==1.17.0 --hash=md5:aa",
    "--index-url https://evil.example.com\n",
    "-r /etc/passwd\n",
    "six @ https://evil.example.com/six.whl --hash=sha256:" + "a" * 64,
    "./six.whl --hash=sha256:" + "a" * 64,
    f"six==1.17.0 --hash=sha256:{'a' * 64} --no-binary",
]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_versions_and_hashes_only(lock: str, tmp_path: Path) -> None:
    """An option, an address, a path or a missing hash is refused, when packing and when unpacking."""
    with pytest.raises(FormatError):
        locked_packages(lock)
    with pytest.raises(FormatError):
        _pack(tmp_path / "image", replace(_environment(), lock=lock))


def test_a_lock_reads_back_as_written() -> None:
    """Rendering and reading a lock are each other's inverse, and the order of packages and hashes does not matter."""
    packages = {"b": ("2", frozenset({"b" * 64, "a" * 64})), "a": ("1!1.0+x", frozenset({"c" * 64}))}
    text = render_lock(packages)
    assert locked_packages(text) == packages
    assert text == render_lock(dict(reversed(packages.items())))


GOOD_METADATA = {
    "format": 1, "python": "3.12", "platform": "linux/amd64", "recipe": "python-1", "key": "b" * 64, "added": [],
    "project": None,
}  # fmt: skip
GOOD_LOCK = f"six==1.17.0 --hash=sha256:{'a' * 64}\n"


def _tar(members: list[tuple[tarfile.TarInfo | str, bytes]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def _first(metadata: Mapping[str, object] | None = None, lock: str = GOOD_LOCK) -> bytes:
    document = json.dumps(GOOD_METADATA | dict(metadata or {})).encode()
    return _tar([("slipway/environment.json", document), ("slipway/requirements.lock", lock.encode())])


def _link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


_OK: list[tuple[tarfile.TarInfo | str, bytes]] = [
    ("slipway/environment.json", b"{}"),
    ("slipway/requirements.lock", b""),
]
_GAUGE = "slipway/wheels/gauge-1.0-py3-none-any.whl"
_X = hashlib.sha256(b"x").hexdigest()
HOSTILE: list[tuple[str, list[bytes]]] = [
    ("no layer", []),
    ("three layers", [_first(), _first(), _first()]),
    ("no archive", [b"nothing"]),
    ("half an archive", [_first()[:60]]),
    ("a lock missing", [_tar(_OK[:1])]),
    ("another format", [_first({"format": 2})]),
    ("no Python", [_first({"python": "../3"})]),
    ("a project outside", [_first({"project": "../other"})]),
    ("a project from the root", [_first({"project": "/etc"})]),
    ("metadata that is no object", [_tar([("slipway/environment.json", b"[]"), _OK[1]])]),
    ("an index in the lock", [_first(lock="--index-url https://evil.example.com\n")]),
    ("a path upwards", [_tar([*_OK, ("slipway/../../evil", b"x")])]),
    ("an absolute path", [_tar([*_OK, ("/etc/evil", b"x")])]),
    ("another file", [_tar([*_OK, ("slipway/more", b"x")])]),
    ("a link", [_tar([*_OK, (_link("slipway/environment.json", "/etc/passwd"), b"")])]),
    ("a wheel that is none", [_first(), _tar([("slipway/wheels/evil.txt", b"x")])]),
    ("a wheel upwards", [_first(), _tar([("slipway/wheels/../gauge-1.0-py3-none-any.whl", b"x")])]),
    ("a wheel below", [_first(), _tar([("slipway/wheels/a/gauge-1.0-py3-none-any.whl", b"x")])]),
    ("a wheel that the lock does not name", [_first(), _tar([("slipway/wheels/gauge-1.0-py3-none-any.whl", b"x")])]),
    ("a wheel that is a link", [_first(), _tar([(_link("slipway/wheels/gauge-1.0-py3-none-any.whl", "/x"), b"")])]),
    ("a wheel twice", [_first(lock=f"x==1 --hash=sha256:{_X}"), _tar([(_GAUGE, b"x"), (_GAUGE, b"x")])]),
    ("half of the wheels", [_first(), _tar([(_GAUGE, random.Random(1).randbytes(200_000))])[:90_000]]),  # noqa: S311
    ("a layer that is huge", [_tar([("slipway/environment.json", b"0" * 3_000_000)])]),
]


@pytest.mark.parametrize("layers", [row[1] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_a_hostile_image_writes_nothing_elsewhere(layers: list[bytes], tmp_path: Path) -> None:
    """Whatever an image holds, it is refused as such, and nothing appears outside the folder."""
    config = json.dumps({"config": {"Labels": LABELS}}).encode()
    blobs = {f"sha256:{hashlib.sha256(content).hexdigest()}": content for content in (config, *layers)}
    names = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (config, *layers)]
    manifest = {"config": {"digest": names[0]}, "layers": [{"digest": n, "mediaType": LAYER_TYPE} for n in names[1:]]}
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)

    def fetch(digest: str, target: Path, largest_bytes: int) -> None:
        assert len(blobs[digest]) <= largest_bytes
        target.write_bytes(blobs[digest])

    with pytest.raises(FormatError):
        unpack(json.dumps(manifest).encode(), fetch, out, limits=Limits(unpacked_bytes=2_000_000))
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_another_kind_of_image_is_refused(tmp_path: Path) -> None:
    """A container image, or one without our label, is no environment."""
    packed = _pack(tmp_path / "image", _environment())
    out = tmp_path / "out"
    out.mkdir()
    config = next(blob for blob in packed.blobs if blob.media_type == CONFIG_TYPE)
    config.path.write_bytes(json.dumps({"config": {"Labels": {Label.KIND: "container"}}}).encode())
    with pytest.raises(FormatError, match="container"):
        unpack(packed.manifest, _fetch(packed), out)
