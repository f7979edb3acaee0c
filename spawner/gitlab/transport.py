"""One GitLab's connections: pooled, bounded in time and size, and to that one origin only.

For: every module of `spawner.gitlab` that speaks HTTP to GitLab.
Promises: a session cannot reach any other scheme, host or port, redirects included, so a token cannot either; nothing
of the environment (proxies, `.netrc`) or of another person (cookies) leaks in; an answer is read within a deadline and
up to a size; a token that GitLab has told to wait asks nothing meanwhile; errors become `spawner.errors` in one place
(`mapped`), and only there.
Must not know: what is asked.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import gitlab
import requests
import urllib3
from gitlab.exceptions import GitlabError

from builder.transport import AskingAdapter
from spawner import metrics
from spawner.errors import (
    Conflict,
    Forbidden,
    ForgeUnavailable,
    InvalidInput,
    Misconfigured,
    MissingScope,
    NotFound,
    ProjectNotFound,
    RateLimited,
    SpawnerError,
    TokenRejected,
    foreign,
)
from spawner.gitlab.allowance import Allowances, patience_seconds
from spawner.ports import Credential, CredentialKind

CONNECT_SECONDS = 5.0
ANSWER_BYTES = 64 * 1024 * 1024  # far above any answer of ours; logs have a bound of their own
PROJECT_MISSING = "There is no such project, or you may not see it."
PIECE_BYTES = 65536
_POOL_SIZE = 2
_MOST_IDLE = 16
_REDIRECTS = 3
_USER_AGENT = "slipway"


def origin_of(url: str) -> str:
    """Return `scheme://host[:port]` of a URL, or raise Misconfigured."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise Misconfigured(f"“{foreign(url)}” is not the URL of a GitLab.", remedy="Set SPAWNER_GITLAB__URL.")
    return f"{parts.scheme}://{parts.netloc}"


# The fixed words of GitLab's paths that we call; everything else of a path may be a person's or a project's.
_WORDS = frozenset(
    {
        "all",
        "branches",
        "commits",
        "deploy_tokens",
        "git-receive-pack",
        "git-upload-pack",
        "info",
        "jobs",
        "members",
        "merge_requests",
        "oauth",
        "personal_access_tokens",
        "pipeline",
        "pipelines",
        "play",
        "projects",
        "refs",
        "repository",
        "revoke",
        "self",
        "statuses",
        "tags",
        "token",
        "trace",
        "user",
    }
)


class OneOriginSession(requests.Session):
    """A session that can reach one origin. `stream=True` answers are the caller's to bound and close."""

    def __init__(self, origin: str, *, answer_seconds: float) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = _REDIRECTS
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self.adapters.clear()
        self.mount(f"{origin}/", AskingAdapter(pool_connections=1, pool_maxsize=_POOL_SIZE))
        self.answered: tuple[int, Mapping[str, str]] = (0, {})  # status and headers of the last answer
        self._answer_seconds = answer_seconds

    @property
    def retry_after(self) -> str:
        """What the last answer asked to wait; a session is lent to one caller at a time."""
        return self.answered[1].get("Retry-After", "")

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send, and read the answer whole within its bounds unless it is streamed."""
        is_streamed = bool(kwargs.get("stream"))
        with _measured(request) as answered:
            response = super().send(request, **{**kwargs, "stream": True})
            answered(response.status_code)
        self.answered = (response.status_code, response.headers)
        if not is_streamed:
            read_whole(response, most_bytes=ANSWER_BYTES, most_seconds=self._answer_seconds)
        return response


@contextmanager
def _measured(request: requests.PreparedRequest) -> Iterator[Callable[[int], None]]:
    """Measure one call until its answer begins; its name holds no person's or project's words."""
    words = [word for word in urlsplit(request.url or "").path.split("/") if word in _WORDS]
    operation = " ".join([request.method or "", *words])
    outcome = "down"

    def answered(status: int) -> None:
        nonlocal outcome
        outcome = "ok" if status < 400 else "refused" if status < 500 else "down"  # noqa: PLR2004 - HTTP

    started = time.monotonic()
    try:
        yield answered
    finally:
        metrics.FORGE_CALL_SECONDS.labels(operation=operation, outcome=outcome).observe(time.monotonic() - started)


def pieces(response: requests.Response, *, is_decoded: bool = True) -> Iterator[bytes]:
    """Yield an answer's body as it comes in, without waiting for a piece to be full; raises requests' own errors."""
    try:
        while piece := response.raw.read1(PIECE_BYTES, decode_content=is_decoded):
            yield piece
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout("the answer stopped in the middle") from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError("the answer broke off") from error


def read_whole(response: requests.Response, *, most_bytes: int, most_seconds: float) -> bytes:
    """Read an answer into `response.content`, in bounded time and size; raises requests' own errors."""
    deadline = time.monotonic() + most_seconds
    content = bytearray()
    for chunk in pieces(response):
        content += chunk
        if len(content) > most_bytes:
            response.close()
            raise requests.exceptions.ContentDecodingError(f"the answer is larger than {most_bytes} bytes")
        if time.monotonic() > deadline:
            response.close()
            raise requests.exceptions.ReadTimeout(f"the answer took longer than {most_seconds:.0f} s")
    response._content = bytes(content)  # noqa: SLF001 - where `requests` keeps what was read
    return response._content  # noqa: SLF001 - as above


