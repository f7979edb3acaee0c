"""The cache of environments, with real wheels, real locks and a real uv, without an index.

Covers: installing, sharing, concurrency, a crash in the middle, refusals in words, room and what is in use.
Leaves out: the image's format (the builder's tests) and sessions (the contract suite).
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from uv import find_uv_bin

from spawner.errors import LaunchRefused, RuntimeUnavailable
from spawner.runtimes.standalone import locks
from spawner.runtimes.standalone.environments import AT_ONCE, Environments, Installed
from spawner.runtimes.standalone.installing import Installer, Unpacked
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
    installer = Installer(interpreters=interpreters, uv=uv, variables=variables)
    return Environments(folder=tmp_path / "environments", installer=installer, limit_bytes=1 << 30)


def image(*, python: str = _MINOR, edit: Callable[[str], str] = str, more: str = "") -> Callable[[Path], Unpacked]:
    """Return what unpacks an image of one small wheel; `edit` changes its lock."""

    def unpack(folder: Path) -> Unpacked:
        wheel = make_wheel(folder / "wheels", "slipsample", "1.0", more=more)
        lock = folder / "requirements.lock"
        lock.write_text(edit(locked(wheel)), encoding="utf-8")
        return Unpacked(python=python, lock=lock, wheels=folder / "wheels", project="")

    return unpack


def slow_image(folder: Path) -> Unpacked:
    """Unpack an image whose lock is a pipe: uv reads it for as long as nobody writes."""
    unpacked = image()(folder)
    unpacked.lock.unlink()
    os.mkfifo(unpacked.lock)
    return unpacked


def uv_processes(environments: Environments) -> list[str]:
    """Return the running programs that know the folder."""
    found = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line.decode() for line in found if b"uv" in line and str(environments.folder).encode() in line]


def installed(environments: Environments, digest: str, unpack: Callable[[Path], Unpacked]) -> Installed:
    """Install an environment and hold it; patient, as a session is that is put off."""
    ends = time.monotonic() + 20
    while True:
        try:
            for _ in environments.ensure(digest, unpack):
                pass
            return environments.hold(digest)
        except RuntimeUnavailable:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


def hold(environments: Environments, digest: str, unpack: Callable[[Path], Unpacked]) -> Path:
    """Install an environment and let go of it, once it is compiled."""
    found = installed(environments, digest, unpack)
    compiled = locks.take(found.path.with_name(f"{found.path.name}.compiling.lock"), within_seconds=20)
    assert compiled is not None, "not compiled within 20 s"
    assert "is_compiled" in (found.path / "slipway-environment.json").read_text()
    os.close(compiled)
    os.close(found.lock_descriptor)
    return found.path


def test_a_lock_becomes_an_environment(environments: Environments) -> None:
    """What the lock names is installed, compiled, and nothing of it can be written."""
    found = installed(environments, _A, image())
    assert hold(environments, _A, image()) == found.path
    os.close(found.lock_descriptor)
    done = subprocess.run(
        [found.path / "bin" / "python", "-c", "import slipsample; print(slipsample.VERSION, slipsample.__cached__)"],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip

    version, compiled = done.stdout.split()
    assert version == "1.0"
    assert Path(compiled).is_file()
    assert found.project == ""
    assert [path for path in found.path.rglob("*.py*") if path.stat().st_mode & 0o222] == []
    assert list(environments.installed()) == ["a" * 64]


def test_nothing_of_a_package_is_run(environments: Environments, tmp_path: Path) -> None:
    """Installing and compiling run no `.pth` of a package: that would be a stranger's code with our rights."""
    ran = tmp_path / "ran"

    def unpack(folder: Path) -> Unpacked:
        wheel = make_wheel(folder / "wheels", "slippth", "1.0", pth=f"import os; open({str(ran)!r}, 'w').close()\n")
        lock = folder / "requirements.lock"
        lock.write_text(locked(wheel), encoding="utf-8")
        return Unpacked(python=_MINOR, lock=lock, wheels=folder / "wheels", project="")

    place = hold(environments, _A, unpack)
    assert not ran.exists()
    subprocess.run([place / "bin" / "python", "-c", ""], timeout=20, check=True)
    assert ran.exists(), "the .pth is none that Python runs"


def test_it_is_installed_once(environments: Environments) -> None:
    """Eight launches at the same instant unpack and install an environment once, and all get it."""
    unpacked = []
    gate = threading.Barrier(8)

    def unpack(folder: Path) -> Unpacked:
        unpacked.append(folder)
        return image()(folder)

    def launch(_: int) -> Path:
        gate.wait(30)
        return hold(environments, _A, unpack)

    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(launch, range(8)))

    assert (len(unpacked), len(paths)) == (1, 1)


def test_it_is_prepared_before_anybody_asks(environments: Environments) -> None:
    """A prepared environment is there at the first launch; preparing twice, or beside an installation, does nothing."""
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
from spawner.runtimes.standalone.installing import Installer
from spawner.runtimes.standalone.interpreters import Interpreters
def unpack(folder):
    (folder / "half").write_text("half")
    print("installing", flush=True)
    sys.stdin.read()
folder, uv = Path({str(tmp_path)!r}), Path("uv")
found = Interpreters(folder=folder / "interpreters", uv=uv, for_everyone=False, variables={{}})
installer = Installer(interpreters=found, uv=uv, variables={{}})
cache = Environments(folder=folder / "environments", installer=installer, limit_bytes=1)
for _ in cache.ensure({_A!r}, unpack):
    pass
"""
    dying = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert dying.stdin is not None
    assert dying.stdout is not None
    assert dying.stdout.readline() == b"installing\n"
    dying.kill()
    dying.wait(30)
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
        installed(environments, _A, unpack)

    assert sorted(path.name for path in environments.folder.iterdir()) == [f"{'a' * 64}.lock", "installing-0.lock"]


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
        installed(environments, _A, unpack)
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
    held = installed(environments, _A, image())
    hold(environments, _B, image())
    _used_at(environments, _A, 1_000.0)
    hold(replace(environments, limit_bytes=0), _C, image())

    assert sorted(environments.installed()) == ["a" * 64, "c" * 64]
    os.close(held.lock_descriptor)


def test_nobody_waits_for_another(environments: Environments) -> None:
    """Who comes while an environment is installed, or while enough others are, is told at once and may come again."""
    others = [environments.ensure(digest, slow_image) for digest in (_A, _B)]
    for each in others:
        next(each)
    assert len(others) == AT_ONCE

    with pytest.raises(RuntimeUnavailable, match="Another launch"):
        next(environments.ensure(_A, image()))
    with pytest.raises(RuntimeUnavailable, match="this one is next"):
        next(environments.ensure(_C, image()))
    for each in others:
        each.close()

    assert hold(environments, _C, image()).is_dir()


def test_giving_up_ends_the_installation(environments: Environments) -> None:
    """Who closes the iterator has uv ended, and leaves nothing behind."""
    installing = environments.ensure(_A, slow_image)
    next(installing)
    assert uv_processes(environments) != []
    installing.close()

    assert uv_processes(environments) == []
    assert not environments.has(_A)
    assert [path.name for path in environments.folder.iterdir() if path.suffix != ".lock"] == []


def test_installing_has_an_end(environments: Environments) -> None:
    """An installation that takes too long ends in words."""
    with pytest.raises(RuntimeUnavailable, match="takes too long"):
        list(environments.ensure(_A, slow_image, within_seconds=0.1))


def _used_at(environments: Environments, digest: str, seconds: float) -> None:
    record = environments.folder / digest.removeprefix("sha256:") / "slipway-environment.json"
    os.utime(record, (seconds, seconds))
