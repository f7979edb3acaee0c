"""Compiling: an environment's modules get their bytecode beside the sessions that use it already.

For: `environments` runs this file as a program of its own, with the environment's base Python (its version makes the
bytecode), isolated and without `site`, so that no module and no `.pth` of the environment is run.
Promises: standard library only; each file appears whole; the modules a server starts with come first; at the end the
folders are closed to their owner too and the record says so, with the new size. Killed, it leaves an environment that
works, and the next launch goes on.
Must not know: the spawner.
Usage: python -I -S compiling.py ENVIRONMENT
"""

import compileall
import json
import os
import sys
from pathlib import Path

RECORD = "slipway-environment.json"
_FIRST = ("jupyter", "ipykernel", "ipython", "notebook", "nb", "traitlets", "tornado", "zmq", "jedi", "parso", "prompt")


def compile_environment(place: Path) -> None:
    """Compile what lies below an environment's site-packages, close its folders, write its record anew; idempotent."""
    record = json.loads((place / RECORD).read_text(encoding="utf-8"))
    packages = sorted((place / record["site_packages"]).iterdir(), key=lambda path: (not _comes_first(path), path.name))
    for path in packages:
        if path.is_symlink():
            continue
        if path.is_dir():
            compileall.compile_dir(path, quiet=2, maxlevels=32)
        elif path.suffix == ".py":
            compileall.compile_file(path, quiet=2)
    record.update(size_bytes=_close(place), is_compiled=True)
    draft = place / f"{RECORD}.{os.getpid()}"
    draft.write_text(json.dumps(record), encoding="utf-8")
    draft.chmod((place / RECORD).stat().st_mode & 0o777)
    draft.replace(place / RECORD)


def _comes_first(path: Path) -> bool:
    return path.name.lower().startswith(_FIRST)


def _close(place: Path) -> int:
    """Close all but the environment's own folder to writers other than root; return the size of all files in bytes."""
    total = 0
    for folder, _, files in os.walk(place):
        for name in files:
            path = Path(folder) / name
            if path.is_symlink():
                continue
            total += path.stat().st_size
            if name.endswith(".pyc"):
                path.chmod(0o444)
        if Path(folder) != place:
            Path(folder).chmod(0o755 if os.geteuid() == 0 else 0o555)
    return total


if __name__ == "__main__":
    os.nice(19)
    compile_environment(Path(sys.argv[1]))
