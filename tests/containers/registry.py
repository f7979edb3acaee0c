"""Real registries on loopback: an open one, and one that wants tokens. Debian's `docker-registry` runs both.

`127.0.0.0/8` counts as a host that plain http is spoken to, for Docker, buildah and our own client alike.
"""

import contextlib
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.oci import Credentials, RegistryClient
from tests.unit.builder.commits import await_true
from tests.unit.builder.tokens import ISSUER, SERVICE, TokenService, token_service

PASSWORDS: Mapping[str, str] = {"ada": "ada-secret", "eve": "eve-secret"}
RIGHTS = {"ada": frozenset({"pull", "push"}), "eve": frozenset({"pull"})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A real registry that wants tokens: its `host:port`, the service that gives them, the folder of its blobs."""

    address: str
    service: TokenService
    storage: Path

    @property
    def token_host(self) -> str:
        """Where its token service listens."""
        return f"127.0.0.1:{self.service.port}"

    def client(self, user: str = "ada") -> RegistryClient:
        """Speak to it as one of its users."""
        found = Credentials(username=user, password=PASSWORDS[user])
        return RegistryClient(self.address, credentials=lambda: found, trusted_hosts=[self.token_host])


@contextlib.contextmanager
def open_registry(folder: Path) -> Iterator[str]:
    """Run a registry without accounts; its `host:port`."""
    with _registry(folder, "") as address:
        yield address


@contextlib.contextmanager
def guarded_registry(folder: Path) -> Iterator[Guarded]:
    """Run a registry that checks real tokens: ada may push, eve may only pull."""
    with token_service(PASSWORDS, RIGHTS) as service:
        (folder / "root.pem").write_bytes(service.certificate)
        realm = f"http://127.0.0.1:{service.port}/jwt/auth"
        auth = (
            f"auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER}, "
            f"rootcertbundle: {folder}/root.pem}}}}\n"
        )
        with _registry(folder, auth) as address:
            yield Guarded(address=address, service=service, storage=folder / "data")


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
            process.wait(timeout=10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True  # it wants a token: it answers
    except OSError:
        return False
