"""Installs gitlab-ci-local once per lock file and runs it.

The package and its hash are in `package-lock.json` beside this module, without any address, so npm takes it from
the registry that this machine is set up for. It is installed by `npm ci` into
`$XDG_CACHE_HOME/slipway/gitlab-ci-local/<hash of the lock>`; the folder appears by one rename, under a file lock,
so two processes may ask at once and a crash in the middle leaves nothing that looks finished.

Promises: `run` answers what the program printed, or raises one of the two errors below, in words.
Must not know: what `.gitlab-ci.yml` means.
Source: https://github.com/firecow/gitlab-ci-local, version 4.75.1.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from spawner.testing.gitlab.node import Node, find_node

_HERE = Path(__file__).parent
_INSTALL_SECONDS = 180
_RUN_SECONDS = 60
_LAST_CHARACTERS = 500
# Node brings its own list of authorities; the machine's own must count too, or a registry of the house is not trusted.
# npm's pauses between tries are 10 and 60 s by default, too long for somebody who waits.
_NPM_SETTINGS = {
    "NODE_USE_SYSTEM_CA": "1",
    "npm_config_fetch_retry_mintimeout": "1000",
    "npm_config_fetch_retry_maxtimeout": "5000",
}
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What the program says when all is well, or about a checkout that has no such remote; never the reason of a failure.
_NOISE = re.compile(
    r"^(parsing and downloads finished|json schema validated|Unable to retrieve default remote|Using fallback git"
    r"|\s+Command failed with exit code|fatal: ref refs/remotes/origin/HEAD|error: No such remote|downloaded "
    r"|Cloning into |Avoid overriding predefined variables|For further troubleshooting|\s+•\s(Copy|Use) |\s+at \w)"
)


class InstallError(RuntimeError):
    """gitlab-ci-local could not be installed; the message says why and what to do."""


class RefusedError(RuntimeError):
    """gitlab-ci-local refused the configuration; the message is its own sentence."""


def install() -> Path:
    """Return the installed program's script, installing it first when this machine has never done so.

    Idempotent, and safe for any number of processes at once.

    Raises:
        InstallError: npm failed, timed out or left no program behind.
        NodeMissingError: no Node.js of the needed age is on this machine.
    """
    digest = hashlib.sha256()
    for name in ("package.json", "package-lock.json"):
        digest.update((_HERE / name).read_bytes())
    cache = _cache_folder()
    target = cache / digest.hexdigest()[:16]
    script = target / "node_modules" / "gitlab-ci-local" / "dist" / "index.js"
    if script.is_file():
        return script
    with _locked(cache / "install.lock"):
        if not script.is_file():
            _install_into(target, cache=cache, script=script, node=find_node())
    return script


def run(arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> str:
    """Run gitlab-ci-local in `folder` and return the YAML or JSON document that it printed.

    Raises:
        RefusedError: the program ended with an error, which is the message.
        InstallError: the program cannot be installed, or did not end within a minute.
        NodeMissingError: no Node.js of the needed age is on this machine.
    """
    script, node = install(), find_node()
    surroundings = {
        "PATH": f"{node.program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "NODE_COMPILE_CACHE": str(script.parents[3] / "compiled"),
        "GIT_TERMINAL_PROMPT": "0",
        **environment,
    }
    try:
        ended = subprocess.run(
            [str(node.program), str(script), "--cwd", ".", *arguments],
            cwd=folder, env=surroundings, capture_output=True, text=True, timeout=_RUN_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise InstallError(f"gitlab-ci-local did not end within {_RUN_SECONDS} s.") from exc
    if ended.returncode < 0:
        raise InstallError(f"gitlab-ci-local was ended by signal {-ended.returncode}; is the memory exhausted?")
    if ended.returncode != 0:
        raise RefusedError(_reason(ended.stderr or ended.stdout))
    return _document(ended.stdout)


def has_passed(digest: str) -> bool:
    """Say whether a configuration of this hash has passed the program's schema on this machine before.

    The check costs as much as all the rest of a run, so it is done once per text.
    """
    return (_passed_folder() / digest).exists()


def note_passed(digest: str) -> None:
    """Remember that a configuration of this hash passes the schema; idempotent."""
    _passed_folder().mkdir(exist_ok=True)
    (_passed_folder() / digest).touch()


def _passed_folder() -> Path:
    return install().parents[3] / "passed"


def _document(printed: str) -> str:
    """Cut away the warnings that the program prints in front of what it was asked for."""
    start = re.search(r"^(---$|\[)", printed, re.MULTILINE)
    if start is None:
        raise RefusedError(_reason(printed))
    return printed[start.start() :]


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "slipway" / "gitlab-ci-local"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install_into(target: Path, *, cache: Path, script: Path, node: Node) -> None:
    with tempfile.TemporaryDirectory(prefix="installing-", dir=cache) as staging_name:
        staging = Path(staging_name) / target.name
        staging.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_HERE / name, staging / name)
        _npm_ci(staging, node=node)
        if not (staging / script.relative_to(target)).is_file():
            raise InstallError("npm ended well, but gitlab-ci-local is not where it belongs; is its lock file damaged?")
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)


def _npm_ci(folder: Path, *, node: Node) -> None:
    path = f"{node.program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    command = [
        *node.npm,
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--omit=dev",
        "--prefer-offline",
    ]
    try:
        ended = subprocess.run(
            command, cwd=folder, env={**os.environ, "PATH": path, **_NPM_SETTINGS},
            capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise InstallError(f"npm could not install gitlab-ci-local within {_INSTALL_SECONDS} s: {exc}.") from exc
    if ended.returncode != 0:
        raise InstallError(
            "npm could not install gitlab-ci-local, which reads .gitlab-ci.yml. Is the npm registry reachable? "
            f"npm said: {_ANSI.sub('', ended.stderr).strip()[-_LAST_CHARACTERS:]}"
        )


def _reason(printed: str) -> str:
    lines = [line for line in _ANSI.sub("", printed).splitlines() if line.strip() and not _NOISE.match(line)]
    text = "\n".join(lines).strip()
    if len(text) > 2 * _LAST_CHARACTERS:
        text = f"{text[:_LAST_CHARACTERS]} ... {text[-_LAST_CHARACTERS:]}"
    return text or "gitlab-ci-local ended with an error and no message."
