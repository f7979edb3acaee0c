"""The published `renku` command line against us: start, list, stop, with one of our own tokens.

Covered: the side endpoints that it calls, https on port 443 with a test CA, its way to read the project from Git,
its own image guess (which is no request), one way of running (SQLite, tasks in the web process).
Left out: pause and resume (there is no hibernation yet), its sign-in by device code (we are no Keycloak).
"""

import base64
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from uv import find_uv_bin

from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.functional.environment_images import push_image
from tests.functional.signing_in import sign_in
from tests.functional.tls_front import Front, free_address, tls_front
from tests.installation import Client, install, wait_for
from tests.surroundings import Folder

pytestmark = pytest.mark.network

# Its own requirements name no bound: cwl-utils wants `pkg_resources`, which newer setuptools lack.
REQUIREMENTS = ("renku==2.9.4", "setuptools<81")
PYTHON = "3.11"  # the newest that it runs on
PASSWORD = "a-person's-own-1"
INSTALL_SECONDS = 280.0
COMMAND_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Renku:
    """The client in a person's folder. `checkout` is a Renku project whose remote is the stand-in's."""

    program: Path
    checkout: Path
    environment: Mapping[str, str]

    def __call__(self, *arguments: str) -> str:
        """Run a command; returns all it printed, and fails with that when the command does."""
        done = _run([str(self.program), *arguments], self.checkout, self.environment)
        assert done.returncode == 0, f"renku {' '.join(arguments)}: {done.stdout}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        """Run Git in the checkout."""
        done = _run(["git", *arguments], self.checkout, self.environment)
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stdout}"
        return done.stdout.strip()


def _run(
    command: list[str], folder: Path, environment: Mapping[str, str], *, seconds: float = COMMAND_SECONDS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.fixture(scope="module")
def program() -> Path:
    """The client, installed once per machine: kept by what it was installed from."""
    name = hashlib.sha256("\n".join((PYTHON, *REQUIREMENTS)).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway" / "renku-client"
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "whole").exists():
            _install(place)
            (place / "whole").touch()
    return place / "bin" / "renku"


def _install(place: Path) -> None:
    uv = find_uv_bin()
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", PYTHON, str(place)],
        [uv, "pip", "install", "--quiet", "--python", str(place / "bin" / "python"), *REQUIREMENTS],
    ):
        done = _run(command, place.parent, os.environ, seconds=INSTALL_SECONDS)
        if done.returncode != 0:
            pytest.skip(f"renku 2.9.4 cannot be installed (package index, Python {PYTHON}): {done.stdout[-400:]}")


@pytest.fixture(scope="module")
def address() -> str:
    """One host for GitLab and the spawner: the client asks the project's Git host for the project's id."""
    return free_address()


@pytest.fixture(scope="module")
def forge(address: str, folder: Folder) -> Iterator[StandIn]:
    """A stand-in at that host; its runner is not needed."""
    with StandIn.start(data=folder("gitlab"), host=address, runner=False) as started:
        yield started


@pytest.fixture(scope="module")
def ada(forge: StandIn) -> UserHandle:
    """The person at the client."""
    return forge.add_user("ada", password=PASSWORD)


@pytest.fixture(scope="module")
def at_ada(forge: StandIn, ada: UserHandle, standalone_root: Path, folder: Folder) -> Iterator[Client]:
    """A running spawner, as its person sees it."""
    data = folder("spawner")
    made = install(data=data, stand_in=forge, database_url=f"sqlite:///{data}/slipway.db", root=standalone_root)
    try:
        made.start()
        yield made.client(ada)
    finally:
        made.stop()


@pytest.fixture(scope="module")
def front(address: str, at_ada: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The spawner behind TLS on port 443."""
    port = urlsplit(at_ada.url).port or 0
    with tls_front(address, port=port, folder=tmp_path_factory.mktemp("tls")) as opened:
        yield opened


@pytest.fixture(scope="module")
def project(forge: StandIn, ada: UserHandle) -> ProjectHandle:
    """A private project."""
    return forge.add_project("ada/glacier", owner=ada)


