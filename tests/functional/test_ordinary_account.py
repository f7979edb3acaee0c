"""A spawner run by an ordinary user: one person at a time, in so many words, and warnings about whose code it is.

Covered: admission, its end, the sentences in the API and on pages. Run as root the spawner gets an account of its own.
Left out: several people under root (test_isolation); a session's life (test_session_life).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.installation import Client, install
from tests.surroundings import Folder

ACCOUNT = 61_234  # nobody's
ROOT = Path(__file__).parents[2]
TRUST = "launch only code you trust as yourself"
pytestmark = pytest.mark.timeout(300)


def _program(account: int | None) -> str:
    """Return a Python of our own version that the account may run."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}", shutil.which(name)):
        if found is not None and Path(found).exists() and _runs(found, account):
            return found
    pytest.skip(
        f"No {name} may be run by an ordinary user here: install it for all (Debian: `apt-get install python3`)"
    )


def _runs(program: str, account: int | None) -> bool:
    try:
        # Through a shell: it is the second start that has no right of ours any more.
        done = subprocess.run(
            ["/bin/sh", "-c", '"$0" -c "import sqlite3"', program],
            user=account,
            group=account,
            extra_groups=None if account is None else [],
            capture_output=True,
            check=False,
            timeout=30,
            cwd="/",
        )
    except OSError:
        return False
    return done.returncode == 0


@pytest.fixture(scope="module")
def address(stand_in: StandIn, folder: Folder) -> Iterator[str]:
    """Where a spawner answers that an ordinary user runs."""
    account = ACCOUNT if os.geteuid() == 0 else None
    data = folder("ordinary")
    made = install(
        data=data, stand_in=stand_in, database_url=f"sqlite:///{data}/slipway.db", root=folder("ordinary-sessions")
    )
    made.program = (_program(account), "-m", "spawner")
    made.account = account
    packages = sysconfig.get_path("purelib")
    made.environment = {**made.environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{packages}", "HOME": str(data)}
    if account is not None:
        for each in (data, *data.iterdir(), Path(made.environment["SPAWNER_STANDALONE__ROOT"])):
            os.chown(each, account, account)
    try:
        made.start()
        yield made.url
    finally:
        made.stop()


@pytest.fixture(scope="module")
def launched(stand_in: StandIn, address: str, alice: UserHandle) -> Iterator[dict[str, str]]:
    """Alice's session, the first of this machine; what the launch answered."""
    project = stand_in.add_project("alice/ordinary", owner=alice)
    sha = stand_in.commit(project, {"README.md": "hello"})
    client = Client(address, alice)
    server = client.launch(project, sha, build="never")
    yield {"name": server["name"], "sha": sha, "warnings": str(server["status"]["warnings"])}
    client.stop(server["name"])
    client.reaches(server["name"], "GONE")


@pytest.fixture(scope="module")
def of_bob(stand_in: StandIn, bob: UserHandle) -> tuple[ProjectHandle, str]:
    """A public project of Bob's, and its commit."""
    project = stand_in.add_project("bob/ordinary", owner=bob, visibility="public")
    return project, stand_in.commit(project, {"README.md": "hello"})


def test_the_launch_says_whose_account_it_is(address: str, alice: UserHandle, launched: dict[str, str]) -> None:
    """The answer to a launch and the session's page say that its code runs as the machine's own account."""
    page = Client(address, alice).call("GET", f"/sessions/{launched['name']}")

    assert TRUST in launched["warnings"]
    assert TRUST in page.text


def test_a_stranger_s_project_is_warned_of(
    address: str, alice: UserHandle, launched: dict[str, str], of_bob: tuple[ProjectHandle, str]
) -> None:
    """Before a project that she is no member of, the one person is told so, and nothing starts by itself."""
    assert launched
    project, _ = of_bob
    client = Client(address, alice)
    page = client.call("GET", f"/launch/{project.path}")

    assert page.ok
    assert "You are no member of this project" in page.text
    assert "Launch only code that you trust" in page.text
    assert list(client.call("GET", "/api/notebooks/servers").json()["servers"]) == [launched["name"]]


def test_a_second_person_is_refused_until_the_first_has_left(
    address: str, alice: UserHandle, bob: UserHandle, launched: dict[str, str], of_bob: tuple[ProjectHandle, str]
) -> None:
    """Bob gets a sentence and no session while Alice's run, and a session of his own once they have stopped."""
    project, sha = of_bob
    at_alice, at_bob = Client(address, alice), Client(address, bob)
    namespace, _, name = project.path.rpartition("/")
    body = {"namespace": namespace, "project": name, "commit_sha": sha, "branch": "main", "build": "never"}

    refused = at_bob.call("POST", "/api/notebooks/servers", json=body)
    page = at_bob.call("GET", f"/launch/{project.path}")
    assert refused.status_code == requests.codes.forbidden
    assert "cannot keep two people apart" in refused.text
    assert page.status_code == requests.codes.forbidden
    assert "cannot keep two people apart" in page.text
    assert at_bob.call("GET", "/api/notebooks/servers").json() == {"servers": {}}
    assert launched["name"] not in refused.text + page.text

    at_alice.stop(launched["name"])
    at_alice.reaches(launched["name"], "GONE")
    admitted = at_bob.launch(project, sha, build="never")
    assert TRUST in str(admitted["status"]["warnings"])
    at_bob.stop(admitted["name"])
    at_bob.reaches(admitted["name"], "GONE")
