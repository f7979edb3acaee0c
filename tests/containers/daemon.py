"""A Docker daemon of a test run's own: own data, own socket, own bridge and addresses; ended by its process id.

It promises to leave nothing: containers, mounts, the bridge and the folder go with it. It touches no packet filter
(several daemons would overwrite each other's rules), so its containers reach this machine and each other's networks
no further than routes go; published ports work through Docker's own proxy. Needs root and Debian's docker.io.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START_SECONDS = 60.0
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A running daemon: its address as `DOCKER_HOST` has it, the name and address of its bridge, its folder."""

    address: str
    bridge: str
    gateway: str
    folder: Path

    def run(self, *arguments: str, seconds: float = 300) -> str:
        """Run `docker` against it; what it printed."""
        done = subprocess.run(
            ["docker", "--host", self.address, *arguments], check=False, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=seconds, env=self.environment(),
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
        return done.stdout.strip()

    def environment(self) -> dict[str, str]:
        """Return the environment of a client of it, without anybody's own settings."""
        return os.environ | {"DOCKER_HOST": self.address, "DOCKER_CONFIG": str(self.folder / "config")}


@contextlib.contextmanager
def docker_daemon(*, data_bytes: int | None = None) -> Iterator[Daemon]:
    """Run a daemon for as long as it is wanted; `data_bytes` is all the room that its images have."""
    programs = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    dockerd, ip = (shutil.which(name, path=programs) for name in ("dockerd", "ip"))
    if dockerd is None or ip is None or shutil.which("docker") is None:
        pytest.skip("no Docker: `apt-get install docker.io iproute2` brings it (scripts/install --dev does)")
    if os.geteuid() != 0:
        pytest.skip("a Docker daemon of our own needs root")
    folder = Path(tempfile.mkdtemp(prefix="slipway-docker-", dir="/tmp"))  # a socket's path has 107 characters at most
    first, second = 4 + secrets.randbelow(240), secrets.randbelow(256)  # several daemons may run at once
    bridge, gateway = f"slip{secrets.token_hex(4)}", f"10.{first}.{second}.1"
    daemon = Daemon(address=f"unix://{folder}/docker.sock", bridge=bridge, gateway=gateway, folder=folder)
    try:
        subprocess.run([ip, "link", "add", bridge, "type", "bridge"], check=True, timeout=30)
        subprocess.run([ip, "address", "add", f"{gateway}/24", "dev", bridge], check=True, timeout=30)
        subprocess.run([ip, "link", "set", bridge, "up"], check=True, timeout=30)
        if data_bytes is not None:
            (folder / "data").mkdir()
            room = ["mount", "-t", "tmpfs", "-o", f"size={data_bytes}", "tmpfs", str(folder / "data")]
            subprocess.run(room, check=True, timeout=30)
        with _running(daemon, dockerd, programs, pool=f"172.{16 + first % 16}.{second}.0/24"):
            yield daemon
    finally:
        subprocess.run([ip, "link", "delete", bridge], check=False, capture_output=True, timeout=30)
        _forget(folder)


@contextlib.contextmanager
def _running(daemon: Daemon, dockerd: str, programs: str, *, pool: str) -> Iterator[None]:
    folder = daemon.folder
    (folder / "config").mkdir()
    (folder / "daemon.json").write_text("{}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [dockerd, "--config-file", str(folder / "daemon.json"), "--host", daemon.address,
             "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"),
             "--pidfile", str(folder / "pid"), "--bridge", daemon.bridge, "--iptables=false", "--ip-masq=false",
             "--containerd-namespace", daemon.bridge, "--containerd-plugins-namespace", f"{daemon.bridge}-plugins",
             "--default-address-pool", f"base={pool},size=28"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"PATH": programs},
        )  # fmt: skip
        try:
            _await(daemon, process)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(STOP_SECONDS)


def _await(daemon: Daemon, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            daemon.run("version", seconds=10)
            return
        except (RuntimeError, subprocess.TimeoutExpired):
            if process.poll() is not None or time.monotonic() > end:
                said = (daemon.folder / "log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"dockerd did not start:\n{said}") from None
            time.sleep(0.1)


def _forget(folder: Path) -> None:
    """Unmount what is left below a folder, and remove it."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True, timeout=30)
    shutil.rmtree(folder, ignore_errors=True)