class Transport:
    """One GitLab's sessions, lent to one thread at a time, and a python-gitlab client on top for each call.

    Threads come and go (services ask side by side); connections stay. A forked process begins with none.
    """

    def __init__(self, url: str, *, timeout_seconds: float, ca_file: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.origin = origin_of(self.url)
        self.timeout_seconds = timeout_seconds
        self._verify: bool | str = ca_file or True
        self._lock = threading.Lock()
        self._idle: list[OneOriginSession] = []
        self._process = os.getpid()
        self._allowances = Allowances()

    @contextmanager
    def session(self) -> Iterator[OneOriginSession]:
        """Lend a session, with its open connections, to the caller alone."""
        with self._lock:
            if self._process != os.getpid():
                self._process, self._idle = os.getpid(), []
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = OneOriginSession(self.origin, answer_seconds=3 * self.timeout_seconds)
            session.verify = self._verify
        try:
            yield session
        finally:
            with self._lock:
                is_kept = len(self._idle) < _MOST_IDLE
                if is_kept:
                    self._idle.append(session)
            if not is_kept:
                session.close()

    def request(
        self,
        credential: Credential,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
    ) -> requests.Response:
        """Make one call through python-gitlab, never retried here; raises `spawner.errors` only.

        `path` is below `/api/v4`, or a whole URL of this GitLab.
        """
        with self.session() as session, mapped(lambda: session.retry_after):
            return self._send(session, credential, method, path, query_data=query, post_data=body)

    @contextmanager
    def stream(self, credential: Credential, path: str) -> Iterator[requests.Response]:
        """GET an answer that the caller reads in pieces while the context is open; errors as `request`."""
        with (
            self.session() as session,
            mapped(lambda: session.retry_after),
            self._send(session, credential, "get", path, streamed=True) as response,
        ):
            yield response

    def _send(
        self, session: OneOriginSession, credential: Credential, method: str, path: str, **more: Any
    ) -> requests.Response:
        self._allowances.check(credential.token)
        kind = credential.kind
        client = gitlab.Gitlab(
            self.url,
            oauth_token=credential.token if kind is CredentialKind.OAUTH else None,
            private_token=credential.token if kind is CredentialKind.PERSONAL else None,
            session=session,
            ssl_verify=self._verify,
            user_agent=_USER_AGENT,
            keep_base_url=True,
        )
        session.answered = (0, {})
        try:
            return client.http_request(
                method,
                path,
                timeout=(CONNECT_SECONDS, self.timeout_seconds),  # type: ignore[arg-type]  # requests takes the pair
                obey_rate_limit=False,
                retry_transient_errors=False,
                max_retries=0,
                **more,
            )
        finally:
            self._allowances.learn(credential.token, *session.answered)


@contextmanager
def mapped(retry_after: Callable[[], str] = str) -> Iterator[None]:
    """Turn python-gitlab's and requests' errors into ours; `retry_after` gives the last answer's header."""
    try:
        yield
    except GitlabError as error:
        raise meaning(error.response_code, error.response_body or b"", retry_after()) from error
    except requests.exceptions.Timeout as error:
        raise ForgeUnavailable("GitLab gave no answer in time.", remedy="It is tried again.") from error
    except requests.exceptions.InvalidSchema as error:  # there is no adapter for another origin
        raise ForgeUnavailable("GitLab sent us to another address; no token went there.") from error
    except (requests.RequestException, ValueError) as error:
        raise ForgeUnavailable("GitLab cannot be reached.", remedy="It is tried again.") from error


def meaning(status: int | None, body: bytes, retry_after: str) -> SpawnerError:  # noqa: PLR0911 - one per status
    """Return what an answer that is no success means; source: GitLab REST, status codes and rate limits, 17.x."""
    said = _said(body)
    match status:
        case 401:
            return TokenRejected("GitLab does not accept the token (any more).", remedy="Sign in again.")
        case 403:
            return _forbidden(body)
        case 404:
            return _missing(body)
        case 429:
            return RateLimited(
                "GitLab asks for patience: too many requests.", retry_after_seconds=patience_seconds(retry_after)
            )
        case 409:
            return Conflict(f"GitLab cannot do this now: {said}")
        case 400 | 422:
            return InvalidInput(f"GitLab refused the request: {said}")
    about = "what is no answer" if status is None else str(status)
    return ForgeUnavailable(f"GitLab answered {about}.", remedy="It is tried again.")


def _forbidden(body: bytes) -> SpawnerError:
    document = _document(body)
    if document.get("error") == "insufficient_scope":
        scope = foreign(" or ".join(str(document.get("scope") or "api").split()))
        return MissingScope(
            f"What GitLab was asked needs the scope {scope}, which your sign-in or token does not have.",
            remedy="Do it in GitLab itself, or send a token that has it; "
            "a sign-in has the scopes that the operator names in SPAWNER_GITLAB__SCOPES.",
        )
    return Forbidden(f"GitLab does not allow it: {_said(body)}")


def _missing(body: bytes) -> SpawnerError:
    if not _document(body):
        return ForgeUnavailable("GitLab answered with a page instead of data.", remedy="It is tried again.")
    said = _said(body)
    return ProjectNotFound(PROJECT_MISSING) if "Project" in said else NotFound(f"GitLab knows no such thing: {said}")


def _said(body: bytes) -> str:
    document = _document(body)
    for name in ("message", "error_description", "error"):
        if document.get(name):
            found = document[name]
            return foreign(found if isinstance(found, str) else json.dumps(found))
    return "without a reason"


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
