"""Base images for tests, made on the spot from Debian packages and wheels: no registry is asked for any.

`tiny` is a static busybox and 1 MB; `python` is Debian with Python, Git, certificates, `uv` and a user 1000;
`notebook` is that with JupyterLab, as a session expects of an image: port 8888, numeric user, settings from
JUPYTER_CONFIG_PATH. Each is made once per machine and content, under `${XDG_CACHE_HOME:-~/.cache}/slipway`, by whoever
comes first. What is missing skips the test, saying how to get it.
"""

import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.engines.environment import uv_environment, uv_program
from builder.recipes import PREFERRED
from tests.containers.layout import Image, Layer, Member, file_info, folder_members, write_layer

SUITE, PYTHON = "bookworm", "3.11"  # Debian 12 and the Python it has
PACKAGES = ("ca-certificates", "git", "python3")
HOME = "/home/jovyan"
DEBIAN_SECONDS = 900
UNWANTED = ("./dev/", "./proc/", "./sys/", "./run/", "./tmp/", "./var/cache/", "./var/lib/apt/", "./var/log/")
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
DEBIAN = (
    "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
    '--aptopt=Acquire::Languages "none"',
    f'--customize-hook=chroot "$1" useradd --uid 1000 --gid 100 --create-home --home-dir {HOME} jovyan', SUITE,
)  # fmt: skip
BUSYBOX_SECONDS = 30


def tiny() -> Image:
    """An image of busybox and nothing else, for what needs a shell and no Python."""
    return Image(blobs=_blobs(_busybox_layers, _busybox_digest()), layers=_layers(_busybox_layers, _busybox_digest()),
                 config={"Env": ["PATH=/bin"], "Cmd": ["sh"]})  # fmt: skip


def python() -> Image:
    """An image of Debian with Python, Git and `uv`: what a recipe builds on."""
    layers = (*_layers(_debian_layers, *DEBIAN), *_layers(_uv_layers, _uv_version()))
    blobs = _together(layers, _blobs(_debian_layers, *DEBIAN), _blobs(_uv_layers, _uv_version()))
    return Image(blobs=blobs, layers=layers, config={"Env": [_PATH], "Cmd": ["python3"]})


def notebook() -> Image:
    """An image that a session can run: JupyterLab on 8888 as user 1000."""
    wanted = [f"{name}=={version}" for name, version in PREFERRED.items()]
    layers = (*_layers(_debian_layers, *DEBIAN), *_layers(_notebook_layers, *wanted))
    blobs = _together(layers, _blobs(_debian_layers, *DEBIAN), _blobs(_notebook_layers, *wanted))
    return Image(blobs=blobs, layers=layers, config={
        "Env": [_PATH, f"HOME={HOME}"], "User": "1000", "WorkingDir": HOME, "ExposedPorts": {"8888/tcp": {}},
        "Cmd": ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser"],
        "Labels": {"io.slipway.uid": "1000", "io.slipway.kind": "container"},
    })  # fmt: skip


_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Make = Callable[[Path, tuple[str, ...]], list[Layer]]


def _root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway" / "base-images"


def _place(make: Make, said: tuple[str, ...]) -> Path:
    text = json.dumps([make.__name__, PYTHON, platform.machine(), *said])
    return _root() / hashlib.sha256(text.encode()).hexdigest()


def _blobs(make: Make, *said: str) -> Path:
    """Find the folder of these layers, made by whoever comes first."""
    place = _place(make, said)
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent) as folder:
                made = Path(folder) / "made"
                made.mkdir()
                layers = make(made, said)
                (made / "layers.json").write_text(json.dumps([layer.document() for layer in layers]))
                made.rename(place)
    return place


def _layers(make: Make, *said: str) -> tuple[Layer, ...]:
    listed: list[dict[str, Any]] = json.loads((_blobs(make, *said) / "layers.json").read_text())
    return tuple(Layer(**each) for each in listed)


