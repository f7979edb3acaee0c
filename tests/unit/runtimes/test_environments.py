"""The cache of environments, with real wheels, real locks and a real uv, without an index.

Covers: installing, sharing, concurrency, a crash in the middle, refusals in words, room and what is in use.
Leaves out: the image's format (the builder's tests) and sessions (the contract suite).
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from uv import find_uv_bin

from spawner.errors import LaunchRefused, RuntimeUnavailable
from spawner.runtimes.standalone.environments import Environments, Unpacked
from spawner.runtimes.standalone.interpreters import Interpreters
from tests.contract.runtime.wheels import locked, make_wheel

_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
_A, _B, _C = (f"sha256:{letter * 64}" for letter in "abc")


@pytest.fixture
def environments(tmp_path: Path) -> Environments:
    """Make an empty cache whose uv never leaves the machine."""
    for name in ("environments", "interpreters"):
        (tmp_path / name).mkdir()
    uv = Path(find_uv_bin())
    variables = {"PATH": os.environ["PATH"], "UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "uv-cache")}
    interpreters = Interpreters(folder=tmp_path / "interpreters", uv=uv, for_everyone=False, variables=variables)
    return Environments(
        folder=tmp_path / "environments", interpreters=interpreters, uv=uv, variables=variables, limit_bytes=1 << 30
    )


def image(*, python: str = _MINOR, edit: Callable[[str], str] = str, more: str = "") -> Callable[[Path], Unpacked]:
    """Return what unpacks an image of one small wheel; `edit` changes its lock."""

    def unpack(folder: Path) -> Unpacked:
        wheel = make_wheel(folder / "wheels", "slipsample", "1.0", more=more)
        lock = folder / "requirements.lock"
        lock.write_text(edit(locked(wheel)), encoding="utf-8")
        return Unpacked(python=python, lock=lock, wheels=folder / "wheels", project="")

    return unpack


def hold(environments: Environments, digest: str, unpack: Callable[[Path], Unpacked]) -> Path:
    """Install an environment and let go of it."""
    found = environments.hold(digest, unpack)
    os.close(found.lock_descriptor)
    return found.path


def test_a_lock_becomes_an_environment(environments: Environments) -> None:
    """What the lock names is installed, compiled, and nothing of it can be written."""
    found = environments.hold(_A, image())
    os.close(found.lock_descriptor)
    done = subprocess.run(
        [found.path / "bin" / "python", "-c", "import slipsample; print(slipsample.VERSION, slipsample.__cached__)"],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip

    version, compiled = done.stdout.split()
    assert version == "1.0"
    assert Path(compiled).is_file()
    assert found.project == ""
    assert [path for path in found.path.rglob("*.py") if path.stat().st_mode & 0o222] == []
    assert list(environments.installed()) == ["a" * 64]


def test_it_is_installed_once(environments: Environments) -> None:
    """Eight launches at the same instant unpack and install an environment once, and all get it."""
    unpacked = []
    gate = threading.Barrier(8)

    def unpack(folder: Path) -> Unpacked:
        unpacked.append(folder)
        return image()(folder)

    def launch(_: int) -> Path:
        gate.wait(10)
        return hold(environments, _A, unpack)

    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(launch, range(8)))

    assert (len(unpacked), len(paths)) == (1, 1)


def test_it_is_prepared_before_anybody_asks(environments: Environments) -> None:
    """A prepared environment is there at the first launch; preparing it again, or beside an installation, is nothing."""
    unpacked = []

    def unpack(folder: Path) -> Unpacked:
        unpacked.append(folder)
        environments.prepare(_A, unpack)  # somebody else, at the same time
        return image()(folder)

    environments.prepare(_A, unpack)
    environments.prepare(_A, unpack)

    assert hold(environments, _A, unpack).is_dir()
    assert len(unpacked) == 1


def test_a_crash_in_the_middle_breaks_nothing(environments: Environments, tmp_path: Path) -> None:
    """A process killed while it installs leaves nothing that looks whole, no lock, and no draft after the next."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from spawner.runtimes.standalone.environments import Environments
from spawner.runtimes.standalone.interpreters import Interpreters
def unpack(folder):
    (folder / "half").write_text("half")
    print("installing", flush=True)
    sys.stdin.read()
