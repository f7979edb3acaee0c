"""HTTP as a registry wants it: tokens on demand, redirects, bounded answers, errors in words.

Source: the token flow of https://distribution.github.io/distribution/spec/auth/token/. It promises: credentials go to
the registry itself and to hosts named as trusted, and to no other; a registry's token goes to that registry alone;
plain http is spoken to loopback only; every call has a timeout; a question is asked again, once, where the server hung
up on a connection that was kept. It must not know manifests, blobs or tags.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth

from builder.errors import RefusedError, UnauthorizedError, UnavailableError, UsageError, capped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LARGEST_ANSWER_BYTES = 4 * 1024 * 1024  # the size of manifest that the distribution spec asks registries to accept
CHUNK_BYTES = 1 << 20
CONNECT_SECONDS = 5.0
PATIENCE_SECONDS = 60.0  # with the speed, what an answer may take in all: a byte now and then holds nobody for days
SLOWEST_BYTES_PER_SECOND = 16_384
TOKEN_LIFE_SECONDS = 60.0  # what the token specification assumes where an answer names no life
TOKEN_MARGIN = 0.8  # cached for less than its life
MOST_REDIRECTS = 5
TOO_MANY = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who asks: a user name and a password or token, which no representation shows."""

    username: str
    password: str = field(repr=False)


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


class AskingAdapter(HTTPAdapter):
    """Sends once more what only asks, where the connection was kept so long that the server had just hung up."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send; a body is never sent twice."""
        try:
            return super().send(request, *args, **kwargs)
        except requests.ConnectionError as error:
            is_hung_up = bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ProtocolError)
            if request.method not in {"GET", "HEAD"} or not is_hung_up:
                raise
            return super().send(request, *args, **kwargs)


class Transport:
    """The way to one registry, as one person. Not to be shared between threads."""

    def __init__(
        self,
        address: str,
        *,
        credentials: Callable[[], Credentials | None] = lambda: None,
        trusted_hosts: Sequence[str] = (),
        timeout_seconds: float = 30.0,
        ca_file: str | None = None,
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
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, AskingAdapter())
        if ca_file is not None:
            self._session.verify = ca_file
        self._tokens: dict[str, tuple[str, float]] = {}

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def call(  # noqa: PLR0913 - one call, with all that a call may carry
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
            authorization = self._authorize(challenge, scopes, scope)
            answer = self._send(method, path, authorization, headers, data)
            if answer.status_code == requests.codes.unauthorized and _grants(authorization, scopes[0]):
                answer.close()
                raise UnavailableError(
                    f"{self.address} does not take a token that its own token service has just made for "
                    f"{capped(repository)}: their clocks or their keys do not agree."
                )
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
            answer = self._session.get(
                realm, params=query, auth=auth, timeout=self._timeout, allow_redirects=False, stream=True
            )
        with answer:
            found = self._token_document(answer, scopes[0].split(":")[1])
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not token:
            raise UnavailableError(f"The token service of {self.address} answered without a token.")
        life = found.get("expires_in")
        return token, float(life) if isinstance(life, int | float) else _life_seconds(token)

    def _token_document(self, answer: requests.Response, repository: str) -> dict[str, Any]:
        """Read a token service's answer; what is neither a token nor a refusal of the person tells nothing."""
        if answer.status_code in {requests.codes.unauthorized, requests.codes.forbidden}:
            raise self._error(answer, "token", repository)
        if answer.status_code == requests.codes.ok:
            try:
                return document(bounded(answer, LARGEST_ANSWER_BYTES))
            except RefusedError as error:
                raise UnavailableError(f"The token service of {self.address} answered with no token.") from error
        raise UnavailableError(
            f"The token service of {self.address} answered {answer.status_code}: {capped(_said(answer))}",
            retry_after_seconds=_retry_after(answer),
        )

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
            what = "push" if method in {"PUT", "POST"} else "read"
            return UnauthorizedError(f"{where} You have no right to {what} there.")
        if status == TOO_MANY or status >= requests.codes.internal_server_error:
            return UnavailableError(where, retry_after_seconds=_retry_after(answer))
        return RefusedError(where)


def _authority(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return f"{(parts.hostname or '').lower()}:{port}"


def chunks(answer: requests.Response, largest_bytes: int) -> Iterator[bytes]:
    """Yield an answer's body; RefusedError if it is larger, UnavailableError if it breaks off or is far too slow."""
    total, began = 0, time.monotonic()
    try:
        # `iter_content` would wait until a chunk is full, however long that takes.
        while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=True):
            total += len(chunk)
            if total > largest_bytes:
                raise RefusedError(f"The registry sent more than {largest_bytes} bytes: refused.")
            if time.monotonic() - began > PATIENCE_SECONDS + total / SLOWEST_BYTES_PER_SECOND:
                raise UnavailableError("The registry answers too slowly.")
            yield chunk
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise UnavailableError("The registry's answer broke off.") from error


def bounded(answer: requests.Response, largest_bytes: int) -> bytes:
    """Return an answer's whole body; errors as `chunks`."""
    return b"".join(chunks(answer, largest_bytes))


def document(content: bytes) -> dict[str, Any]:
    """Parse a JSON object; RefusedError if it is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RefusedError("The registry sent something that is not JSON.") from error
    if not isinstance(document, dict):
        raise RefusedError("The registry sent JSON that is not an object.")
    return document


def _said(answer: requests.Response) -> str:
    try:
        errors = json.loads(bounded(answer, LARGEST_ANSWER_BYTES))["errors"]
        return "; ".join(f"{error.get('code')} {error.get('message')}" for error in errors) + "."
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError, RefusedError):
        return f"{answer.reason}."


def _retry_after(answer: requests.Response) -> float | None:
    """Read how long to wait: seconds, or a moment (RFC 9110 §10.2.3); None where it says neither."""
    text = answer.headers.get("Retry-After", "")
    if re.fullmatch(r"[0-9]{1,6}", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment.tzinfo is not None else None


def _claims(token: str) -> dict[str, Any]:
    """Read what a registry's token says of itself, unverified; nothing where it is no JWT."""
    part = token.split(".")[1:2]
    try:
        found = json.loads(base64.urlsafe_b64decode(part[0] + "=" * (-len(part[0]) % 4))) if part else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _life_seconds(token: str) -> float:
    """Return a token's life, by its own claims where the answer did not say; both are the service's own clock."""
    claims = _claims(token)
    issued_at, expires_at = claims.get("iat"), claims.get("exp")
    if isinstance(issued_at, int | float) and isinstance(expires_at, int | float) and expires_at > issued_at:
        return float(expires_at - issued_at)
    return TOKEN_LIFE_SECONDS


def _grants(authorization: str | None, scope: str) -> bool:
    """Tell whether a token says that it opens a scope: what a person may not have is left out of it silently."""
    kind, name, actions = scope.split(":")
    access = _claims((authorization or "").partition(" ")[2]).get("access")
    rows = [row for row in access if isinstance(row, dict)] if isinstance(access, list) else []
    given = [row.get("actions") for row in rows if (row.get("type"), row.get("name")) == (kind, name)]
    return any(isinstance(one, list) and set(actions.split(",")) <= {str(each) for each in one} for one in given)


def _cause(error: BaseException) -> str:
    return type(error.__cause__ or error.__context__ or error).__name__