def _together(layers: tuple[Layer, ...], *places: Path) -> Path:
    """Link the blobs of several folders into one."""
    folder = _root() / hashlib.sha256("".join(layer.digest for layer in layers).encode()).hexdigest()
    folder.mkdir(exist_ok=True)
    for layer in layers:
        target = folder / layer.digest
        source = next(place / layer.digest for place in places if (place / layer.digest).exists())
        if not target.exists():
            link = folder / f"{layer.digest}.{os.getpid()}"
            link.unlink(missing_ok=True)
            link.hardlink_to(source)
            link.rename(target)
    return folder


# ---------------------------------------------------------------- what the images are made of


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name}: `apt-get install {package}` brings it (scripts/install --dev does)")
    return found


def _busybox_digest() -> str:
    return hashlib.sha256(Path(_program("busybox", "busybox-static")).read_bytes()).hexdigest()


def _busybox_layers(blobs: Path, _said: tuple[str, ...]) -> list[Layer]:
    program = _program("busybox", "busybox-static")
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True, timeout=BUSYBOX_SECONDS)

    def members() -> Iterator[Member]:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("home", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            yield folder, None
        content = Path(program).read_bytes()
        yield file_info("bin/busybox", len(content), 0o755), io.BytesIO(content)
        for name in listed.stdout.split():
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                yield link, None
        passwd = b"root:x:0:0:root:/root:/bin/sh\nworker:x:1234:100:worker:/home:/bin/sh\n"
        yield file_info("etc/passwd", len(passwd)), io.BytesIO(passwd)
        group = b"root:x:0:\nusers:x:100:\n"
        yield file_info("etc/group", len(group)), io.BytesIO(group)

    return [write_layer(blobs, members())]


def _debian_layers(blobs: Path, command: tuple[str, ...]) -> list[Layer]:
    _program("mmdebstrap", "mmdebstrap")
    whole = blobs / "debian.tar"
    done = subprocess.run(
        [*command, str(whole)], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        timeout=DEBIAN_SECONDS, env=os.environ | {"SOURCE_DATE_EPOCH": "1767225600", "TMPDIR": str(blobs)},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"mmdebstrap could not make a base image:\n{done.stderr[-3000:]}")

    def members() -> Iterator[Member]:
        with tarfile.open(whole, "r|") as archive:
            for member in archive:
                if not member.name.startswith(UNWANTED) and "__pycache__" not in member.name:
                    yield member, archive.extractfile(member) if member.isreg() else None

    layer = write_layer(blobs, members())
    whole.unlink()
    return [layer]


def _uv_version() -> str:
    return subprocess.run([uv_program(), "--version"], check=True, capture_output=True, text=True, timeout=30).stdout


def _uv_layers(blobs: Path, _said: tuple[str, ...]) -> list[Layer]:
    program = Path(uv_program())
    with program.open("rb") as content:
        return [write_layer(blobs, [(file_info("usr/local/bin/uv", program.stat().st_size, 0o755), content)])]


def _notebook_layers(blobs: Path, wanted: tuple[str, ...]) -> list[Layer]:
    """Install the wheels outside, where the index is known, and lay them where Debian's Python looks."""
    with tempfile.TemporaryDirectory(dir=blobs.parent) as folder:
        root, site = Path(folder), Path(folder) / SITE
        subprocess.run(
            [uv_program(), "pip", "install", "--quiet", "--target", str(site), "--python-version", PYTHON,
             "--only-binary", ":all:", "--link-mode", "copy", *wanted],
            check=True, env=uv_environment(), stdin=subprocess.DEVNULL, timeout=DEBIAN_SECONDS,
        )  # fmt: skip
        for name in ("bin", "etc", "share"):
            (site / name).rename(root / "usr" / "local" / name)
        for script in (root / "usr/local/bin").iterdir():
            lines = script.read_bytes().split(b"\n", 1)
            script.write_bytes(b"#!/usr/bin/python3\n" + lines[1])
            script.chmod(0o755)
        return [write_layer(blobs, folder_members(root))]
