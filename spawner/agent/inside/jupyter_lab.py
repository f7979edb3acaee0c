"""Start `jupyter lab` on a socket that is already listening, once the repository is there.

For: the agent, which copies this file into the session and starts it with the session's own Python.
Promises: no race for the port; the slow imports happen while Git still works; the server dies with its agent.
Must not know: anything but two inherited descriptors and the settings beside it.
"""

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Prepare, wait for the word, serve."""
    parent = int(os.environ.pop("SLIPWAY_AGENT"))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("The session's agent ended before its server began.")
    listening = socket.socket(fileno=int(os.environ.pop("SLIPWAY_LISTEN")))
    os.set_inheritable(listening.fileno(), False)  # noqa: FBT003 - positional only; kernels must not hold the port
    listening.settimeout(0)
    word = int(os.environ.pop("SLIPWAY_GO"))
    os.set_inheritable(word, False)  # noqa: FBT003 - positional only
    _skip_slow_imports()
    from jupyterlab.labapp import LabApp  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - slow: after the rest

    _serve_on(listening)
    if os.read(word, 1) != b"g":
        sys.exit("The session was stopped before its repository was there.")
    os.close(word)
    settings = Path(__file__).with_name("settings.py")
    LabApp.launch_instance(argv=[f"--config={settings}"])


def _skip_slow_imports() -> None:
    """Leave out what compiles a grammar of IRIs at import, for more than half of a server's start.

    jsonschema does without it, as where it is not installed: only the format "iri" goes unchecked, and no schema of
    the server names it. Kernels are processes of their own and import what they like.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type] # None means "cannot be imported"


def _serve_on(listening: socket.socket) -> None:
    """Have the server use our socket instead of looking for a port. Source: jupyter-server 2.0 to 2.21."""
    from jupyter_server.serverapp import ServerApp  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - as above

    if not (hasattr(ServerApp, "_find_http_port") and hasattr(ServerApp, "_bind_http_server_tcp")):
        listening.close()  # an unknown release: it binds the port of the settings itself
        return

    def keep_port(_app: Any) -> None:
        """Take the port as it is: it is ours already."""

    def add_socket(app: Any) -> bool:
        app.http_server.add_socket(listening)
        return True

    ServerApp._find_http_port = keep_port  # noqa: SLF001 - the one seam there is
    ServerApp._bind_http_server_tcp = add_socket  # noqa: SLF001 - as above


if __name__ == "__main__":
    main()
