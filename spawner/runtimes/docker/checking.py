"""Whether Docker is there and keeps what this runtime promises, for `spawner doctor`.

Promises: looks, changes nothing; each finding says what to do when it is not right.
Must not know: how findings are shown.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spawner.runtimes.docker.daemon import Daemon
from spawner.runtimes.docker.runtime import SEPARATE

_LEAST_FREE_BYTES = 10_000_000_000  # a guess: two images of a common size
# What `docker info` says of the kernel, and what is lost without it. Source: Docker Engine API 1.41, `GET /info`.
_NEEDED = {
    "MemoryLimit": "limit a session's memory",
    "CPUCfsQuota": "limit a session's processors",
    "PidsLimit": "limit a session's processes",
    "BridgeNfIptables": "keep sessions' networks apart",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One thing that was looked at."""

    is_right: bool
    message: str
    remedy: str = ""


def check(*, host: str, network: str) -> Iterator[Look]:
    """Yield what is found; raises RuntimeUnavailable when Docker does not answer."""
    daemon = Daemon(host)
    yield Look(is_right=True, message=f"{daemon.version()} answers at {host}")
    told = daemon.information()
    lacking = [what for name, what in _NEEDED.items() if told.get(name) is False]
    for what in lacking:
        yield Look(
            is_right=False,
            message=f"cannot {what} on this machine",
            remedy="Look at `docker info`: it names the kernel's part that is missing.",
        )
    if not lacking:
        yield Look(is_right=True, message="limits memory, processors and processes, and keeps networks apart")
    yield from _network(daemon, network)
    yield from _space(told)


def _network(daemon: Daemon, network: str) -> Iterator[Look]:
    found = daemon.network(network)
    if found is not None and not SEPARATE.items() <= (found.get("Options") or {}).items():
        yield Look(
            is_right=False,
            message=f"the network {network} lets sessions reach each other",
            remedy=f"`docker network rm {network}`: it is made anew; or name another in SPAWNER_DOCKER__NETWORK.",
        )


def _space(told: Mapping[str, Any]) -> Iterator[Look]:
    folder = Path(str(told.get("DockerRootDir") or ""))
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    is_enough = free >= _LEAST_FREE_BYTES
    yield Look(
        is_right=is_enough,
        message=f"{folder}: {free / 1e9:.1f} GB free",
        remedy="" if is_enough else "Free some space (`docker image prune -a`): images and workspaces are kept there.",
    )
