"""The forge's half of the Git relay: one request of a fixed list, with the owner's token added, streamed both ways.

For: `GitLabForge.git`; `spawner.api.git` decides who may, and never shows a session what is not its own.
Promises: only the project's own Git and LFS addresses are reached; the token goes to this GitLab alone (an LFS download
that GitLab sends elsewhere is followed without it); of an LFS batch or lock answer every `header` is dropped and every
`href` is cut to its part below the repository, so no token is in any byte that comes back; GitLab's own status is
passed on, only "cannot be asked" is an error (ForgeUnavailable).
Must not know: sessions, the relay's own address.
Source: gitprotocol-http(5), Git 2.39; Git LFS API (3.4); GitLab's LFS routes, 17.x.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import requests
from requests.auth import HTTPBasicAuth

from spawner.errors import ForgeUnavailable, NotFound, ProjectNotFound, foreign
from spawner.gitlab.transport import (
    CONNECT_SECONDS,
    PROJECT_MISSING,
    OneOriginSession,
    Transport,
    mapped,
    pieces,
    read_whole,
)
from spawner.names import ProjectPath
from spawner.ports import Credential, GitAnswer, GitRequest

READ_SECONDS = 300.0  # between two pieces: a large push is checked before GitLab says anything
LFS_BYTES = 8 * 1024 * 1024  # of a batch or lock answer
_LFS_SECONDS = 60.0
_OBJECT = r"[0-9a-f]{64}"
_REQUESTS: Final = (
    ("GET", re.compile(r"info/refs")),
    ("POST", re.compile(r"git-(?:upload|receive)-pack")),
    ("POST", re.compile(r"info/lfs/objects/batch|info/lfs/locks(?:/verify|/[0-9]{1,18}/unlock)?")),
    ("GET", re.compile(rf"info/lfs/locks|gitlab-lfs/objects/{_OBJECT}")),
    ("PUT", re.compile(rf"gitlab-lfs/objects/{_OBJECT}/[0-9]{{1,18}}")),
)
_QUERY: Final = re.compile(r"(?:service=git-(?:upload|receive)-pack|[A-Za-z0-9=&%._~/+-]{0,2048})")
_SENT: Final = ("Accept", "Accept-Encoding", "Content-Type", "Content-Encoding", "Git-Protocol", "User-Agent")
_TOLD: Final = (
    "Content-Type",
    "Content-Encoding",
    "Content-Length",
    "Cache-Control",
    "Expires",
    "Pragma",
    "Retry-After",
)
_PROJECT_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_.][A-Za-z0-9_.-]*)+")
_DOTS: Final = re.compile(r"(?:^|/)\.{1,2}(?:/|$)")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


def is_project_path(text: str) -> bool:
    """Say whether `text` can be a project's full path; what a URL would resolve away cannot."""
    return _PROJECT_PATH.fullmatch(text) is not None and _DOTS.search(text) is None


