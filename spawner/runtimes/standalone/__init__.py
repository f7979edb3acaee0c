"""The runtime "standalone": environments installed on this machine, sessions as its processes.

For: the entry point `spawner.runtimes`; `create` builds the runtime from values.
Promises: creating it makes folders and nothing else; nothing runs until `start`.
Must not know: settings.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from uv import find_uv_bin

from spawner.errors import Misconfigured
from spawner.ports import Registry
from spawner.runtimes.standalone.environments import Environments
from spawner.runtimes.standalone.installing import Installer
from spawner.runtimes.standalone.interpreters import Interpreters
from spawner.runtimes.standalone.people import People
from spawner.runtimes.standalone.records import Records
from spawner.runtimes.standalone.runtime import StandaloneRuntime

__all__ = ["StandaloneRuntime", "create"]

_GIBIBYTE = 1 << 30
_ELSEWHERE = Path("/var/lib/slipway")  # where root keeps what other users must reach


def create(  # noqa: PLR0913 - the values of one runtime, all by keyword
    *,
    root: Path,
    instance: str,
    registry: Registry,
    listen_host: str = "127.0.0.1",
    public_host_suffix: str = "localhost",
    environments_limit_bytes: int = 20 * _GIBIBYTE,
    start_budget_seconds: float = 110.0,
    variables: Mapping[str, str] | None = None,
    separates_people: bool | None = None,
) -> StandaloneRuntime:
    """Return the runtime that keeps everything below `root`.

    As root each person's sessions run under a user id of their own (`separates_people`), and what they must reach is
    kept below /var/lib/slipway where `root` itself cannot be reached by other users. `variables` are the machine's
    own (PATH, certificates, proxies, package indexes), those of this process when None.
    Raises Misconfigured when the folders cannot be made.
    """
    separates = os.geteuid() == 0 if separates_people is None else separates_people
    given = dict(os.environ) if variables is None else dict(variables)
    folder = _folder(root, for_everyone=separates)
    uv = _tool(folder / "tools", for_everyone=separates)
    given.setdefault("UV_CACHE_DIR", str(folder / "uv-cache"))
    return StandaloneRuntime(
        instance=instance,
        root=folder,
        registry=registry,
        listen_host=listen_host,
        public_host_suffix=public_host_suffix,
        environments=Environments(
            folder=folder / "environments",
            installer=Installer(
                interpreters=Interpreters(
                    folder=folder / "interpreters", uv=uv, for_everyone=separates, variables=given
                ),
                uv=uv,
                variables=given,
            ),
            limit_bytes=environments_limit_bytes,
        ),
        records=Records(folder=folder / "workloads"),
        people=People(folder=folder, separates=separates),
        uv=uv,
        variables=given,
        start_budget_seconds=start_budget_seconds,
    )


def _folder(root: Path, *, for_everyone: bool) -> Path:
    """Make the folders: what sessions reach may be passed through by all, the rest is ours alone."""
    chosen = root.resolve()
    try:
        chosen.mkdir(mode=0o711 if for_everyone else 0o700, parents=True, exist_ok=True)
        if for_everyone and not _can_be_passed(chosen.parent):
            chosen = _ELSEWHERE / hashlib.sha256(str(chosen).encode()).hexdigest()[:16]
            chosen.mkdir(mode=0o711, parents=True, exist_ok=True)
            _ELSEWHERE.chmod(0o711)
        passed = 0o711 if for_everyone else 0o700
        chosen.chmod(passed)
        places = {"environments": passed, "interpreters": passed, "workspaces": passed, "run": passed, "tools": passed}
        for name, mode in {**places, "workloads": 0o700, "uv-cache": 0o700}.items():
            (chosen / name).mkdir(exist_ok=True)
            (chosen / name).chmod(mode)
    except OSError as exc:
        raise Misconfigured(
            f"The folder {chosen} for sessions cannot be made: {exc.strerror}.", remedy="Name another one."
        ) from exc
    return chosen


def _can_be_passed(folder: Path) -> bool:
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def _tool(folder: Path, *, for_everyone: bool) -> Path:
    """Return a `uv` that sessions may run too: the one installed with us, or a copy where they cannot reach that."""
    installed = Path(find_uv_bin())
    if not for_everyone or _can_be_passed(installed.parent):
        return installed
    copy = folder / "uv"
    if not copy.is_file() or copy.stat().st_size != installed.stat().st_size:
        draft = copy.with_name(f".uv.{os.getpid()}")
        shutil.copyfile(installed, draft)
        draft.chmod(0o755)
        draft.replace(copy)
    return copy
