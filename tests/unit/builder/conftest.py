"""Real repositories and a real registry for the builder's tests."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.unit.builder.commits import Repository, await_true
from tests.unit.builder.tokens import ISSUER, SERVICE, TokenService, token_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository on `main`."""
    path = tmp_path / "repository"
    path.mkdir()
    made = Repository(path=path)
    made.git("init", "--quiet", "--initial-branch=main")
    made.git("config", "uploadpack.allowFilter", "true")
    made.git("config", "uploadpack.allowAnySHA1InWant", "true")
    return made


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry on loopback, without accounts; its `host:port`."""
    with _registry(tmp_path_factory.mktemp("registry"), "") as address:
        yield address


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A real registry that wants tokens: its `host:port`, and the service that gives them."""

    address: str
    service: TokenService

    @property
    def token_host(self) -> str:
        """Where its token service listens."""
        return f"127.0.0.1:{self.service.port}"


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A real registry that checks real tokens: ada may push, eve may only pull."""
    folder = tmp_path_factory.mktemp("guarded")
    rights = {"ada": frozenset({"pull", "push"}), "eve": frozenset({"pull"})}
    with token_service({"ada": "ada-secret", "eve": "eve-secret"}, rights) as service:
        (folder / "root.pem").write_bytes(service.certificate)
        realm = f"http://127.0.0.1:{service.port}/jwt/auth"
        auth = (
            f"auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER}, "
            f"rootcertbundle: {folder}/root.pem}}}}\n"
        )
        with _registry(folder, auth) as address:
            yield Guarded(address=address, service=service)


@contextlib.contextmanager
def _registry(folder: Path, more: str) -> Iterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry: install Debian's package of that name (scripts/install does)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "config.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{more}"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(settings)], stdout=log, stderr=log)
        try:
            await_true(lambda: _answers(f"http://127.0.0.1:{port}/v2/"), "the registry")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True  # it wants a token: it answers
    except OSError:
        return False
