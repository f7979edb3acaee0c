"""Making a workload's agent: its plan, its port, its detached process.

For: the runtime's `start`.
Promises: the port is bound before its number is told to anyone, and handed on open; the agent belongs to nobody here
(the spawner may end, no zombie is left); nothing secret stands in an argument or a variable.
Must not know: what happens afterwards.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spawner import agent
from spawner.agent.plan import Plan
from spawner.errors import RuntimeUnavailable, foreign

_FORK_SECONDS = 10.0
_BACKLOG = 128
_RUN_LENGTH = 55  # what 107 bytes (unix(7)) leave beside `/kernel-<uuid>-ipc-<n>`
# The shell ends at once, so the agent has no parent here; the log is its only output.
_DETACH = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'
# Index addresses and certificates of the machine, so that `pip install` in a session works as it does outside it.
_INHERITED = (
    "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT",
    "NODE_EXTRA_CA_CERTS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that is ours: bound and listening, so that nobody can take it and early requests wait."""

    number: int
    listening: socket.socket


def open_port(host: str) -> Port:
    """Bind a free port; raises RuntimeUnavailable when the machine has none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.bind((host, 0))
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        raise RuntimeUnavailable(f"No port can be opened on {host}: {foreign(exc)}") from exc
    return Port(number=listening.getsockname()[1], listening=listening)


def run_folder(root: Path) -> Path:
    """Return a fresh, short path for a session's sockets: below `root`, else in the system's folder."""
    name = secrets.token_hex(5)
    below = root / "run" / name
    return below if len(str(below)) <= _RUN_LENGTH else Path(tempfile.gettempdir()) / f"slipway-{name}"


def inherited(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the few variables of the machine that sessions get; none that could hold a password."""
    return {name: variables[name] for name in _INHERITED if name in variables and "@" not in variables[name]}


def launch(plan: Plan, descriptors: Sequence[int], variables: Mapping[str, str]) -> int:
    """Start the agent of a plan, detached, and return its pid; it inherits the descriptors."""
    record = plan.record
    written = record / "plan.json"
    file = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(plan.dump())
    command = [sys.executable, "-S", "-m", agent.__name__, str(written)]
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(Path(agent.__file__).parents[2])}
    environment |= {name: variables[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "TZ") if name in variables}
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", _DETACH, "sh", str(record / "agent.log"), *command],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_FORK_SECONDS,
            check=True,
            start_new_session=True,
            pass_fds=tuple(descriptors),
            umask=0o077,
        )
        return int(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        written.unlink(missing_ok=True)
        raise RuntimeUnavailable(f"The session's agent could not be started: {foreign(exc)}") from exc
