"""Where the demo stands: its ports, its folder, and `demo.json`, which tells others.

Promises: ports are free when they are picked; the folder is traversable but not listable by others (sessions may run
under other user ids) and private inside; `demo.json` has mode 0600, appears whole, and is gone at the end.
Must not know: what runs on the ports.
"""

import ipaddress
import json
import shutil
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spawner.cli.exits import CommandFailed, ExitCode

DEFAULT_PORT = 8000
_FOLDER_MODE = 0o711


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """One port per part."""

    spawner: int
    gitlab: int
    registry: int
    redis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Host, ports and folder of one demo."""

    host: str
    ports: Ports
    data: Path
    is_temporary: bool

    def url(self, port: int) -> str:
        """Return the URL of a part."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"

    @property
    def description(self) -> Path:
        """The file that tells others where everything is."""
        return self.data / "demo.json"

    def log(self, name: str) -> Path:
        """Return a part's log."""
        return self.data / "logs" / f"{name}.log"

    def describe(self, document: Mapping[str, Any]) -> None:
        """Write `demo.json` whole, readable by its owner only."""
        partial = self.description.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.rename(self.description)

    def clear(self) -> None:
        """Remove `demo.json`, and the whole folder when it was ours to make."""
        self.description.unlink(missing_ok=True)
        if self.is_temporary:
            for folder in [
                self.data,
                *(path for path in self.data.rglob("*") if path.is_dir() and not path.is_symlink()),
            ]:
                folder.chmod(0o700)  # environments are read-only, also to us
            shutil.rmtree(self.data, ignore_errors=True)


def pick(*, host: str, port: int, data: Path | None) -> Places:
    """Choose ports and folder; raises CommandFailed when a port is taken or the host is no loopback address."""
    _check_host(host)
    ports = _free_ports(host) if port == 0 else _wanted_ports(host, port)
    folder = data.absolute() if data is not None else Path(tempfile.mkdtemp(prefix="slipway-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(_FOLDER_MODE)
    return Places(host=host, ports=ports, data=folder, is_temporary=data is None)


def _check_host(host: str) -> None:
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise CommandFailed(
            f"The demo listens on loopback only, and {host!r} is not.",
            code=ExitCode.USAGE,
            remedy="To serve others, see docs/how-to/serve.md; to look from elsewhere, forward the ports by ssh.",
        )


def _free_ports(host: str) -> Ports:
    with ExitStack() as open_sockets:
        found = [open_sockets.enter_context(_bound(host, 0)).getsockname()[1] for _ in range(4)]
    return Ports(spawner=found[0], gitlab=found[1], registry=found[2], redis=found[3])


def _wanted_ports(host: str, first: int) -> Ports:
    with ExitStack() as open_sockets:
        for port in range(first, first + 3):
            try:
                open_sockets.enter_context(_bound(host, port))
            except OSError as exc:
                raise CommandFailed(
                    f"Port {port} of {host} cannot be taken: {exc.strerror}.",
                    remedy="`--port N` takes N, N+1 and N+2; `--port 0` picks free ones.",
                ) from exc
        redis = open_sockets.enter_context(_bound(host, 0)).getsockname()[1]
    return Ports(spawner=first, gitlab=first + 1, registry=first + 2, redis=redis)


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