folder, uv = Path({str(tmp_path)!r}), Path("uv")
found = Interpreters(folder=folder / "interpreters", uv=uv, for_everyone=False, variables={{}})
cache = Environments(folder=folder / "environments", interpreters=found, uv=uv, variables={{}}, limit_bytes=1)
cache.hold({_A!r}, unpack)
"""
    dying = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert dying.stdin is not None
    assert dying.stdout is not None
    assert dying.stdout.readline() == b"installing\n"
    dying.kill()
    dying.wait(10)
    dying.stdin.close()
    dying.stdout.close()

    assert not environments.has(_A)
    hold(environments, _A, image())
    assert environments.has(_A)
    assert [path.name for path in environments.folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("unpack", "words"),
    [
        (image(edit=lambda lock: lock.replace("sha256:", "sha256:0", 1)[:-2] + "\n"), "could not be installed"),
        (image(edit=lambda lock: lock.partition(" ")[0] + "\n"), "could not be installed"),
        (image(python="3.99"), "Python 3.99"),
    ],
    ids=["another hash", "no hash", "no such Python"],
)
def test_what_cannot_be_installed_is_said(
    environments: Environments, unpack: Callable[[Path], Unpacked], words: str
) -> None:
    """A lock that does not hold, or a Python that is not to be had, is refused in words and leaves nothing."""
    with pytest.raises(LaunchRefused, match=words):
        environments.hold(_A, unpack)

    assert sorted(path.name for path in environments.folder.iterdir()) == [f"{'a' * 64}.lock"]


def test_no_source_is_built(environments: Environments, tmp_path: Path) -> None:
    """A package that exists only as source is refused: nothing of it is run."""
    ran = tmp_path / "ran"

    def unpack(folder: Path) -> Unpacked:
        source = folder / "source" / "slipsource-1.0"
        source.mkdir(parents=True)
        (source / "setup.py").write_text(
            f"open({str(ran)!r}, 'w')\nfrom setuptools import setup\nsetup(name='slipsource')"
        )
        (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: slipsource\nVersion: 1.0\n")
        archive = folder / "wheels" / "slipsource-1.0.tar.gz"
        archive.parent.mkdir()
        subprocess.run(["tar", "czf", archive, "-C", source.parent, source.name], check=True, timeout=20)
        lock = folder / "requirements.lock"
        lock.write_text(locked(archive).replace("1.0.tar.gz", "1.0"), encoding="utf-8")
        return Unpacked(python=_MINOR, lock=lock, wheels=archive.parent, project=None)

    with pytest.raises(LaunchRefused):
        environments.hold(_A, unpack)
    assert not ran.exists()


def test_the_longest_unused_goes_first(environments: Environments) -> None:
    """Beyond its size the cache gives up what was used longest ago."""
    hold(environments, _A, image())
    hold(environments, _B, image())
    _used_at(environments, _A, 2_000.0)
    _used_at(environments, _B, 1_000.0)
    size = max(environments.installed().values())
    hold(replace(environments, limit_bytes=size), _C, image())

    assert sorted(environments.installed()) == ["a" * 64, "c" * 64]


def test_what_is_in_use_stays(environments: Environments) -> None:
    """An environment that a session holds is never removed, however old and however small the cache."""
    held = environments.hold(_A, image())
    hold(environments, _B, image())
    _used_at(environments, _A, 1_000.0)
    hold(replace(environments, limit_bytes=0), _C, image())

    assert sorted(environments.installed()) == ["a" * 64, "c" * 64]
    os.close(held.lock_descriptor)


def test_waiting_for_another_launch_has_an_end(environments: Environments) -> None:
    """Who waits for an installation that takes too long is told, and may try again."""
    began, end = threading.Event(), threading.Event()

    def slowly(folder: Path) -> Unpacked:
        began.set()
        end.wait(20)
        return image()(folder)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(hold, environments, _A, slowly)
        assert began.wait(10)
        with pytest.raises(RuntimeUnavailable, match="Another launch"):
            environments.hold(_A, image(), within_seconds=0.1)
        end.set()
        assert first.result(20) == environments.folder / ("a" * 64)


def _used_at(environments: Environments, digest: str, seconds: float) -> None:
    record = environments.folder / digest.removeprefix("sha256:") / "slipway-environment.json"
    os.utime(record, (seconds, seconds))
