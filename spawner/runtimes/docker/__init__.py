"""The runtime "docker": sessions as containers of this machine, of their commits' own images.

For: the entry point `spawner.runtimes`; `create` builds the runtime from values.
Promises: creating it makes folders and nothing else; nothing is asked of Docker until it is needed; without Docker's
library it says how to get it.
Must not know: settings.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spawner.errors import Misconfigured
from spawner.ports import Registry

if TYPE_CHECKING:
    from spawner.runtimes.docker.runtime import DockerRuntime

_LONGEST_SOCKET_PATH = 107  # bytes, unix(7)


def create(  # noqa: PLR0913 - the values of one runtime, all by keyword
    *,
    root: Path,
    instance: str,
    registry: Registry,
    host: str = "unix:///var/run/docker.sock",
    network: str = "",
    processes_limit: int = 2048,
    start_budget_seconds: float = 110.0,
) -> "DockerRuntime":
    """Return the runtime that keeps its tools, its logs and the spawner's socket below `root`.

    Docker must see `root` under the same path. Raises Misconfigured when the folders cannot be made, or Docker's
    library is not installed.
    """
    if find_spec("docker") is None:
        raise Misconfigured(
            "The runtime 'docker' needs Docker's own library.", remedy="Install slipway-spawner[docker]."
        )
    # Heavy, and needed only where this runtime is chosen.
    from spawner.runtimes.docker.containers import Place  # noqa: PLC0415
    from spawner.runtimes.docker.daemon import Daemon  # noqa: PLC0415
    from spawner.runtimes.docker.records import Records  # noqa: PLC0415
    from spawner.runtimes.docker.runtime import DockerRuntime  # noqa: PLC0415

    _make_folders(root)
    return DockerRuntime(
        place=Place(
            instance=instance,
            tools=root / "tools",
            spawner=root / "spawner",
            network=network_name(network, instance),
            processes_limit=processes_limit,
        ),
        daemon=Daemon(host),
        registry=registry,
        records=Records(folder=root / "workloads"),
        start_budget_seconds=start_budget_seconds,
    )


def network_name(given: str, instance: str) -> str:
    """Return the name of the network of an instance's sessions."""
    return given or f"slipway-{instance}"


def spawner_socket(root: Path) -> Path:
    """Return the socket at which containers look for the spawner, its folder made; raises Misconfigured."""
    path = root / "spawner" / "web.sock"
    if len(str(path).encode()) > _LONGEST_SOCKET_PATH:
        raise Misconfigured(f"The path {path} is too long for a socket.", remedy="Set a shorter SPAWNER_DOCKER__ROOT.")
    _make_folders(root)
    return path


def _make_folders(root: Path) -> None:
    """Make the folders: sessions' users pass through to tools and socket, the rest is ours alone."""
    try:
        for name, mode in {"": 0o711, "tools": 0o755, "spawner": 0o711, "workloads": 0o700}.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name).chmod(mode)
    except OSError as exc:
        raise Misconfigured(
            f"The folder {root} for sessions cannot be made: {exc.strerror}.", remedy="Name another one."
        ) from exc
