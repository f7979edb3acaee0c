"""`GitLabRegistry`: the Registry port over the OCI distribution protocol (`builder.oci`).

For: `spawner.images` asks it what images exist; `spawner.runtimes` for an environment image's manifest and blobs.
Promises: "does not exist" is None, "cannot be asked" is RegistryUnavailable; a person's token goes to registries that
this GitLab itself named and to their token service; registries that the operator allows are asked as nobody, others not
at all; registry tokens are cached per person and scope.
Must not know: what images are for, projects, the database.
"""

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from builder.errors import LostError, RefusedError, RegistryError, UnauthorizedError, UnavailableError, UsageError
from builder.oci import Credentials, Manifest, RegistryClient
from builder.tags import Label
from spawner.errors import (
    Forbidden,
    ImageUnavailable,
    ImageUnparsable,
    NotFound,
    RegistryRefused,
    RegistryUnavailable,
    foreign,
)
from spawner.gitlab import shapes
from spawner.gitlab.transport import Transport
from spawner.ports import Credential, CredentialKind, Login, RegistryImage

_MOST_IDLE = 64
_RETRY_SECONDS = 5.0
_USERNAME = "oauth2"  # GitLab looks at the token alone; this one is right for each kind
_DOCKER_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_REFERENCE = re.compile(
    r"(?P<name>(?P<host>[A-Za-z0-9.-]+(?::[0-9]{1,5})?)/(?P<repository>[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*))"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class RegistryHosts:
    """The registries of one GitLab, as it named them, and those that the operator allows besides. For threads.

    Only the first are ever shown a person's token; only the two are asked at all.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(host.lower() for host in allowed)
        self._ours: frozenset[str] = frozenset()

    def learn(self, host: str) -> None:
        """Take a host that GitLab's own answer named as its registry."""
        self._ours |= {host.lower()}

    def is_ours(self, host: str) -> bool:
        """Say whether a registry is this GitLab's."""
        return host.lower() in self._ours

    def is_allowed(self, host: str) -> bool:
        """Say whether a registry may be asked without a token."""
        return host.lower() in self._allowed


class _NotAskedError(Exception):
    """A registry that is neither GitLab's nor allowed."""


class GitLabRegistry:
    """Registries as people see them: GitLab's own with the person's token, allowed ones with nobody's, no others."""

    def __init__(
        self, *, gitlab_url: str, hosts: RegistryHosts, timeout_seconds: float = 20.0, ca_file: str | None = None
    ) -> None:
        self._gitlab_host = urlsplit(gitlab_url).netloc
        self._gitlab = Transport(gitlab_url, timeout_seconds=timeout_seconds, ca_file=ca_file)
        self._hosts = hosts
        self._clients = _Clients(self._made)
        self._timeout_seconds = timeout_seconds
        self._ca_file = ca_file

    def find(self, reference: str, credential: Credential | None) -> RegistryImage | None:
        """Return the image that a reference names, with its configuration's labels, or None.

        Raises ImageUnparsable, RegistryUnavailable, or RegistryRefused by GitLab's own. A registry that
        is not allowed, and an allowed one that wants to know who asks, have, for us, no such image; nor is one an
        image whose configuration is lost. Any other answer that cannot be followed says nothing about the image.
        """
        parsed = _parsed(reference)
        try:
            with self._client(parsed, credential) as client:
                manifest = self._manifest(client, parsed)
                if manifest is None:
                    return None
                labels = self._labels(client, parsed["repository"], manifest)
        except _NotAskedError:
            return None
        if labels is None:
            return None
        return RegistryImage(
            name=parsed["name"], digest=manifest.digest, labels=labels, created_at=_moment(labels.get(Label.CREATED))
        )

    def tags(self, name: str, credential: Credential | None) -> Sequence[str]:
        """Return the tags of `host/repository`; empty when the repository does not exist. Raises as `find`."""
        parsed = _parsed(name)
        try:
            with self._client(parsed, credential) as client:
                return client.tags(parsed["repository"])
        except _NotAskedError:
            return ()

    def manifest(self, reference: str, credential: Credential | None) -> bytes:
        """Return the exact bytes of an image's manifest; raises ImageUnavailable (gone) or RegistryUnavailable."""
        parsed = _parsed(reference)
        try:
            with self._client(parsed, credential) as client:
                manifest = self._manifest(client, parsed)
        except _NotAskedError as error:
            raise _gone(reference) from error
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
        try:
            with self._client(parsed, credential) as client:
                try:
                    client.download(parsed["repository"], digest, target, largest_bytes=largest_bytes)
                except RefusedError as error:
                    raise ImageUnavailable(f"The image cannot be used: {error}", remedy="Launch again.") from error
        except _NotAskedError as error:
            raise _gone(reference) from error

    def login(self, reference: str, credential: Credential | None) -> Login | None:
        """Return what a container runtime may be told: the person's token for GitLab's own registry, else nothing."""
        parsed = _parsed(reference)
        is_ours = self._hosts.is_ours(parsed["host"]) or self._is_named_by_gitlab(parsed, credential)
        if not is_ours or credential is None or credential.kind is CredentialKind.NONE:
            return None
        return Login(username=credential.username or _USERNAME, password=credential.token)

    def _labels(self, client: RegistryClient, repository: str, manifest: Manifest) -> Mapping[str, str] | None:
        try:
            return client.labels(repository, manifest)
        except LostError:
            return None

    def _manifest(self, client: RegistryClient, parsed: "dict[str, str]") -> Manifest | None:
        try:
            return client.manifest(parsed["repository"], parsed["digest"] or parsed["tag"] or "latest")
        except UnauthorizedError:
            if self._hosts.is_ours(parsed["host"]):
                raise
            return None

    @contextmanager
    def _client(self, parsed: "dict[str, str]", credential: Credential | None) -> Iterator[RegistryClient]:
        """Lend a client that may ask; raises `_NotAskedError`, and the registry's errors as ours."""
        host = parsed["host"]
        is_ours = self._hosts.is_ours(host) or self._is_named_by_gitlab(parsed, credential)
        if not is_ours and not self._hosts.is_allowed(host):
            raise _NotAskedError(host)
        with _mapped(), self._clients.lent(host, credential if is_ours else None) as client:
            yield client

    def _is_named_by_gitlab(self, parsed: "dict[str, str]", credential: Credential | None) -> bool:
        """Ask GitLab whether the repository is a project's and lies on that host; a process that has just begun must.

        The host's own word would prove nothing: it could send us for a token that opens somebody's real repository.
        """
        if credential is None or credential.kind is CredentialKind.DEPLOY or self._hosts.is_allowed(parsed["host"]):
            return False
        for path in _project_paths(parsed["repository"]):
            try:
                found = self._gitlab.request(credential, "get", f"/projects/{quote(path, safe='')}").json()
            except (NotFound, Forbidden):
                continue
            except ValueError as error:
                raise RegistryUnavailable("GitLab did not say which registry is its own.") from error
            named = shapes.optional(found if isinstance(found, dict) else {}, "container_registry_image_prefix")
            if named is not None:
                self._hosts.learn(named.partition("/")[0])
            return self._hosts.is_ours(parsed["host"])
        return False

    def _made(self, host: str, credential: Credential | None) -> RegistryClient:
        found = None
        if credential is not None and credential.kind is not CredentialKind.NONE:
            found = Credentials(username=credential.username or _USERNAME, password=credential.token)
        return RegistryClient(
            _DOCKER_HUB.get(host, host),
            credentials=lambda: found,
            trusted_hosts=(self._gitlab_host,),
            timeout_seconds=self._timeout_seconds,
            ca_file=self._ca_file,
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


@contextmanager
def _mapped() -> Iterator[None]:
    """Turn the registry client's errors into ours."""
    try:
        yield
    except UnavailableError as error:
        seconds = _RETRY_SECONDS if error.retry_after_seconds is None else error.retry_after_seconds
        raise RegistryUnavailable(
            f"The registry cannot be asked: {error}", remedy="It is tried again.", retry_after_seconds=seconds
        ) from error
    except UsageError as error:
        raise ImageUnparsable(str(error)) from error
    except UnauthorizedError as error:
        raise RegistryRefused(f"The registry does not answer this person: {error}") from error
    except RegistryError as error:
        raise RegistryUnavailable(f"The registry's answer cannot be followed: {error}") from error


def _project_paths(repository: str) -> Iterator[str]:
    """Yield the projects that a repository may be of: GitLab allows two names below a project's own."""
    parts = repository.split("/")
    for count in range(len(parts), max(1, len(parts) - 3), -1):
        yield "/".join(parts[:count])


def _gone(reference: str) -> ImageUnavailable:
    return ImageUnavailable(f"The image {foreign(reference)} is gone.", remedy="Launch again to choose anew.")


def _moment(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
