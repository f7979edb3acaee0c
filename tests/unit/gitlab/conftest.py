"""A scripted HTTP server: what GitLab, or something in front of it, may answer."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """One answer; `pieces` are sent with `pause_seconds` between them."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    pieces: int = 1
    pause_seconds: float = 0.0
    is_cut: bool = False
    hangs_up: bool = False  # says nothing at all


@dataclass
class Server:
    """What a server was asked, and what it answers next; the last answer stays."""

    url: str = ""
    answers: list[Scripted] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def next(self) -> Scripted:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Threads(ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


def _answering(found: Server) -> type[http.server.BaseHTTPRequestHandler]:
    """Return the handler of one server."""

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self._send(found.next())

        do_POST = do_GET  # noqa: N815 - the handler's own names

        def _send(self, answer: Scripted) -> None:
            if answer.hangs_up:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            length = len(answer.body) * answer.pieces + (10 if answer.is_cut else 0)
            self.send_header("Content-Length", str(length))
            for name, value in answer.headers:
                self.send_header(name, value)
            self.end_headers()
            for _ in range(answer.pieces):
                self.wfile.write(answer.body)
                self.wfile.flush()
                time.sleep(answer.pause_seconds)
            self.close_connection = answer.is_cut

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    return Answers


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start scripted servers; they end with the test."""
    running: list[tuple[_Threads, threading.Thread]] = []

    def start(*answers: Scripted) -> Server:
        found = Server(answers=list(answers))

        server = _Threads(("127.0.0.1", 0), _answering(found))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((server, thread))
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        return found

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join(30)
        server.server_close()
