"""A registry, spoken to by the OCI distribution protocol over `requests`.

Source: OCI distribution spec 1.1 and the token flow of https://distribution.github.io/distribution/spec/auth/token/.
It promises: "does not exist" is a value (None), "cannot be asked" is `UnavailableError`, and the two are never mixed
up; a person's credentials go to the registry itself and to hosts named as trusted, and to no other; a registry's token
goes to that registry alone; plain http is spoken to loopback only; every call has a timeout; what is read is bounded
and checked against its digest. It must not know projects, keys or Git.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from builder.errors import RefusedError, UnauthorizedError, UnavailableError, UsageError, capped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES = frozenset({MANIFEST_TYPES[0], MANIFEST_TYPES[2]})
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LARGEST_MANIFEST_BYTES = 4 * 1024 * 1024  # the limit that the distribution spec asks registries to accept
LARGEST_CONFIG_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 1 << 20
CONNECT_SECONDS = 5.0
TOKEN_LIFE_SECONDS = 60.0  # what the token specification assumes where an answer names no life
TOKEN_MARGIN = 0.8  # cached for less than its life
MOST_REDIRECTS = 5
TOO_MANY = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who asks: a user name and a password or token, which no representation shows."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a name stands for: digest, media type and size."""

    digest: str
    media_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest's exact bytes, their type and digest."""

    content: bytes = field(repr=False)
    media_type: str
    digest: str

    def document(self) -> Mapping[str, Any]:
        """Parse the manifest; RefusedError if it is not a JSON object."""
        return _document(self.content)


class _Bearer(AuthBase):
    """Sets one header, and keeps `requests` from looking for other credentials."""

    def __init__(self, header: str | None) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header is not None:
            request.headers["Authorization"] = self._header
        return request


