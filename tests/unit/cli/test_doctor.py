"""The doctor's looks at other servers.

Covered: a GitLab behind a proxy that is away, a Redis with and without a password, no Docker.
Left out: the rest (test_serving).
"""

import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

from spawner.cli.findings import Finding, Verdict, report
from spawner.config import load
from tests.installation import wait_for
from tests.servers import free_port
from tests.unit.cli.conftest import Run


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


def finding(run: Run, check: str) -> dict[str, Any]:
    """Return the doctor's finding of one check."""
    rows: list[dict[str, Any]] = run("doctor", "--json").document["findings"]
    return next(row for row in rows if row["check"] == check)


@pytest.mark.parametrize(
    ("status", "verdict"), [(401, "ok"), (404, "wrong"), (429, "away"), (502, "away"), (503, "away")]
)
@pytest.mark.usefixtures("settings")
def test_gitlab(run: Run, monkeypatch: pytest.MonkeyPatch, status: int, verdict: str) -> None:
    """A GitLab that cannot serve just now is away; only an address that is no GitLab's is wrong."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("SPAWNER_GITLAB__URL", f"http://127.0.0.1:{server.server_port}")
    with serving(server):
        found = finding(run, "gitlab")
    assert found["verdict"] == verdict
    assert (found["remedy"] == "Set SPAWNER_GITLAB__URL to GitLab's own address.") == (verdict == "wrong")


@pytest.fixture(scope="module")
def guarded_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis that wants the password `right`."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Install redis-server.")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    told = f'port {port}\nbind 127.0.0.1\ndir "{folder}"\nsave ""\nappendonly no\nrequirepass right-password-of-redis\n'
    (folder / "redis.conf").write_text(told)
    with ExitStack() as held:
        log = held.enter_context((folder / "log").open("wb"))
        process = held.enter_context(
            subprocess.Popen([program, str(folder / "redis.conf")], stdin=subprocess.DEVNULL, stdout=log)
        )
        held.callback(process.kill)

        def answers() -> bool | None:
            with redis.Redis(port=port, password="right-password-of-redis", socket_timeout=2) as client:
                try:
                    return bool(client.ping())
                except redis.RedisError:
                    return None

        wait_for(answers, seconds=20, what="a Redis")
        yield f"redis://127.0.0.1:{port}/0"


@pytest.mark.parametrize(
    ("password", "verdict", "words"),
    [
        ("right-password-of-redis", "ok", "answers"),
        ("wrong-password-of-redis", "wrong", "WRONGPASS"),
        (None, "wrong", "NOAUTH"),
    ],
)
def test_redis(  # noqa: PLR0917 - a table's columns
    settings: Path, run: Run, monkeypatch: pytest.MonkeyPatch, guarded_redis: str, password: str | None, verdict: str,
    words: str,
) -> None:  # fmt: skip
    """A Redis counts as there when it answers to the password of the settings; another one, or none, is wrong."""
    monkeypatch.setenv("SPAWNER_REDIS__URL", guarded_redis)
    if password is not None:
        (settings / "redis-password").write_text(password + "\n")
        monkeypatch.setenv("SPAWNER_REDIS__PASSWORD_FILE", str(settings / "redis-password"))
    found = finding(run, "redis")
    assert (found["verdict"], words in found["message"]) == (verdict, True)
    assert bool(found["remedy"]) == (verdict == "wrong")


@pytest.mark.usefixtures("settings")
def test_a_docker_that_is_away_is_said_so(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no Docker answers at the socket of the settings, the doctor names it and says what to do."""
    monkeypatch.setenv("SPAWNER_SESSIONS__RUNTIME", "docker")
    monkeypatch.setenv("SPAWNER_DOCKER__ROOT", str(tmp_path / "docker"))
    monkeypatch.setenv("SPAWNER_DOCKER__HOST", f"unix://{tmp_path}/none.sock")
    found = finding(run, "docker")

    assert (found["verdict"], "none.sock" in found["message"]) == ("away", True)
    assert "SPAWNER_DOCKER__HOST" in found["remedy"]


@pytest.mark.usefixtures("settings")
def test_a_report_tells_what_is_confirmed_and_names_nobody(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is not of this kind, what was not looked at, and what is well are told apart; no address is in it."""
    monkeypatch.setenv("SPAWNER_GITLAB__URL", "http://127.0.0.1:9/gitlab")
    page = tmp_path / "report.md"
    run("doctor", "--report", str(page))
    text = page.read_text()
    assert "| a GitLab below a path | not looked at: give --token-file |" in text
    assert "| GitLab.com | not of this kind |" in text
    assert "| the runtime standalone | confirmed |" in text
    assert "127.0.0.1" not in text


@pytest.mark.parametrize(
    ("verdict", "standing"),
    [(Verdict.OK, "confirmed"), (Verdict.NOTE, "confirmed"), (Verdict.AWAY, "not well"), (Verdict.WRONG, "not well")],
)
@pytest.mark.usefixtures("settings")
def test_a_line_is_confirmed_only_where_all_is_well(verdict: Verdict, standing: str) -> None:
    """One check that is not well is enough to confirm nothing that stands on it."""
    findings = [Finding(check=check, verdict=Verdict.OK, message="") for check in ("gitlab", "token")]
    findings.append(Finding(check="gitlab", verdict=verdict, message=""))
    rows = report(load(), findings, gitlab_version="18.5.0").splitlines()
    (row,) = [row for row in rows if row.startswith("| a GitLab at a host name of its own")]
    assert standing in row
    assert "- GitLab 18.5.0" in rows