class _Body:
    """A body that comes in pieces; `requests` sends it with its length where that is known, else in chunks."""

    def __init__(self, body: Iterator[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return self._body


class _SizedBody(_Body):
    def __init__(self, body: Iterator[bytes], size_bytes: int) -> None:
        super().__init__(body)
        self._size_bytes = size_bytes

    def __len__(self) -> int:
        return self._size_bytes


class Relay:
    """Relays Git and LFS requests to one GitLab."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @contextmanager
    def git(self, credential: Credential | None, project: ProjectPath, request: GitRequest) -> Iterator[GitAnswer]:
        """Send one request on; the answer streams while the context is open.

        Raises NotFound for what is no Git or LFS request, ProjectNotFound for what is no path, ForgeUnavailable.
        """
        if not is_project_path(project):
            raise ProjectNotFound(PROJECT_MISSING)
        is_known = any(request.method == method and form.fullmatch(request.suffix) for method, form in _REQUESTS)
        if not is_known or not _QUERY.fullmatch(request.query):
            raise NotFound("This is no request of Git or Git LFS.")
        url = f"{self._transport.url}/{quote(project)}.git/{request.suffix}"
        url = f"{url}?{request.query}".rstrip("?")
        with self._transport.session() as session, self._sent(session, credential, url, request) as response:
            if request.suffix.startswith("info/lfs/"):
                yield _scrubbed(response)
            elif response.status_code in _REDIRECTS:
                with _elsewhere(response, session.verify) as moved:
                    yield moved
            else:
                yield _answer(response)

    def _sent(
        self, session: OneOriginSession, credential: Credential | None, url: str, request: GitRequest
    ) -> requests.Response:
        given = {name.lower(): value for name, value in request.headers.items()}
        headers: dict[str, str | None] = {name: given[name.lower()] for name in _SENT if name.lower() in given}
        headers.setdefault("Accept-Encoding", "identity")
        if request.suffix.startswith("info/lfs/"):
            headers["Accept-Encoding"] = "identity"  # its answer is read here
        with mapped():
            return session.request(
                request.method,
                url,
                headers=headers,
                data=_body(request.body, given.get("content-length")),
                auth=HTTPBasicAuth("oauth2", credential.token) if credential else None,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
            )


def _body(body: Iterator[bytes] | None, length: str | None) -> Any:
    if body is None:
        return None
    if length is None or not length.isdecimal():
        return _Body(body)
    return _SizedBody(body, int(length)) if int(length) else b""


def _answer(response: requests.Response) -> GitAnswer:
    return GitAnswer(status=response.status_code, headers=_headers(response), body=_pieces(response))


def _headers(response: requests.Response) -> dict[str, str]:
    return {name: response.headers[name] for name in _TOLD if name in response.headers}


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it comes in, still encoded as its headers say."""
    try:
        yield from pieces(response, is_decoded=False)
    except requests.RequestException as error:
        raise ForgeUnavailable("GitLab broke off in the middle of its answer.") from error


@contextmanager
def _elsewhere(response: requests.Response, verify: Any) -> Iterator[GitAnswer]:
    """Follow GitLab to where it keeps a large file: once, with no header of ours but what says how to answer."""
    target = response.headers.get("Location", "")
    if "/gitlab-lfs/objects/" not in urlsplit(response.url).path or urlsplit(target).scheme not in {"http", "https"}:
        raise ForgeUnavailable("GitLab sends Git to another address; the project may have been moved.")
    with requests.Session() as session:
        session.trust_env = False
        with mapped():
            moved = session.get(
                target,
                headers={"Accept-Encoding": "identity"},
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
                verify=verify,
            )
        with moved:
            yield _answer(moved)


def _scrubbed(response: requests.Response) -> GitAnswer:
    """Return an LFS answer without any header or address of GitLab's in it; plain words become its message."""
    with mapped():
        content = read_whole(response, most_bytes=LFS_BYTES, most_seconds=_LFS_SECONDS)
    try:
        document = json.loads(content) if content else {}
    except ValueError:
        document = {"message": foreign(content.decode(errors="replace"))}
    told = json.dumps(without_tokens(document)).encode()
    headers = {name: value for name, value in _headers(response).items() if name == "Retry-After"}
    headers |= {"Content-Type": "application/vnd.git-lfs+json", "Content-Length": str(len(told))}
    return GitAnswer(status=response.status_code, headers=headers, body=iter((told,)))


def without_tokens(document: Any) -> Any:
    """Return an LFS answer with every `header` dropped and every `href` cut to its part below the repository."""
    match document:
        case Mapping():
            kept = {name: value for name, value in document.items() if name != "header"}
            return {name: _below(value) if name == "href" else without_tokens(value) for name, value in kept.items()}
        case list():
            return [without_tokens(each) for each in document]
    return document


def _below(href: object) -> str:
    path = urlsplit(href).path if isinstance(href, str) else ""
    found = re.search(rf"gitlab-lfs/objects/{_OBJECT}(?:/[0-9]{{1,18}})?$", path)
    return found.group() if found else ""
