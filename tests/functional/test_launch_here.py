"""`spawner launch .` as a person types it: a real checkout, the stand-in behind its remote, a whole spawner.

Covered: what is pushed, what is not, uncommitted work with and without a yes, once and again, remotes elsewhere, a
token in the remote's URL. Left out: every kind of change (unit/cli/test_checkout).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.installation import Client

_SECONDS = 60.0
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def clone(stand_in: StandIn, project: ProjectHandle, alice: UserHandle, tmp_path: Path) -> Path:
    """A checkout of Alice's project, whose remote has her token in its URL, as many have."""
    stand_in.commit(project, {"hello.py": "print(1)"})
    parts = urlsplit(project.http_url)
    url = parts._replace(netloc=f"oauth2:{alice.token}@{parts.netloc}").geturl()
    subprocess.run(["git", "clone", "--quiet", url, tmp_path / "checkout"], check=True)
    for name, value in {"user.name": "Alice", "user.email": "alice@example.com"}.items():
        subprocess.run(["git", "config", name, value], cwd=tmp_path / "checkout", check=True)
    return tmp_path / "checkout"


@pytest.fixture
def run(clone: Path, at_alice: Client, tmp_path: Path) -> Run:
    """Launch from the checkout; with `typed`, at a terminal."""
    token = tmp_path / "token"
    token.write_text(at_alice.user.token)
    environment = {**os.environ, "SLIPWAY_URL": at_alice.url, "SLIPWAY_TOKEN_FILE": str(token)}

    def launch(*arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
        ours, theirs = os.openpty()
        os.write(ours, typed.encode())
        command = [sys.executable, "-m", "spawner", "launch", ".", "--json", *arguments]
        try:
            return subprocess.run(
                command,
                cwd=clone,
                env=environment,
                stdin=theirs if typed else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
            )
        finally:
            os.close(ours)
            os.close(theirs)

    return launch


def of(ended: "subprocess.CompletedProcess[str]") -> tuple[str, str]:
    """Return branch and commit of what was launched."""
    assert ended.returncode == 0, ended.stderr
    notes = json.loads(ended.stdout)["annotations"]
    return notes["renku.io/branch"], notes["renku.io/commit-sha"]


def branches(stand_in: StandIn, project: ProjectHandle) -> dict[str, str]:
    """Return GitLab's branches and their commits."""
    rows = stand_in.api("GET", f"/projects/{project.id}/repository/branches")
    return {row["name"]: row["commit"]["id"] for row in rows}


def test_from_a_checkout(stand_in: StandIn, project: ProjectHandle, clone: Path, run: Run, at_alice: Client) -> None:
    """What is pushed is launched; uncommitted work only when it may be pushed, to its own branch, and once."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=clone, capture_output=True, text=True, check=True).stdout.strip()

    head = git("rev-parse", "HEAD")
    assert of(run()) == ("main", head)

    (clone / "hello.py").write_text("print(2)")
    refused = run()
    assert refused.returncode == 2, refused.stderr
    assert "nobody is here to be asked" in json.loads(refused.stdout)["error"]["message"]
    assert branches(stand_in, project) == {"main": head}
    assert of(run("--sha", head)) == ("main", head)

    branch, sha = of(run("--yes"))
    assert branch == f"slipway/alice/main/{sha[:7]}"
    assert branches(stand_in, project) == {"main": head, branch: sha}
    assert (git("rev-parse", "HEAD"), git("status", "--short"), git("branch", "--list")) == (
        head,
        "M hello.py",
        "* main",
    )
    assert of(run()) == (branch, sha)  # it is there: nobody need be asked

    git("commit", "--quiet", "--all", "--message", "Say 2.")
    unpushed = git("rev-parse", "HEAD")
    declined = run(typed="n\n")
    assert (declined.returncode, "Nothing was pushed" in declined.stderr) == (1, True)
    assert set(branches(stand_in, project)) == {"main", branch}
    assert of(run(typed="y\n")) == (f"slipway/alice/main/{unpushed[:7]}", unpushed)
    for name in at_alice.call("GET", "/api/notebooks/servers").json()["servers"]:
        at_alice.stop(name)


def test_a_remote_elsewhere(clone: Path, run: Run, alice: UserHandle) -> None:
    """A checkout of another server's project is not launched, and its remotes are named; no token is shown."""
    url = f"https://oauth2:{alice.token}@gitlab.elsewhere.example/a/b.git"
    subprocess.run(["git", "remote", "set-url", "origin", url], cwd=clone, check=True)
    ended = run("--yes")
    assert ended.returncode == 4
    assert "origin: This address is of another server." in ended.stderr
    assert alice.token not in ended.stderr + ended.stdout
