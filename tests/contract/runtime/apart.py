"""A Docker daemon in a network namespace of its own, where it may filter packets without touching the machine's.

For: what only a daemon with its packet filter shows: that sessions do not reach each other. Its ports are not the
machine's, so nothing of it is reached from outside but its socket. Needs root and Debian's docker.io and iptables.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.daemon import Daemon

_START_SECONDS = 60.0
_PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_INSIDE = 'ip link set lo up && exec "$@"'


@contextlib.contextmanager
def daemon_apart() -> Iterator[Daemon]:
    """Run a daemon for as long as it is wanted; it and its namespace go together."""
    missing = [name for name in ("dockerd", "iptables", "unshare", "ip") if shutil.which(name, path=_PROGRAMS) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {' '.join(missing)}: `apt-get install docker.io iptables iproute2`")
    folder = Path(tempfile.mkdtemp(prefix="slipway-apart-"))
    daemon = Daemon(address=f"unix://{folder}/docker.sock", bridge="docker0", gateway="", folder=folder)
    (folder / "config").mkdir()
    (folder / "daemon.json").write_text("{}")
    command = [
        "unshare", "--net", "sh", "-c", _INSIDE, "sh", "dockerd", "--config-file", str(folder / "daemon.json"),
        "--host", daemon.address, "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"),
        "--pidfile", str(folder / "pid"), "--containerd-namespace", folder.name,
        "--containerd-plugins-namespace", f"{folder.name}-plugins",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": _PROGRAMS},
            start_new_session=True,
        )  # fmt: skip
        try:
            _await(daemon, process)
            yield daemon
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
            _forget(folder)


def _await(daemon: Daemon, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            daemon.run("version", seconds=10)
            return
        time.sleep(0.1)
    raise RuntimeError(f"dockerd did not start:\n{(daemon.folder / 'log').read_text(errors='replace')[-3000:]}")


def _forget(folder: Path) -> None:
    """Unmount what is left below a folder, and remove it."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True, timeout=30)
    shutil.rmtree(folder, ignore_errors=True)
