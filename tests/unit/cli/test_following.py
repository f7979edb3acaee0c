"""Following a session over a line that breaks, with a server that answers as a table says.

Covered: a spawner that restarts, one that stays away, streams that end at once, the end that was missed, ~/.netrc.
Left out: what the commands print (test_client).
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spawner.cli import connection
from spawner.cli.connection import Connection
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.cli.sessions import follow
from tests.unit.cli.conftest import Run, Served
from tests.unit.cli.test_client import launch_ready

AWAY = (503, json.dumps({"error": {"message": "Not just now."}}))


def events(*kinds: str, first: int = 1) -> tuple[int, str]:
    """An answer with these events, whose ids count from `first`."""
    frames = [f"id: {first + n}-0\nevent: {kind}\ndata: {{}}\n\n" for n, kind in enumerate(kinds)]
    return 200, "".join(frames)


@dataclass
class Script:
    """What the server answers, one after the other (the last again and again), and what it was asked."""

    url: str = ""
    answers: list[tuple[int, str]] = field(default_factory=list)
    server: str = "{}"
    resumed_from: list[str | None] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)

    @property
    def connection(self) -> Connection:
        """A line to it."""
        return Connection(url=self.url, token="t")


@pytest.fixture
def script() -> Iterator[Script]:
    """A server that plays a script."""
    found = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = 200, found.server
            if "/events" in self.path:
                found.resumed_from.append(self.headers["Last-Event-ID"])
                found.asked_at.append(time.monotonic())
                status, body = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        server.shutdown()
        thread.join(30)


def test_a_restart_of_the_spawner_is_outlived(script: Script) -> None:
    """A line that ends, and a spawner that is away for a moment, are waited for; nothing is told twice."""
    script.answers = [events("phase", "reason"), AWAY, AWAY, events("ready", first=3)]
    assert [kind for kind, _ in script.connection.events("s", until="ready")] == ["phase", "reason", "ready"]
    assert script.resumed_from == [None, "2-0", "2-0", "2-0"]


def test_a_spawner_that_stays_away_is_told(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while of nothing but refusals the command fails with what was said last."""
    monkeypatch.setattr(connection, "AWAY_SECONDS", 0.5)
    script.answers = [events("phase"), AWAY]
    with pytest.raises(CommandFailed, match="Not just now") as failed:
        list(script.connection.events("s"))
    assert failed.value.code is ExitCode.UNAVAILABLE


def test_streams_that_end_at_once_do_not_make_it_spin(script: Script) -> None:
    """Between two requests there is a pause, which grows while nothing comes."""
    script.answers = [events()]
    assert list(script.connection.events("s", within_seconds=1.5)) == []
    assert len(script.asked_at) <= 4


@pytest.mark.parametrize(
    ("phase", "error", "code"),
    [
        ("RUNNING", None, None),
        ("FAILED", {"message": "It failed.", "remedy": ""}, ExitCode.FAILED),
        ("WAITING", None, ExitCode.WAITED_TOO_LONG),
    ],
)
def test_an_end_that_was_missed(script: Script, phase: str, error: object, code: ExitCode | None) -> None:
    """Where nothing more is told, the session itself says how the launch ended."""
    script.answers = [events("phase"), (204, "")]
    script.server = json.dumps({"name": "s", "slipway": {"phase": phase, "error": error}})
    if code is None:
        assert follow(script.connection, "s", timeout_seconds=20)["name"] == "s"
        return
    with pytest.raises(CommandFailed) as failed:
        follow(script.connection, "s", timeout_seconds=20)
    assert failed.value.code is code


def test_a_relaunch_is_not_taken_for_the_life_before(served: Served, ada: Run) -> None:
    """The end of a session's last life is none of the launch that is followed."""
    name = launch_ready(served, ada)
    assert ada("stop", name, "--wait").code == ExitCode.DONE
    assert ada("launch", "grp/proj", "--wait", "--timeout", "1").code == ExitCode.WAITED_TOO_LONG


def test_netrc_does_not_replace_the_token(
    served: Served, ada: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ~/.netrc holds for the spawner's host, for Git say, is not sent instead of the token."""
    assert served.url.startswith("http://127.0.0.1:")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert ada("sessions").code == ExitCode.DONE
