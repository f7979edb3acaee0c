"""The parts of a demo as command lines: stand-in, spawner, and for Celery a Redis, a worker and a beat.

Promises: each part is told by its environment alone; secrets are private files; a part counts as ready when it answers.
Must not know: how parts are watched or seeded.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import requests

from spawner.cli.demo.people import Seeded
from spawner.cli.demo.places import Places
from spawner.cli.demo.tree import Part
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.config import PREFIX, make_key_file

_PROBE_SECONDS = 2.0
_MIGRATE_SECONDS = 60.0


def spawner_settings(places: Places, seeded: Seeded, *, dispatcher: str, build_job: str) -> dict[str, str]:
    """Write the spawner's secrets into private files and return its settings."""
    private = places.data / "secrets"
    private.mkdir(mode=0o700, exist_ok=True)
    make_key_file(private / "keys")
    hook_secret = private / "webhook-secret"
    if not hook_secret.exists():
        _write(hook_secret, secrets.token_urlsafe(32))
    _write(private / "client-secret", seeded.client_secret)
    database = places.data / "database"
    database.mkdir(mode=0o700, exist_ok=True)  # sessions of other user ids pass through the folder above
    settings = {
        "DATABASE__URL": f"sqlite:///{database}/slipway.db",
        "HTTP__HOST": places.host,
        "HTTP__PORT": str(places.ports.spawner),
        "HTTP__PUBLIC_URL": places.url(places.ports.spawner),
        "GITLAB__URL": places.url(places.ports.gitlab),
        "GITLAB__CLIENT_ID": seeded.client_id,
        "GITLAB__CLIENT_SECRET_FILE": str(private / "client-secret"),
        "GITLAB__WEBHOOK_SECRET_FILE": str(hook_secret),
        "SECRETS__KEY_FILE": str(private / "keys"),
        "STANDALONE__ROOT": str(places.data / "standalone"),
        "STANDALONE__HOST": "127.0.0.1" if places.host == "localhost" else places.host,
        "SESSIONS__START_BUDGET_SECONDS": "300",  # the first environment of a slow machine is installed within it
        "IMAGES__BUILD_JOB": build_job,
        "TASKS__DISPATCHER": dispatcher,
    }
    if dispatcher == "celery":
        settings["REDIS__URL"] = f"redis://127.0.0.1:{places.ports.redis}/0"
        settings["REDIS__PASSWORD_FILE"] = str(private / "redis-password")
        _write(private / "redis-password", secrets.token_urlsafe(32))  # sessions reach its port too
    return {f"{PREFIX}{name}": value for name, value in settings.items()}


def _write(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(secret + "\n", encoding="utf-8")


class Parts:
    """The parts of one demo."""

    def __init__(self, places: Places, settings: Mapping[str, str], *, dispatcher: str) -> None:
        self._places = places
        self._with_celery = dispatcher == "celery"
        # The person's own SLIPWAY_ and SPAWNER_ variables are about another spawner.
        plain = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "SLIPWAY_"))}
        # `builder` and `spawner` of this installation come first for CI jobs too.
        plain["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{plain.get('PATH', os.defpath)}"
        self._plain = plain
        self._told = {**plain, **settings}

    def migrate(self) -> None:
        """Bring the database to this release, where the spawner does not do so itself."""
        if not self._with_celery:
            return
        command = [sys.executable, "-m", "spawner", "migrate"]
        done = subprocess.run(
            command, env=self._told, capture_output=True, text=True, timeout=_MIGRATE_SECONDS, check=False
        )
        if done.returncode != 0:
            raise CommandFailed(f"The database could not be made: {done.stderr.strip()[-500:]}")

    def in_order(self) -> Iterator[Part]:
        """Yield the parts in the order in which they have to start."""
        yield self._stand_in()
        if self._with_celery:
            yield self._redis()
        yield self._spawner()
        if self._with_celery:
            yield self._task_process("worker", b"worker_process_started")
            yield self._task_process("beat", b"")

    def _stand_in(self) -> Part:
        ports = self._places.ports
        command = [sys.executable, "-m", "spawner.testing.gitlab", "--host", self._places.host]
        command += ["--port", str(ports.gitlab), "--registry-port", str(ports.registry)]
        command += ["--data", str(self._places.data / "gitlab")]
        url = self._places.url(ports.gitlab)
        return Part(
            name="gitlab",
            command=command,
            environment=self._plain,
            log=self._places.log("gitlab"),
            is_ready=_answers(f"{url}/-/readiness", f"{self._places.url(ports.registry)}/v2/"),
            restarts=True,
        )

    def _spawner(self) -> Part:
        command = [sys.executable, "-m", "spawner", "serve", *([] if self._with_celery else ["--embedded"])]
        return Part(
            name="spawner",
            command=command,
            environment=self._told,
            log=self._places.log("spawner"),
            is_ready=_answers(f"{self._places.url(self._places.ports.spawner)}/health"),
            restarts=True,
        )

    def _task_process(self, name: str, said: bytes) -> Part:
        command = [sys.executable, "-m", "spawner", name]
        log = self._places.log(name)
        return Part(
            name=name,
            command=command,
            environment=self._told,
            log=log,
            is_ready=lambda: log.is_file() and said in log.read_bytes(),
            restarts=True,
        )

    def _redis(self) -> Part:
        program = shutil.which("redis-server", path=f"{self._plain['PATH']}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise CommandFailed(
                "The dispatcher 'celery' needs a Redis server, and `redis-server` is not here.",
                code=ExitCode.UNAVAILABLE,
                remedy="Install it (Debian: `apt-get install redis-server`), or use `--dispatcher inprocess`.",
            )
        folder = self._places.data / "redis"
        folder.mkdir(mode=0o700, exist_ok=True)
        port = self._places.ports.redis
        password = (self._places.data / "secrets" / "redis-password").read_text(encoding="ascii").strip()
        told = {"port": port, "bind": "127.0.0.1", "dir": f'"{folder}"', "save": '""', "appendonly": "no"}
        lines = [f"{name} {value}" for name, value in (told | {"requirepass": password}).items()]
        _write(folder / "redis.conf", "\n".join(lines))  # an argument would show the password to every user
        return Part(
            name="redis",
            command=[program, str(folder / "redis.conf")],
            environment=self._plain,
            log=self._places.log("redis"),
            is_ready=lambda: _listens(port),
            restarts=True,
        )


def _answers(*urls: str) -> Callable[[], bool]:
    def look() -> bool:
        try:
            # A registry without a token says 401, which is an answer too.
            return all(requests.get(url, timeout=_PROBE_SECONDS).status_code in {200, 401} for url in urls)
        except requests.RequestException:
            return False

    return look


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(_PROBE_SECONDS)
        return probe.connect_ex(("127.0.0.1", port)) == 0
