"""The published `renku` command line, 2.9.4 from the package index, against our API over TLS on port 443.

Covered: session start, ls, open, stop, with one of our own tokens; exactly what it asks of us.
Left out: pause and resume (there is no hibernation yet); its own login.
"""

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from werkzeug.serving import make_server

from spawner.names import CommitSha, SessionName
from spawner.ports import AccessLevel
from spawner.store.engine import open_engine
from spawner.users.model import SignIn
from tests.functional.api.conftest import client_of
from tests.functional.api.world import World, make_world, world_options

pytestmark = pytest.mark.network
RENKU = "renku==2.9.4"
INSTALL_SECONDS = 240
COMMAND_SECONDS = 120


@pytest.fixture(scope="session")
def renku(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client in an environment of its own: it wants Python 3.11 at most, and old libraries."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("renku 2.9.4 needs Python 3.11: run these tests with it")
    folder = tmp_path_factory.mktemp("renku")
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True, timeout=60)
    install = [uv, "pip", "install", "-q", "--python", str(folder / "bin/python"), RENKU, "setuptools<80"]
    done = subprocess.run(install, check=False, timeout=INSTALL_SECONDS, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{RENKU} cannot be installed from the package index: {done.stderr[-300:]}")
    return folder / "bin/renku"


def _certificate(folder: Path) -> ssl.SSLContext:
    """Write a certificate of `localhost` that is its own authority, and return the server's side of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "ca.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, private, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


@pytest.fixture
def front(sqlite_url: str, tmp_path: Path) -> Iterator[World]:
    """A spawner behind TLS on port 443, the only one that the client can reach."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 443))
        except OSError as error:
            pytest.skip(f"port 443 of the loopback cannot be had ({error}): run as root, with nothing else on it")
    engine = open_engine(sqlite_url)
    world = make_world(engine, options=replace(world_options(), public_url="https://localhost"))
    world.add_person("ada")
    world.dispatcher.start(world.services)
    server = make_server("127.0.0.1", 443, world.app, threaded=True, ssl_context=_certificate(tmp_path))
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield world
    server.shutdown()
    server.server_close()
    serving.join(10)
    world.dispatcher.stop(timeout_seconds=10)
    engine.dispose()


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, check=False, timeout=COMMAND_SECONDS, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def _project(renku: Path, folder: Path, environment: Mapping[str, str]) -> CommitSha:
    """Make a Renku project whose remote is ours by name, and a folder in fact; returns its commit."""
    (folder / "proj").mkdir()
    for key, value in (("user.name", "Ada"), ("user.email", "ada@people.test"), ("init.defaultBranch", "main")):
        _run(["git", "config", "--global", key, value], folder, environment)
    instead = f"url.{folder}/bare.git.insteadOf"
    _run(["git", "config", "--global", instead, "https://localhost/grp/proj.git"], folder, environment)
    _run(["git", "init", "-q", "--bare", "bare.git"], folder, environment)
    init = [str(renku), "init", "--template-id", "python-minimal", "--name", "proj", "-p", "description=x", "."]
    _run(init, folder / "proj", environment)
    _run(["git", "remote", "add", "origin", "https://localhost/grp/proj.git"], folder / "proj", environment)
    _run(["git", "push", "-q", "-u", "origin", "main"], folder / "proj", environment)
    return CommitSha(_run(["git", "rev-parse", "HEAD"], folder / "proj", environment).strip())


def _home(world: World, folder: Path) -> dict[str, str]:
    """Give the client a home with one of our own tokens, made by a person who has signed in."""
    sign_in = SignIn(state="s", verifier="v", redirect_uri="x", return_to="/")
    world.services.users.finish_sign_in(code="ada", state="s", sign_in=sign_in)
    made = client_of(world, "ada").post("/api/slipway/v1/tokens", json={"name": "renku"}).json
    assert made is not None
    settings = folder / "home/.renku/renku.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[renku]\nendpoint = https://localhost\n[http]\nlocalhost = {made['token']}\n")
    settings.chmod(0o600)
    return {
        "HOME": str(folder / "home"),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "REQUESTS_CA_BUNDLE": str(folder / "ca.pem"),
        "RENKU_DISABLE_VERSION_CHECK": "1",
    }


def test_session(renku: Path, front: World, tmp_path: Path) -> None:
    """The client starts a session of its commit, lists it, opens its page and stops it."""
    environment = _home(front, tmp_path)
    sha = _project(renku, tmp_path, environment)
    project = front.add_project(members={"ada": AccessLevel.DEVELOPER})
    commit = next(iter(project.commits.values()))
    project.commits[sha] = replace(commit, sha=sha)
    project.branches["main"] = sha
    project.project = replace(project.project, registry_image="registry.localhost/grp/proj")
    labels = {"io.slipway.kind": "environment", "io.slipway.environment-key": "k"}
    front.registry.put(f"registry.localhost/grp/proj:{sha}-environment", labels)
    own = tmp_path / "proj"
    session = [str(renku), "-S", "session"]

    def answer() -> None:
        (name,) = front.until(lambda: list(front.runtime.workloads), seconds=COMMAND_SECONDS)
        front.be_ready(SessionName(name))

    agent = threading.Thread(target=answer, daemon=True)
    agent.start()
    _run([*session, "start", "-p", "renkulab"], own, environment)
    agent.join(10)
    listed = _run([*session, "ls", "-p", "renkulab"], own, environment)
    assert "(running, renkulab)" in listed
    assert sha in listed
    _run([*session, "open", "-p", "renkulab"], own, {**environment, "BROWSER": "true"})
    _run([*session, "stop", "-p", "renkulab"], own, environment)
    assert "running" not in _run([*session, "ls", "-p", "renkulab"], own, environment)
