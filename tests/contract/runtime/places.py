"""Real servers for the runtime's tests: Git over smart HTTP behind a bearer, and a spawner that listens to agents.

For: `tests/contract/runtime` and the agent's own tests.
Promises: loopback only, free ports, everything that is received is kept for the test to look at.
Must not know: any runtime.
"""

import json
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from spawner.names import CommitSha

_FILES = {
    "README.md": "# A sample\n",
    "work.ipynb": json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}),
}
_IDENTITY = {
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
    "PATH": os.environ["PATH"],
}  # fmt: skip


def git(folder: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
    """Run Git in a folder and return what it says."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**_IDENTITY, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def make_repository(folder: Path, files: Mapping[str, str] | None = None) -> tuple[Path, list[CommitSha]]:
    """Make a bare repository with two commits on `main` and a tag; return it and the commits, oldest first."""
    work, bare = folder / "work", folder / "served" / "group" / "sample.git"
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    commits = []
    for number, more in enumerate(({}, {"second.txt": "2\n"})):
        for name, text in {**_FILES, **(files or {}), **more}.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(text, encoding="utf-8")
        git(work, "add", ".")
        git(work, "commit", "-q", "-m", f"Commit {number}")
        commits.append(CommitSha(git(work, "rev-parse", "HEAD")))
    git(work, "tag", "v1", commits[0])
    bare.parent.mkdir(parents=True)
    git(folder, "clone", "-q", "--bare", str(work), str(bare))
    git(bare, "config", "http.receivepack", "true")
    return bare, commits


@dataclass
class Place:
    """A server on a free port of 127.0.0.1; a context that serves while it is open."""

    credential: str
    served: Path
    reports: list[dict[str, Any]] = field(default_factory=list)
    codes: dict[str, str] = field(default_factory=dict)
    git_requests: list[str] = field(default_factory=list)
    refusals_left: int = 0
    _server: ThreadingHTTPServer | None = None
    _more: list[ThreadingHTTPServer] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        place = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                place.answer(self)

            def do_POST(self) -> None:
                place.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        _serve(self._server)
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._server, *self._more):
            if server is not None:
                server.shutdown()
                server.server_close()

    def listen_at(self, path: Path) -> None:
        """Serve the same at a socket in a file, which everybody who can reach it may open."""
        assert self._server is not None
        server = _SocketServer(path, self._server.RequestHandlerClass)
        path.chmod(0o777)
        self._more.append(server)
        _serve(server)

    @property
    def url(self) -> str:
        """The server's address."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def relay_url(self) -> str:
        """The project behind the bearer."""
        return f"{self.url}/git/s1/group/sample.git"

    def wait_for(self, event: str, workload: str, *, within_seconds: float = 60) -> dict[str, Any]:
        """Return the first report of that event; fails when none comes in time."""

        def found() -> dict[str, Any] | None:
            return next((r for r in self.reports if r["event"] == event and r["workload"] == workload), None)

        with self._news:
            assert self._news.wait_for(lambda: found() is not None, within_seconds), f"no {event}: {self.reports}"
        report = found()
        assert report is not None
        return report

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = _body(request)
        path = urlsplit(request.path)
        is_ours = request.headers.get("Authorization") == f"Bearer {self.credential}"
        if path.path.startswith("/git/"):
            self.git_requests.append(f"{request.command} {request.path}")
            if self.refusals_left > 0 or not is_ours:
                self.refusals_left -= 1
                _send(request, 503 if is_ours else 403, b"not now")
            else:
                self._git(request, path.path.removeprefix("/git/s1"), path.query, body)
        elif not is_ours:
            _send(request, 401, b"")
        elif path.path == "/report":
            with self._news:
                self.reports.append(json.loads(body))
                self._news.notify_all()
            _send(request, 204, b"")
        elif path.path == "/redeem":
            user = self.codes.pop(json.loads(body)["code"], None)
            _send(request, 403 if user is None else 200, json.dumps({"username": user}).encode())
        else:
            _send(request, 404, b"")

    def _git(self, request: BaseHTTPRequestHandler, path: str, query: str, body: bytes) -> None:
        variables = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.served), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": request.command, "REMOTE_USER": "alice",
            "CONTENT_TYPE": request.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "GIT_CONFIG_GLOBAL": os.devnull,
        }  # fmt: skip
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "http-backend"],
            input=body, env=variables, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        # It exits with 1 when it refused: the answer says why.
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        _send(request, status, content, headers)


class _SocketServer(ThreadingHTTPServer):
    """The same server at a socket in a file."""

    address_family = socket.AF_UNIX

    def __init__(self, path: Path, handler: Any) -> None:
        super().__init__(str(path), handler)  # type: ignore[arg-type] # an address of this family is a path

    def server_bind(self) -> None:
        """Bind without a look at the host's name: there is none."""
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Name a client as the handler wants one named."""
        connection, _ = self.socket.accept()
        return connection, ("socket", 0)


def _serve(server: ThreadingHTTPServer) -> None:
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    content = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        content += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return content


def _send(
    request: BaseHTTPRequestHandler, status: int, content: bytes, headers: Mapping[str, str] | None = None
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    if status != 204:
        request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if status != 204:
        request.wfile.write(content)
