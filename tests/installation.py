"""A whole spawner as processes: stand-in, web, and (with Celery) Redis, worker and beat, each of which can be killed.

For: functional tests, the kill matrix and benches. Promises: every part is a process of its own, told by its
environment as `spawner serve` is by an operator; ports stay over restarts; `stop` ends every process by its id,
sessions and agents included.
Must not know: any module of the spawner but its command line and its HTTP interface.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.servers import RedisServer, free_port

T = TypeVar("T")
START_SECONDS = 60.0
# What a sign-in asks for, and `api` for builds.
SCOPES = ("openid", "profile", "read_api", "read_repository", "write_repository", "read_registry", "api")
ENDED = ("GONE", "FAILED")


class NotYetError(AssertionError):
    """Something awaited did not come in time; the message says what was seen last."""


def wait_for(look: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Return the first answer of `look` that is not None; raises NotYetError naming `what`."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found = look()
        if found is not None:
            return found
        time.sleep(0.02)
    raise NotYetError(f"not within {seconds:g} s: {what}")


@dataclass(frozen=True, slots=True)
class Client:
    """One person at the HTTP interface."""

    url: str
    user: UserHandle
    http: requests.Session = field(default_factory=requests.Session)

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send a request with the person's token; `path` begins with `/`."""
        headers = {"Authorization": f"Bearer {self.user.token}", **more.pop("headers", {})}
        return self.http.request(method, f"{self.url}{path}", headers=headers, timeout=30, **more)

    def launch(self, project: ProjectHandle, sha: str, *, branch: str = "main", **fields: Any) -> dict[str, Any]:
        """Launch a commit; returns the server object."""
        namespace, _, name = project.path.rpartition("/")
        body = {"namespace": namespace, "project": name, "commit_sha": sha, "branch": branch, **fields}
        answer = self.call("POST", "/api/notebooks/servers", json=body)
        assert answer.status_code in {200, 201}, answer.text
        server: dict[str, Any] = answer.json()
        return server

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a server object, or None for a 404."""
        answer = self.call("GET", f"/api/notebooks/servers/{name}")
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        server: dict[str, Any] = answer.json()
        return server

    def phase(self, name: str) -> str:
        """Return a session's phase; GONE for a 404."""
        server = self.get(name)
        return "GONE" if server is None else str(server["slipway"]["phase"])

    def reaches(self, name: str, *phases: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until a session is in one of the phases; fails at once when it ends in another."""
        seen: list[str] = []

        def look() -> dict[str, Any] | None:
            try:
                server = self.get(name)
            except requests.RequestException:
                return None  # the web process is being killed, or is not back yet
            phase = "GONE" if server is None else str(server["slipway"]["phase"])
            if not seen or seen[-1] != phase:
                seen.append(phase)
            if phase in phases:
                return server or {}
            assert phase not in ENDED or phase == "GONE", f"{name}: {' '.join(seen)}: {server}"
            return None

        return wait_for(look, seconds=seconds, what=f"{name} in {'/'.join(phases)}; saw {seen}")

    def stop(self, name: str) -> int:
        """Stop a session; returns the status."""
        return self.call("DELETE", f"/api/notebooks/servers/{name}").status_code

    def events(self, name: str, *, until: str = "ready", seconds: float = 60.0) -> list[dict[str, Any]]:
        """Return a session's events from its first, up to `ready`, `failed` or `gone`."""
        found: list[dict[str, Any]] = []
        address = f"/api/notebooks/servers/{name}/events?until={until}"
        ends = time.monotonic() + seconds
        with self.call("GET", address, stream=True, headers={"Accept": "text/event-stream"}) as answer:
            answer.raise_for_status()
            event: dict[str, Any] = {}
            for line in answer.iter_lines(decode_unicode=True):
                assert time.monotonic() < ends, f"no end of the events within {seconds:g} s: {found}"
                name_, _, value = line.partition(": ")
                if name_ == "data":
                    event |= json.loads(value)
                elif name_ in {"event", "id"}:
                    event[name_] = value
                elif not line and event:
                    found.append(event)
                    event = {}
        return found

    def enter(self, name: str) -> tuple[str, dict[str, str]]:
        """Return the base URL of a running session for programs, and the headers it wants."""
        opened = self.call("POST", f"/api/notebooks/servers/{name}/open")
        assert opened.status_code == requests.codes.created, opened.text
        parts = urlsplit(opened.json()["url"])
        # A program's resolver need not know *.localhost; the Host header carries the name.
        address = f"http://127.0.0.1:{parts.port}{parts.path}?{parts.query}"
        answer = requests.get(address, headers={"Accept": "application/json", "Host": parts.netloc}, timeout=30)
        assert answer.ok, answer.text
        told = answer.json()
        return str(told["base_url"]), dict(told["headers"])


@dataclass(slots=True, kw_only=True)
class Installation:
    """One spawner with its parts."""

    data: Path
    stand_in: StandIn
    environment: Mapping[str, str]
    port: int
    with_celery: bool
    redis: RedisServer | None = None
    program: tuple[str, ...] = (sys.executable, "-m", "spawner")
    account: int | None = None  # the user id it runs under; None: ours
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the spawner answers."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, user: UserHandle) -> Client:
        """Return a person's client."""
        return Client(self.url, user)

    @property
    def parts(self) -> tuple[str, ...]:
        """The spawner's own processes, by name."""
        return ("web", "worker", "beat") if self.with_celery else ("web",)

    def start(self, *names: str) -> None:
        """Start parts (all when none is named) and wait until the web answers."""
        for name in names or self.parts:
            self.spawn(name)
        wait_for(self._answers, seconds=START_SECONDS, what=f"{self.url}/health; the log: {self.log('web')[-2000:]}")

    def spawn(self, name: str) -> None:
        """Start one part, the leader of a process group of its own, and wait for nothing."""
        command = [*self.program, "serve" if name == "web" else name]
        if name == "web" and not self.with_celery:
            command.append("--embedded")
        path = self.data / f"{name}.log"
        path.touch(mode=0o600)  # sessions of other users pass through this folder
        with path.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.account,
                group=self.account,
                extra_groups=None if self.account is None else [],
                start_new_session=True,
            )

    def _answers(self) -> bool | None:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended: {self.log(name)[-2000:]}"
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok or None
        except requests.RequestException:
            return None

    def log(self, name: str) -> str:
        """Return a part's log."""
        path = self.data / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self, name: str) -> None:
        """Kill a part, as a power cut would."""
        self.processes[name].kill()
        self.processes[name].wait(START_SECONDS)

    def stop(self) -> None:
        """End every process of the spawner by its id."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(15)
        self._end_sessions()

    def _end_sessions(self) -> None:
        """End the agents that a failed test left, each by its id; an agent ends its session with it."""
        instance = self.environment["SPAWNER_SESSIONS__INSTANCE"]
        for found in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = found.read_bytes().decode(errors="replace").split("\0")
                is_ours = "spawner.agent" in words and instance in (Path(words[-2]).parent / "record.json").read_text()
            except (OSError, IndexError):
                continue  # it has ended meanwhile, or was no agent
            if is_ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(found.parent.name), signal.SIGTERM)


def install(
    *,
    data: Path,
    stand_in: StandIn,
    database_url: str,
    root: Path,
    redis: RedisServer | None = None,
    settings: Mapping[str, str] | None = None,
) -> Installation:
    """Prepare (not start) a spawner; with a Redis its tasks run in Celery. `root` may be shared: it holds caches."""
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o711)
    port = free_port()
    callback = f"http://127.0.0.1:{port}/login/callback"
    client_id, client_secret = stand_in.add_application(callback, scopes=SCOPES)
    for name, secret in (("keys", secrets.token_urlsafe(48)), ("client-secret", client_secret)):
        (data / name).touch(mode=0o600)
        (data / name).write_text(secret + "\n")
    told = {
        "DATABASE__URL": database_url,
        "SESSIONS__PREPARE_DEFAULT_IMAGE": "false",  # most tests need none, and it is half a gigabyte
        "HTTP__PORT": str(port),
        "HTTP__PUBLIC_URL": f"http://127.0.0.1:{port}",
        "LIMITS__LAUNCHES_PER_MINUTE": "0",  # a suite launches faster than a person
        "GITLAB__URL": stand_in.url,
        "GITLAB__CLIENT_ID": client_id,
        "GITLAB__CLIENT_SECRET_FILE": str(data / "client-secret"),
        "SECRETS__KEY_FILE": str(data / "keys"),
        "SESSIONS__INSTANCE": f"t{secrets.token_hex(4)}",
        "SESSIONS__OBSERVE_SECONDS": "1",
        "SESSIONS__STOP_GRACE_SECONDS": "3",
        "STANDALONE__ROOT": str(root),
        "TASKS__DISPATCHER": "celery" if redis else "inprocess",
        **({"REDIS__URL": redis.url} if redis else {}),
        **(settings or {}),
    }
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SPAWNER_", "SLIPWAY_"))}
    environment = {**plain, **{f"SPAWNER_{name}": value for name, value in told.items()}}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    if redis:
        subprocess.run([sys.executable, "-m", "spawner", "migrate"], env=environment, check=True, timeout=180)
    return Installation(
        data=data,
        stand_in=stand_in,
        environment=environment,
        port=port,
        with_celery=redis is not None,
        redis=redis,
    )