def is_loopback(address: str) -> bool:
    """Tell whether `host[:port]` names this machine by itself: `localhost`, `*.localhost`, 127.0.0.0/8, ::1."""
    host = urlsplit(f"//{address}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes, `sha256:<64 hex>`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class RegistryClient:
    """One registry, as one person. Not to be shared between threads.

    `address` is `host[:port]`; `credentials` is asked each time a token is needed (None: anonymous);
    `trusted_hosts` are the `host[:port]` besides the registry's own that may be shown the credentials: the token
    service of the GitLab it belongs to. UnauthorizedError, UnavailableError and RefusedError may come of every method.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: Callable[[], Credentials | None] = lambda: None,
        trusted_hosts: Sequence[str] = (),
        timeout_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._\[\]:-]+", address):
            raise UsageError(f"“{capped(address)}” is not the address of a registry: host or host:port.")
        self.address = address.lower()
        self.origin = f"{'http' if is_loopback(address) else 'https'}://{self.address}"
        self._credentials = credentials
        self._trusted = {_authority(self.origin), *(_authority(f"https://{host}") for host in trusted_hosts)}
        self._trusted |= {_authority(f"http://{host}") for host in trusted_hosts if is_loopback(host)}
        self._timeout = (CONNECT_SECONDS, timeout_seconds)
        self._clock = clock
        self._session = requests.Session()
        self._tokens: dict[str, tuple[str, float]] = {}

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def head(self, repository: str, reference: str) -> Descriptor | None:
        """Ask what a tag or digest stands for; None if it does not exist."""
        path = f"/v2/{repository}/manifests/{reference}"
        answer = self._call("HEAD", path, repository, headers={"Accept": ", ".join(MANIFEST_TYPES)}, missing=True)
        if answer is None:
            return None
        with answer:
            digest = answer.headers.get("Docker-Content-Digest", "")
            if DIGEST.fullmatch(digest):
                size = int(answer.headers.get("Content-Length", "0"))
                return Descriptor(digest=digest, media_type=_media_type(answer), size_bytes=size)
        manifest = self.manifest(repository, reference)  # the header is optional: then the bytes decide
        if manifest is None:
            return None
        return Descriptor(digest=manifest.digest, media_type=manifest.media_type, size_bytes=len(manifest.content))

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """Get a manifest's exact bytes, checked against its digest; None if it does not exist."""
        path = f"/v2/{repository}/manifests/{reference}"
        answer = self._call("GET", path, repository, headers={"Accept": ", ".join(MANIFEST_TYPES)}, missing=True)
        if answer is None:
            return None
        with answer:
            content = _bounded(answer, LARGEST_MANIFEST_BYTES)
            said = answer.headers.get("Docker-Content-Digest", "")
            media_type = _media_type(answer)
        digest = digest_of(content)
        if said not in {"", digest} or (DIGEST.fullmatch(reference) and reference != digest):
            raise RefusedError(f"{self.address} sent another manifest than {capped(reference)} of {repository}.")
        return Manifest(content=content, media_type=media_type, digest=digest)

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> None:
        """Put a manifest under a tag or its digest. Idempotent: the same bytes give the same digest."""
        path = f"/v2/{repository}/manifests/{reference}"
        headers = {"Content-Type": manifest.media_type}
        answer = self._call("PUT", path, repository, push=True, headers=headers, data=manifest.content)
        if answer is not None:
            answer.close()

    def retag(self, repository: str, source: str, tags: Sequence[str]) -> Manifest | None:
        """Put a tag's or digest's very manifest under other tags of the repository; None if it does not exist.

        Two calls for one tag, and no layer moves.
        """
        manifest = self.manifest(repository, source)
        if manifest is not None:
            for tag in tags:
                self.put_manifest(repository, tag, manifest)
        return manifest

    def tags(self, repository: str) -> tuple[str, ...]:
        """List a repository's tags, in the registry's order; empty if there is no such repository."""
        names: list[str] = []
        path: str | None = f"/v2/{repository}/tags/list"
        while path is not None:
            answer = self._call("GET", path, repository, missing=True)
            if answer is None:
                break
            with answer:
                names += _document(_bounded(answer, LARGEST_MANIFEST_BYTES)).get("tags") or []
                following = answer.links.get("next", {}).get("url")
            path = following if following is None or following.startswith("/") else None
        return tuple(names)

    def labels(self, repository: str, manifest: Manifest) -> Mapping[str, str]:
        """Read the labels in an image's configuration; empty for an index."""
        if manifest.media_type in INDEX_TYPES:
            return {}
        config = manifest.document().get("config")
        digest = config.get("digest") if isinstance(config, dict) else None
        if not isinstance(digest, str):
            return {}
        labels = _document(self.blob(repository, digest, largest_bytes=LARGEST_CONFIG_BYTES)).get("config", {})
        found = labels.get("Labels") if isinstance(labels, dict) else None
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}

    def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether the repository holds a blob."""
        answer = self._call("HEAD", f"/v2/{repository}/blobs/{digest}", repository, missing=True)
        if answer is not None:
            answer.close()
        return answer is not None

    def blob(self, repository: str, digest: str, *, largest_bytes: int) -> bytes:
        """Get a small blob, checked against its digest. RefusedError if it is absent, larger, or another."""
        with self._blob(repository, digest) as answer:
            content = _bounded(answer, largest_bytes)
        if digest_of(content) != digest:
            raise RefusedError(f"{self.address} sent another blob than {capped(digest)}.")
        return content

    def download(self, repository: str, digest: str, target: Path, *, largest_bytes: int) -> None:
        """Write a blob to a new file, checked against its digest; the file is complete or is not there."""
        partial = target.with_name(f"{target.name}.partial")
        hasher = hashlib.sha256()
        try:
            with self._blob(repository, digest) as answer, partial.open("wb") as file:
                for chunk in _chunks(answer, largest_bytes):
                    hasher.update(chunk)
                    file.write(chunk)
            if f"sha256:{hasher.hexdigest()}" != digest:
                raise RefusedError(f"{self.address} sent another blob than {capped(digest)}.")
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    def upload(self, repository: str, digest: str, source: Path | bytes) -> None:
        """Upload a blob unless the repository has it already. Idempotent."""
        if self.has_blob(repository, digest):
            return
        start = self._call("POST", f"/v2/{repository}/blobs/uploads/", repository, push=True, data=b"")
        self._finish(repository, digest, source, self._location(start))

    def mount(self, repository: str, digest: str, *, source_repository: str) -> bool:
        """Let the repository have another one's blob without moving it; False if the registry would not."""
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={source_repository}"
        answer = self._call("POST", path, repository, push=True, also_pull=source_repository, data=b"")
        if answer is None:
            return False
        with answer:
            return bool(answer.status_code == requests.codes.created)

    def _finish(self, repository: str, digest: str, source: Path | bytes, location: str) -> None:
        url = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        if isinstance(source, bytes):
            answer = self._call("PUT", url, repository, push=True, headers=headers, data=source)
        else:
            with source.open("rb") as file:
                answer = self._call("PUT", url, repository, push=True, headers=headers, data=file)
        if answer is not None:
            answer.close()

    def _location(self, answer: requests.Response | None) -> str:
        location = answer.headers.get("Location", "") if answer is not None else ""
        if answer is not None:
            answer.close()
        if not location:
            raise RefusedError(f"{self.address} began an upload without saying where to send it.")
        return urljoin(self.origin, location)

    @contextmanager
    def _blob(self, repository: str, digest: str) -> Iterator[requests.Response]:
        if not DIGEST.fullmatch(digest):
            raise RefusedError(f"“{capped(digest)}” is not a digest.")
        answer = self._call("GET", f"/v2/{repository}/blobs/{digest}", repository, missing=True)
        if answer is None:
            raise RefusedError(f"{self.address} has lost {digest[:19]}… of {repository}.")
        with answer:
            yield answer

    def _call(  # noqa: PLR0913 - one call, with all that a call may carry
        self,
        method: str,
        path: str,
        repository: str,
        *,
        push: bool = False,
        also_pull: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | BinaryIO | None = None,
        missing: bool = False,
    ) -> requests.Response | None:
        """Make one call with a token for it; one more after a 401 that says how to get a (new) token."""
        scopes = [f"repository:{repository}:{'pull,push' if push else 'pull'}"]
        scopes += [f"repository:{also_pull}:pull"] if also_pull else []
        scope = " ".join(scopes)
        answer = self._send(method, path, self._cached(scope), headers, data)
        if answer.status_code == requests.codes.unauthorized:
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer.close()
            if data is not None and not isinstance(data, bytes):
                data.seek(0)
            answer = self._send(method, path, self._authorize(challenge, scopes, scope), headers, data)
        if answer.status_code == requests.codes.not_found and missing:
            answer.close()
            return None
        if not answer.ok:
            with answer:
                raise self._error(answer, method, repository)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        authorization: str | None,
        headers: Mapping[str, str] | None,
        data: bytes | BinaryIO | None,
    ) -> requests.Response:
        """Send, following redirects of reads; the token stays with the registry's own host."""
        url = urljoin(self.origin, path)
        for _ in range(MOST_REDIRECTS):
            is_own = _authority(url) == _authority(self.origin)
            self._check_scheme(url)
            with self._mapped(url):
                answer = self._session.request(
                    method, url, headers=dict(headers or {}), data=data, timeout=self._timeout, stream=True,
                    allow_redirects=False, auth=_Bearer(authorization if is_own else None),
                )  # fmt: skip
            if method not in {"GET", "HEAD"} or not answer.is_redirect:
                return answer
            url = urljoin(url, answer.headers["Location"])
            answer.close()
        raise UnavailableError(f"{self.address} redirects more than {MOST_REDIRECTS} times.")

    def _check_scheme(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.netloc)):
            return
        raise RefusedError(
            f"{self.address} points to {capped(parts.netloc)} over plain {capped(parts.scheme)}: refused."
        )

    def _cached(self, scope: str) -> str | None:
        token, expires_at = self._tokens.get(scope, ("", 0.0))
        return token if token and self._clock() < expires_at else None

    def _authorize(self, challenge: str, scopes: Sequence[str], scope: str) -> str | None:
        """Answer a challenge: a token from its realm, or the credentials themselves where Basic is asked for."""
        self._tokens.pop(scope, None)
        kind, _, rest = challenge.partition(" ")
        credentials = self._credentials()
        if kind.lower() == "basic" and credentials is not None:
            pair = f"{credentials.username}:{credentials.password}".encode()
            return f"Basic {base64.b64encode(pair).decode('ascii')}"
        if kind.lower() != "bearer":
            raise UnauthorizedError(f"{self.address} wants to know who you are: give a user name and a token.")
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        token, life_seconds = self._token(fields, scopes, credentials)
        header_text = f"Bearer {token}"
        self._tokens[scope] = (header_text, self._clock() + life_seconds * TOKEN_MARGIN)
        return header_text

    def _token(
        self, fields: Mapping[str, str], scopes: Sequence[str], credentials: Credentials | None
    ) -> tuple[str, float]:
        realm = urljoin(self.origin, fields.get("realm", ""))
        self._check_scheme(realm)
        if credentials is not None and _authority(realm) not in self._trusted:
            host = urlsplit(realm).netloc
            raise UnauthorizedError(
                f"{self.address} sends its users to {capped(host)}, which is not known to belong to it; "
                "no token was shown to it. Name it as trusted if it is right."
            )
        auth = _Bearer(None) if credentials is None else HTTPBasicAuth(credentials.username, credentials.password)
        query = [("service", fields.get("service", "")), *(("scope", scope) for scope in scopes)]
        with self._mapped(realm):
            answer = self._session.get(realm, params=query, auth=auth, timeout=self._timeout, allow_redirects=False)
        with answer:
            if answer.status_code != requests.codes.ok:
                raise self._error(answer, "token", scopes[0].split(":")[1])
            document = _document(answer.content)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token:
            raise UnavailableError(f"The token service of {self.address} answered without a token.")
        life = document.get("expires_in")
        return token, float(life) if isinstance(life, int | float) else TOKEN_LIFE_SECONDS

    @contextmanager
    def _mapped(self, url: str) -> Iterator[None]:
        host = urlsplit(url).netloc
        try:
            yield
        except requests.Timeout as error:
            raise UnavailableError(f"{host} gave no answer within {self._timeout[1]:.0f} s.") from error
        except requests.RequestException as error:
            raise UnavailableError(f"{host} cannot be reached: {capped(_cause(error))}.") from error

    def _error(
        self, answer: requests.Response, method: str, repository: str
    ) -> UnauthorizedError | UnavailableError | RefusedError:
        said = capped(_said(answer))
        where = f"{self.address} answered {answer.status_code} about {capped(repository)}: {said}"
        status = answer.status_code
        if status in {requests.codes.unauthorized, requests.codes.forbidden}:
            return UnauthorizedError(f"{where} You have no right to {'push' if method != 'GET' else 'read'} there.")
        if status == TOO_MANY or status >= requests.codes.internal_server_error:
            return UnavailableError(where, retry_after_seconds=_retry_after(answer))
        return RefusedError(where)