@pytest.fixture(scope="module")
def renku(
    program: Path,
    forge: StandIn,
    project: ProjectHandle,
    at_ada: Client,
    front: Front,
    tmp_path_factory: pytest.TempPathFactory,
) -> Renku:
    """A Renku project, made by the client itself, pushed, and signed in with one of our own tokens."""
    home = tmp_path_factory.mktemp("home")
    checkout = home / "glacier"
    checkout.mkdir()
    # A token of ours acts with what GitLab granted when its person signed in.
    sign_in(at_ada.url, forge.url, username=project.owner.username, password=PASSWORD)
    made = at_ada.call("POST", "/api/slipway/v1/tokens", json={"name": "renku", "expires_in_days": 1})
    assert made.status_code == requests.codes.created, made.text
    (home / ".renku").mkdir(mode=0o700)
    settings = home / ".renku" / "renku.ini"
    settings.write_text(f"[renku]\nendpoint = {front.url}\n\n[http]\n{front.address} = {made.json()['token']}\n")
    settings.chmod(0o600)
    _sign_in_to_git(home, forge, project.owner)
    client = Renku(program=program, checkout=checkout, environment=_environment(home, forge, front))
    client("-S", "init", "-t", "minimal", "--description", "Ice", "--initial-branch", "main")
    client.git("remote", "add", "origin", project.http_url)
    client.git("push", "--quiet", "--set-upstream", "-o", "ci.skip", "origin", "main")
    return client


def _sign_in_to_git(home: Path, forge: StandIn, user: UserHandle) -> None:
    """Write a person's Git settings; the client reads the file itself, so variables would not do."""
    pair = base64.b64encode(f"oauth2:{user.token}".encode()).decode()
    settings = home / ".gitconfig"
    settings.write_text(
        f'[user]\n\tname = Ada\n\temail = ada@example.com\n[http "{forge.url}"]\n'
        f"\textraHeader = Authorization: Basic {pair}\n"
    )
    settings.chmod(0o600)


def _environment(home: Path, forge: StandIn, front: Front) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "200",
        "PYTHONWARNINGS": "ignore",
        "REQUESTS_CA_BUNDLE": str(front.ca_file),
        "RENKU_IMAGE_REGISTRY": urlsplit(forge.registry_url).netloc,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


def _only_name(client: Client) -> str | None:
    servers = client.call("GET", "/api/notebooks/servers").json()["servers"]
    return next(iter(servers), None) if len(servers) == 1 else None


@pytest.mark.timeout(600)
def test_start_list_stop(renku: Renku, forge: StandIn, project: ProjectHandle, at_ada: Client) -> None:
    """`renku session start`, `ls` and `stop` each do on our service what they say."""
    sha = renku.git("rev-parse", "HEAD")
    digest = push_image(forge, project, sha)

    # The client waits for `running` alone, for five minutes: a failed start must be seen here, with its words.
    with ThreadPoolExecutor(max_workers=1) as aside:
        starting = aside.submit(renku, "session", "start", "-p", "renkulab", "--cpu", "0.5")
        name = wait_for(lambda: _only_name(at_ada), seconds=COMMAND_SECONDS, what="a session of the client's")
        server = at_ada.reaches(name, "RUNNING", seconds=COMMAND_SECONDS)
        started = starting.result(COMMAND_SECONDS)
    assert f"Session {name} successfully started" in started
    assert (server["status"]["state"], server["annotations"]["renku.io/commit-sha"]) == ("running", sha)
    assert (server["slipway"]["image"]["source"], server["slipway"]["image"]["digest"]) == ("exact", digest)

    listed = renku("session", "ls", "-p", "renkulab")
    line = next((line for line in listed.splitlines() if name in line), "")
    assert "running" in line, listed

    stopped = renku("session", "stop", "-p", "renkulab", name)
    assert "successfully stopped" in stopped, stopped
    assert at_ada.phase(name) == "GONE"
    assert name not in renku("session", "ls", "-p", "renkulab")
