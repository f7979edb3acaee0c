"""Serves a stand-in: one gunicorn with threads, GitLab and its registry on two ports, the runner beside it.

Promises: both ports are bound before anything else happens, so that port 0 has no race; `DATA/stand-in.json` (mode
0600) says where they are; at its end nothing is left running. A stand-in that was killed and is started on the same
folder goes on.
Must not know: routes.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication

from spawner.testing.gitlab import people, seed, tokens, trust
from spawner.testing.gitlab.access import user_by_name
from spawner.testing.gitlab.app import gitlab_app, registry_app
from spawner.testing.gitlab.background import Background
from spawner.testing.gitlab.instance import Instance, Limits, open_instance
from spawner.testing.gitlab.records import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import FrameType

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_THREADS = 48
_ENDING_SECONDS = 5
# What waits is mostly a runner that is held; it comes back.
_GRACE_SECONDS = 1
_RUNNER_REST_SECONDS = 1.0
_PDEATHSIG = 1
# What a job's package tools need to know of this machine: index, certificates, proxies, caches. No credential of ours.
_INHERITED = (
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_SYSTEM_CERTS"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "UV_CACHE_DIR", "XDG_CACHE_HOME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a stand-in is to be served; port 0 takes a free one."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    registry_port: int = 0
    external_url: str | None = None
    token_life_seconds: int = 7200
    stuck_seconds: float = 3600.0
    abandoned_seconds: float = 3600.0
    calls_per_hour: int = 1_000_000
    is_premium: bool = False
    seed: Path | None = None
    with_runner: bool = True
    may_pick_user: bool = False


def serve(options: Options) -> None:
    """Serve until a signal ends it."""
    os.umask(0o077)
    sockets = [_bound(options.host, options.port), _bound(options.host, options.registry_port)]
    gitlab_port, registry_port = (sock.getsockname()[1] for sock in sockets)
    url = options.external_url or f"http://{options.host}:{gitlab_port}"
    registry_url = f"http://{options.host}:{registry_port}"
    options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    _prepare(options, url, registry_url)
    # Gunicorn closes the descriptors it is given after it has made its own.
    descriptors = [sock.detach() for sock in sockets]
    _Server(options, descriptors, (url, registry_url), (gitlab_port, registry_port)).run()


def _prepare(options: Options, url: str, registry_url: str) -> None:
    """Make what must be there before the first request, in this process, and let go of the store again."""
    instance = _opened(options, url, registry_url)
    try:
        if user_by_name(instance, "root") is None:
            people.add_user(instance, "root", is_admin=True, name="Administrator")
        root = user_by_name(instance, "root")
        if root and not (options.data / "admin.token").exists():
            _keep(options.data / "admin.token", tokens.personal(instance, root, name="stand-in")[1])
        if not instance.store.all(Runner):
            _keep(options.data / "runner.token", tokens.runner(instance, description="shell")[1])
        _keep(options.data / "registry-auth.crt", trust.certificate(instance.key).decode())
        if options.seed:
            seed.plant(instance, json.loads(options.seed.read_text()))
    finally:
        instance.store.close()
    facts = {
        "url": url,
        "registry_url": registry_url,
        "pid": os.getpid(),
        "admin_token_file": str(options.data / "admin.token"),
    }
    _keep(options.data / "stand-in.json", json.dumps(facts))


class _Server(BaseApplication):  # type: ignore[misc]
    """Gunicorn with our sockets and our two applications."""

    def __init__(
        self, options: Options, descriptors: list[int], addresses: tuple[str, str], ports: tuple[int, int]
    ) -> None:
        self._options = options
        self._descriptors = descriptors
        self._addresses = addresses
        self._ports = ports
        self._runner = _RunnerKeeper(options, addresses[0])
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn up."""
        settings: dict[str, Any] = {
            "bind": [f"fd://{descriptor}" for descriptor in self._descriptors],
            "workers": 1,
            "threads": _THREADS,
            "worker_class": "gthread",
            "graceful_timeout": _GRACE_SECONDS,
            "timeout": 120,
            "keepalive": 30,
            "loglevel": "warning",
            "proc_name": "gitlab-stand-in",
            "control_socket_disable": True,
            "when_ready": lambda _: self._runner.start(),
            "on_exit": lambda _: self._runner.stop(),
            "post_fork": lambda _server, _worker: _die_with_parent(),
        }
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
        """Make the applications, in the worker."""
        instance = _opened(self._options, *self._addresses)
        apps = dict(zip(self._ports, (gitlab_app(instance), registry_app(instance)), strict=True))
        Background(instance).start()
        for number in (signal.SIGTERM, signal.SIGQUIT):
            _wake_first(instance, number)

        def by_port(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            return apps[int(environ["SERVER_PORT"])](environ, start_response)

        return by_port


class _RunnerKeeper:
    """Keeps one runner process alive while the server lives."""

    def __init__(self, options: Options, url: str) -> None:
        self._options = options
        self._url = url
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start keeping."""
        if self._options.with_runner:
            threading.Thread(target=self._keep, daemon=True).start()

    def stop(self) -> None:
        """End the runner and wait for it."""
        self._stopping.set()
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _keep(self) -> None:
        data = self._options.data
        command = [
            *(sys.executable, "-m", "spawner.testing.gitlab.runner", "--url", self._url),
            *("--token-file", str(data / "runner.token"), "--data", str(data / "runner")),
            *(f"--inherit={name}" for name in _INHERITED if name in os.environ),
        ]
        while not self._stopping.is_set():
            with (data / "runner.log").open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 - it only sets a death signal
                )
            (data / "runner.pid").write_text(str(self._process.pid))
            self._process.wait()
            self._stopping.wait(_RUNNER_REST_SECONDS)


def _opened(options: Options, url: str, registry_url: str) -> Instance:
    limits = Limits(
        token_life_seconds=options.token_life_seconds,
        stuck_seconds=options.stuck_seconds,
        abandoned_seconds=options.abandoned_seconds,
        calls_per_hour=options.calls_per_hour,
        is_premium=options.is_premium,
    )
    instance = open_instance(data=options.data, url=url, registry_url=registry_url, limits=limits)
    instance.switches.may_pick_user = options.may_pick_user
    return instance


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.set_inheritable(True)
    return sock


def _keep(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.touch(mode=0o600)
    partial.write_text(text)
    partial.rename(path)


def _wake_first(instance: Instance, number: signal.Signals) -> None:
    """Before gunicorn's own handler, let go of the requests that are held, so that the end need not wait for them."""
    inner = signal.getsignal(number)

    def woken(given: int, frame: FrameType | None) -> None:
        instance.store.wake()
        if callable(inner):
            inner(given, frame)

    signal.signal(number, woken)


def _die_with_parent() -> None:
    """End this process when its parent dies, even when that was killed (Linux; elsewhere this does nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)