def _authority(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return f"{(parts.hostname or '').lower()}:{port}"


def _media_type(answer: requests.Response) -> str:
    return answer.headers.get("Content-Type", "").split(";", 1)[0].strip()


def _chunks(answer: requests.Response, largest_bytes: int) -> Iterator[bytes]:
    total = 0
    try:
        for chunk in answer.iter_content(CHUNK_BYTES):
            total += len(chunk)
            if total > largest_bytes:
                raise RefusedError(f"The registry sent more than {largest_bytes} bytes: refused.")
            yield chunk
    except requests.RequestException as error:
        raise UnavailableError("The registry's answer broke off.") from error


def _bounded(answer: requests.Response, largest_bytes: int) -> bytes:
    return b"".join(_chunks(answer, largest_bytes))


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RefusedError("The registry sent something that is not JSON.") from error
    if not isinstance(document, dict):
        raise RefusedError("The registry sent JSON that is not an object.")
    return document


def _said(answer: requests.Response) -> str:
    try:
        errors = json.loads(_bounded(answer, LARGEST_MANIFEST_BYTES)).get("errors", [])
        return "; ".join(f"{error.get('code')} {error.get('message')}" for error in errors) + "."
    except (ValueError, AttributeError, RefusedError):
        return f"{answer.reason}."


def _retry_after(answer: requests.Response) -> float | None:
    try:
        return float(answer.headers.get("Retry-After", ""))
    except ValueError:
        return None


def _cause(error: BaseException) -> str:
    return type(error.__cause__ or error.__context__ or error).__name__
