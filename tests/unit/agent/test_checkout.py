"""The checkout's script on real Git: what is done anew, what is tried again, what is given up at once.

Left out: the relay and the agent around it (contract/runtime, functional).
"""

import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spawner.agent import checkout


class _Refusing(BaseHTTPRequestHandler):
    """Answers every request with the status that its path begins with, and a sentence."""

    def do_GET(self) -> None:
        if self.path.startswith("/200/"):  # the first words of protocol v2, and then no more
            self.send_response(200)
            self.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
            self.end_headers()
            self.wfile.write(b"001e# service=git-upload-pack\n0000000eversion 2\n")
            return
        content = b"GitLab cannot be reached. It is tried again.\n"
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def relay() -> Iterator[str]:
    """The address of a relay that refuses everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(30)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "origin"
    folder.mkdir()
    _git(folder, "init", "-q", "-b", "main")
    (folder / "README.md").write_text("hello")
    _git(folder, "add", "README.md")
    _git(folder, "commit", "-qm", "Begin.")
    return folder


def _run(place: Path, origin: str, sha: str) -> int:
    for name in ("checkout", "private", "home"):
        (place / name).mkdir(parents=True, exist_ok=True)
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "private"),
        "SLIPWAY_PRIVATE": str(place / "private"),
        "SLIPWAY_CHECKOUT": str(place / "checkout"),
        "SLIPWAY_ORIGIN": origin,
        "SLIPWAY_SHA": sha,
        "SLIPWAY_BRANCH": "main",
        "SLIPWAY_IS_TAG": "0",
        "SLIPWAY_LFS": "0",
        "GIT_ALLOW_PROTOCOL": "file:http",  # of submodules too, which Git trusts less
    }
    done = subprocess.run(
        ["/bin/sh", "-c", checkout.SCRIPT], env=variables, capture_output=True, check=False, timeout=30
    )
    return done.returncode


def test_a_checkout_that_was_killed_is_done_anew(tmp_path: Path, origin: Path) -> None:
    """What a killed Git left, a locked configuration included, does not stand in the way of the next try."""
    left = tmp_path / "place" / "checkout" / ".git"
    left.mkdir(parents=True)
    (left / "config.lock").touch()
    (left / "shallow.lock").touch()
    sha = _git(origin, "rev-parse", "HEAD")

    assert _run(tmp_path / "place", str(origin), sha) == 0
    assert (tmp_path / "place" / "checkout" / "README.md").read_text() == "hello"


def test_a_submodule_that_cannot_be_fetched_stops_no_other(tmp_path: Path, origin: Path) -> None:
    """The submodules that can be fetched are there, whatever stands before or after them."""
    sha = _git(origin, "rev-parse", "HEAD")
    whole = tmp_path / "whole"
    whole.mkdir()
    _git(whole, "init", "-q", "-b", "main")
    urls = {"a first": tmp_path / "nowhere", "the middle": origin, "z last": tmp_path / "nowhere"}
    lines = [f'[submodule "{path}"]\n\tpath = {path}\n\turl = file://{url}\n' for path, url in urls.items()]
    (whole / ".gitmodules").write_text("".join(lines))
    _git(whole, "add", ".gitmodules")
    for path in urls:
        _git(whole, "update-index", "--add", "--cacheinfo", f"160000,{sha},{path}")
    _git(whole, "commit", "-qm", "Add submodules.")

    assert _run(tmp_path / "place", str(whole), _git(whole, "rev-parse", "HEAD")) == 0
    checked_out = tmp_path / "place" / "checkout"
    assert {path: sorted(each.name for each in (checked_out / path).iterdir()) for path in urls} == {
        "a first": [],
        "the middle": [".git", "README.md"],
        "z last": [],
    }


def test_a_finished_checkout_is_left_alone(tmp_path: Path, origin: Path) -> None:
    """A second run finds the first one's repository and changes nothing in it."""
    sha = _git(origin, "rev-parse", "HEAD")
    assert _run(tmp_path / "place", str(origin), sha) == 0
    (tmp_path / "place" / "checkout" / "README.md").write_text("mine")

    assert _run(tmp_path / "place", str(origin), sha) == checkout.ALREADY_THERE
    assert (tmp_path / "place" / "checkout" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, checkout.AWAY),
        (503, checkout.AWAY),
        (502, checkout.AWAY),
        (403, checkout.REFUSED),
        (404, checkout.REFUSED),
        (400, checkout.REFUSED),
    ],
)
def test_a_relay_that_is_away_is_asked_again(tmp_path: Path, relay: str, status: int, code: int) -> None:
    """A refusal ends the tries, and a sentence that comes with a 503 does not make it one."""
    assert _run(tmp_path / "place", f"{relay}/{status}/project.git", "0" * 40) == code


def test_nobody_at_the_relay_s_port_is_absence(tmp_path: Path) -> None:
    """A spawner that is not there yet is told apart from one that refuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    assert _run(tmp_path / "place", f"http://127.0.0.1:{port}/project.git", "0" * 40) == checkout.AWAY
