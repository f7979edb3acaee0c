"""`GitLabRegistry`: the Registry port over the OCI distribution protocol (`builder.oci`).

For: `spawner.images` asks it what images exist; `spawner.runtimes` for an environment image's manifest and blobs.
Promises: "does not exist" is None, "cannot be asked" is RegistryUnavailable; a person's token goes to registries of
this GitLab (set, or named by GitLab itself) and their token service, to every other registry nobody's; addresses on
this machine are asked only where they are such a registry; registry tokens are cached per person and scope.
Must not know: what images are for, projects, the database.
"""

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from builder.errors import RefusedError, RegistryError, UnauthorizedError, UnavailableError, UsageError
from builder.oci import Credentials, Manifest, RegistryClient, is_loopback
from builder.tags import Label
from spawner.errors import ImageUnavailable, ImageUnparsable, RegistryUnavailable, foreign
from spawner.ports import Credential, RegistryImage

_MOST_IDLE = 64
_RETRY_SECONDS = 5.0
_DOCKER_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_REFERENCE = re.compile(
    r"(?P<name>(?P<host>[A-Za-z0-9.-]+(?::[0-9]{1,5})?)/(?P<repository>[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*))"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class RegistryHosts:
    """The registries of one GitLab: those of the settings, and those that GitLab's own answers name. For threads."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)

    def learn(self, host: str) -> None:
        """Take a host that GitLab named as its registry."""
        self._hosts |= {host.lower()}

    def __contains__(self, host: object) -> bool:
        """Say whether a registry is one of this GitLab's."""
        return isinstance(host, str) and host.lower() in self._hosts


class GitLabRegistry:
    """Registries as people see them. `hosts` are those that may be shown a person's token for this GitLab."""

    def __init__(self, *, gitlab_url: str, hosts: RegistryHosts, timeout_seconds: float = 20.0) -> None:
        self._gitlab_host = urlsplit(gitlab_url).netloc
        self._hosts = hosts
        self._clients = _Clients(self._made)
        self._timeout_seconds = timeout_seconds

    def find(self, reference: str, credential: Credential | None) -> RegistryImage | None:
        """Return the image that a reference names, with its configuration's labels, or None.

        Raises ImageUnparsable, or RegistryUnavailable also where the registry refuses the person. A foreign registry
        that wants to know who asks has, for us, no such image.
        """
        parsed = _parsed(reference)
        with self._client(parsed, credential) as client:
            manifest = self._manifest(client, parsed)
            if manifest is None:
                return None
            labels = client.labels(parsed["repository"], manifest)
        return RegistryImage(
            name=parsed["name"], digest=manifest.digest, labels=labels, created_at=_moment(labels.get(Label.CREATED))
        )

    def tags(self, name: str, credential: Credential | None) -> Sequence[str]:
        """Return the tags of `host/repository`; empty when the repository does not exist. Raises as `find`."""
        parsed = _parsed(name)
        with self._client(parsed, credential) as client:
            return client.tags(parsed["repository"])

    def manifest(self, reference: str, credential: Credential | None) -> bytes:
        """Return the exact bytes of an image's manifest; raises ImageUnavailable (gone) or RegistryUnavailable."""
        parsed = _parsed(reference)
        with self._client(parsed, credential) as client:
            manifest = self._manifest(client, parsed)
        if manifest is None:
            raise _gone(reference)
        return manifest.content

    def save_blob(
        self, reference: str, digest: str, target: Path, *, largest_bytes: int, credential: Credential | None
    ) -> None:
        """Write one verified blob of an image to a new file.

        Raises ImageUnavailable (gone, larger than `largest_bytes`, or not what its digest says) or RegistryUnavailable.
        """
        parsed = _parsed(reference)
        with self._client(parsed, credential) as client:
            try:
                client.download(parsed["repository"], digest, target, largest_bytes=largest_bytes)
            except RefusedError as error:
                raise ImageUnavailable(f"The image {foreign(reference)} cannot be used: {error}") from error

    def _manifest(self, client: RegistryClient, parsed: "dict[str, str]") -> Manifest | None:
        try:
            return client.manifest(parsed["repository"], parsed["digest"] or parsed["tag"] or "latest")
        except UnauthorizedError:
            if parsed["host"] in self._hosts:
                raise
            return None

    @contextmanager
    def _client(self, parsed: "dict[str, str]", credential: Credential | None) -> Iterator[RegistryClient]:
        host = parsed["host"]
        is_ours = host in self._hosts
        if not is_ours and is_loopback(host):
            raise ImageUnparsable(f"{foreign(host)} is no registry that this service asks.")
        try:
            with self._clients.lent(host, credential if is_ours else None) as client:
                yield client
        except UnavailableError as error:
            seconds = _RETRY_SECONDS if error.retry_after_seconds is None else error.retry_after_seconds
            raise RegistryUnavailable(
                f"The registry cannot be asked: {error}", remedy="It is tried again.", retry_after_seconds=seconds
            ) from error
        except UsageError as error:
            raise ImageUnparsable(str(error)) from error
        except RegistryError as error:
            raise RegistryUnavailable(f"The registry does not answer this person: {error}") from error

    def _made(self, host: str, credential: Credential | None) -> RegistryClient:
        found = None if credential is None else Credentials(username="oauth2", password=credential.token)
        return RegistryClient(
            _DOCKER_HUB.get(host, host),
            credentials=lambda: found,
            trusted_hosts=(self._gitlab_host,),
            timeout_seconds=self._timeout_seconds,
        )


class _Clients:
    """Idle clients by host and person, each lent to one thread at a time, the least recently used ended first."""

    def __init__(self, make: Callable[[str, Credential | None], RegistryClient]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._idle: OrderedDict[tuple[str, str, int], RegistryClient] = OrderedDict()
        self._lent = 0
        self._process = os.getpid()

    @contextmanager
    def lent(self, host: str, credential: Credential | None) -> Iterator[RegistryClient]:
        """Lend a client of that host and person to the caller alone."""
        person = "" if credential is None else hashlib.sha256(credential.token.encode()).hexdigest()
        client = self._taken(host, person) or self._make(host, credential)
        try:
            yield client
        finally:
            for old in self._given_back(host, person, client):
                old.close()

    def _taken(self, host: str, person: str) -> RegistryClient | None:
        with self._lock:
            if self._process != os.getpid():
                self._process, self._idle = os.getpid(), OrderedDict()
            name = next((name for name in reversed(self._idle) if name[:2] == (host, person)), None)
            return None if name is None else self._idle.pop(name)

    def _given_back(self, host: str, person: str, client: RegistryClient) -> list[RegistryClient]:
        with self._lock:
            self._lent += 1
            self._idle[host, person, self._lent] = client
            surplus = max(0, len(self._idle) - _MOST_IDLE)
            return [self._idle.popitem(last=False)[1] for _ in range(surplus)]


def _parsed(reference: str) -> dict[str, str]:
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ImageUnparsable(
            f"“{foreign(reference)}” is not an image: host/repository:tag or host/repository@sha256:…."
        )
    return {name: value or "" for name, value in found.groupdict().items()}


def _gone(reference: str) -> ImageUnavailable:
    return ImageUnavailable(f"The image {foreign(reference)} is gone.", remedy="Launch again to choose anew.")


def _moment(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
