"""The agent and a Python of its own, as one folder that runs in any image.

For: the docker runtime, which mounts it read-only; an image's own Python may be too old, or not there at all.
Promises: the spawner's own interpreter, its standard library, the C library it was made for and the agent's code,
nothing else; made once per interpreter and release, found whole or not at all; an image's libraries and variables
change nothing about it.
Must not know: containers, images.

How it works: the dynamic loader is started by name and told where the libraries are (ld.so(8), `--library-path`), so
that nothing of the image is looked at; children of the agent are started as the image has them.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from spawner import agent
from spawner.errors import Misconfigured, foreign

_LIBRARY = re.compile(r"(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)")
_ASK_SECONDS = 20.0
_UNUSED = shutil.ignore_patterns(
    "site-packages", "dist-packages", "test", "tests", "__pycache__", "config-*", "idlelib", "turtledemo", "tkinter",
    "ensurepip", "lib2to3", "unittest", "pydoc_data", "distutils", "*test*.so", "_tkinter*", "*.a",
)  # fmt: skip
_LOADER = "loader"
_LOADED_LATER = "libgcc_s.so.1"  # by the C library itself, when a thread ends: `ldd` does not name it
_FOLDER_NAME = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def ensure(folder: Path) -> Path:
    """Return the folder of this release's tools below `folder`, made when it is not there; raises Misconfigured."""
    target = folder / _identity()
    if not target.is_dir():
        draft = folder / f".{target.name}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            _make(draft)
            draft.rename(target)
        except OSError as exc:
            shutil.rmtree(draft, ignore_errors=True)
            if not target.is_dir():  # another process may have been quicker
                raise Misconfigured(f"The sessions' tools cannot be made in {folder}: {exc.strerror}.") from exc
    return target


def command(mounted: PurePosixPath, plan: PurePosixPath) -> list[str]:
    """Return what starts the agent on a plan, where the folder is mounted at `mounted`."""
    libraries = mounted / "lib"
    python = [str(libraries / _LOADER), "--library-path", str(libraries), str(mounted / "bin" / "python")]
    return [*python, "-I", "-S", "-B", "-m", agent.__name__, str(plan)]


def _identity() -> str:
    digest = hashlib.sha256(f"{sys.version} {sys.base_prefix} {platform.libc_ver()}".encode())
    for path in (Path(__file__), *_code()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _code() -> list[Path]:
    folder = Path(agent.__file__).parent
    ours = [path for path in folder.rglob("*") if path.suffix in {".py", ".json"}]
    return [folder.parent / "__init__.py", *sorted(ours)]


def _make(folder: Path) -> None:
    standard, program = Path(sysconfig.get_path("stdlib")), Path(sys.executable).resolve()
    library = folder / "lib" / _FOLDER_NAME
    (folder / "bin").mkdir(parents=True)
    folder.chmod(0o755)
    shutil.copyfile(program, folder / "bin" / "python")
    (folder / "bin" / "python").chmod(0o755)
    shutil.copytree(standard, library, ignore=_UNUSED)
    for path in _code():
        target = library / path.relative_to(Path(agent.__file__).parents[2])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for name, path in _libraries([program, *(library / "lib-dynload").glob("*.so")]):
        shutil.copyfile(path, folder / "lib" / name)
        (folder / "lib" / name).chmod(0o755)
    _compile(folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _libraries(programs: list[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the name and place of every shared library that some programs need, the loader as `_LOADER`."""
    asked = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
    )
    found = {match["path"]: match["name"] for match in _LIBRARY.finditer(asked.stdout)}
    if not any(name is None for name in found.values()):
        raise Misconfigured(
            "This Python names no dynamic loader, so no container can be given it.",
            remedy="Run the spawner on a Python that is linked to the GNU C library.",
        )
    for path, name in found.items():
        yield (_LOADER if name is None else name), Path(path)
        beside = Path(path).with_name(_LOADED_LATER)
        if name is not None and name.startswith("libc.so") and beside.exists():
            yield _LOADED_LATER, beside


def _compile(folder: Path) -> None:
    """Have the agent's modules, and what they import, compiled once: sessions cannot write there."""
    modules = Path(agent.__file__).parent.glob("[a-z]*.py")
    names = [agent.__name__, *(f"{agent.__name__}.{path.stem}" for path in modules)]
    program = [str(folder / "lib" / _LOADER), "--library-path", str(folder / "lib"), str(folder / "bin" / "python")]
    done = subprocess.run(
        [*program, "-I", "-S", "-c", f"import {', '.join(names)}"],
        env={},
        capture_output=True,
        text=True,
        timeout=_ASK_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise Misconfigured(
            f"This Python does not run outside its own folder: {foreign(done.stderr)[-200:]}",
            remedy="Run the spawner on another build of Python.",
        )
