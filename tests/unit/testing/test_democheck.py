"""How the demo's check ends when something goes wrong in a way that no step expects.

Covered: errors of every kind in a step, a runner that was left paused, a demo that has gone, a kernel that does not
end. Left out: the steps themselves, which `scripts/demo --check` runs.
"""

import base64
import hashlib
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from spawner.testing import democheck
from spawner.testing.democheck import Check, CheckFailed, Kernel

# A WebSocket frame with text, 43 bytes long, that is no answer to anything (RFC 6455, 5.2).
CHATTER = b'{"parent_header": {}, "msg_type": "status"}'
FRAME = bytes([0x81, len(CHATTER)]) + CHATTER
WEBSOCKET_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


class Demo(BaseHTTPRequestHandler):
    """Takes what the runner is told, makes kernels, and chatters on their channels."""

    told: ClassVar[list[Any]] = []
    stopping = threading.Event()

    def do_POST(self) -> None:
        self.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(201)
        self.end_headers()
        self.wfile.write(b'{"id": "k"}')

    def do_GET(self) -> None:
        accept = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + WEBSOCKET_KEY).encode()).digest()  # noqa: S324
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
        self.end_headers()
        with suppress(OSError):  # the client hangs up
            while not self.stopping.wait(0.05):
                self.wfile.write(FRAME)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def url() -> Iterator[str]:
    """The demo's address."""
    Demo.told.clear()
    Demo.stopping.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Demo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Demo.stopping.set()
        server.shutdown()
        thread.join(30)


def check(url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Run the check; return its exit code and its document."""
    users = [{"username": name, "token": name, "is_admin": False} for name in ("alice", "bob")]
    demo = {"spawner_url": url, "gitlab_url": url, "stand_in_url": url, "users": users, "projects": []}
    (folder / "demo.json").write_text(json.dumps(demo))
    code = democheck.main([str(folder / "demo.json"), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "error",
    [
        CheckFailed("no"),
        subprocess.TimeoutExpired("git", 60),
        StopIteration(),
        IndexError("list index out of range"),
        KeyError("slipway"),
        AttributeError("x"),
        ConnectionError("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_error_is_a_failed_step(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The step has failed with a detail, the document is whole, and the runner works again."""

    def step(check: Check) -> str:
        check.let_runner(work=False)
        raise error

    monkeypatch.setattr(democheck, "STEPS", (step, step))
    code, document = check(url, tmp_path, capsys)
    assert (code, document["passed"], document["not_run"]) == (1, False, ["step"])
    assert [(row["step"], row["passed"]) for row in document["steps"]] == [("step", False)]
    assert document["steps"][0]["detail"]
    assert Demo.told == [{"paused": True}, {"paused": False}]


def test_a_demo_that_has_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing answers any more the document is whole all the same."""
    monkeypatch.setattr(democheck, "STEPS", (lambda check: check.alice.ask("GET", "/servers"),))
    code, document = check("http://127.0.0.1:9", tmp_path, capsys)
    assert (code, document["passed"]) == (1, False)


def test_a_kernel_that_does_not_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that says something all the time, but not the end, fails the step in time."""
    monkeypatch.setattr(democheck, "RUN_SECONDS", 0.5)
    kernel = Kernel(url, {})
    with pytest.raises(CheckFailed, match="did not end"):
        kernel.run("while True: pass")
    kernel.close()
