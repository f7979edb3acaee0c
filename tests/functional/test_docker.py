"""A session as a container: a commit's own image, launched over HTTP, opened, worked in, pushed from, stopped.

Covered: the registry's token, the way to the spawner through its socket, the relay, restrictions as the session
itself sees them, the kept workspace, a launch that names its runtime.
Left out: what every runtime promises (contract/runtime), a browser (tests/browser).
"""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from builder.entries import Kind
from builder.tags import commit_tag, repository
from spawner.testing.democheck import Kernel
from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.containers.daemon import Daemon
from tests.containers.layout import Image
from tests.functional.conftest import Maker
from tests.functional.environment_images import registry
from tests.installation import Client, Installation
from tests.surroundings import Folder

LOOK = """import json, os, subprocess
def told(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
def lines(path):
    return dict(line.split(":", 1) for line in open(path).read().splitlines() if ":" in line)
status = lines("/proc/self/status")
print(json.dumps({
    "uid": os.getuid(), "head": told("git", "rev-parse", "HEAD"), "branch": told("git", "branch", "--show-current"),
    "capabilities": int(status["CapBnd"], 16), "no_new_privileges": int(status["NoNewPrivs"]),
    "sockets": [path for path in ("/var/run/docker.sock", "/run/docker.sock") if os.path.exists(path)],
    "tools_writable": os.access("/slipway/tools", os.W_OK), "pid_1": open("/proc/1/cmdline").read().split("\\0")[-2],
    "plan": os.path.exists(open("/proc/1/cmdline").read().split("\\0")[-2]),
}))"""
PUSH = """import subprocess
open("pushed.txt", "w").write("from a container")
for command in ("git add pushed.txt", "git commit -qm Pushed", "git push"):
    done = subprocess.run(command.split(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
print(subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout)"""


@pytest.fixture(scope="module")
def docked(make: Maker, folder: Folder, docker_daemon: Daemon, standalone_root: Path) -> Iterator[Installation]:
    """A spawner whose sessions are containers, and processes where a launch asks for it."""
    settings = {
        "SESSIONS__RUNTIME": "docker",
        "SESSIONS__MORE_RUNTIMES": "standalone",
        "DOCKER__HOST": docker_daemon.address,
        "DOCKER__ROOT": str(folder("docker")),
    }
    made = make("sqlite-inprocess", root=standalone_root, settings=settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        instance = made.environment["SPAWNER_SESSIONS__INSTANCE"]
        left = docker_daemon.run("ps", "--all", "--quiet", "--filter", f"label=io.slipway.instance={instance}")
        if left:
            docker_daemon.run("rm", "--force", *left.split())
        docker_daemon.run("network", "prune", "--force")  # its bridge would outlive the daemon


def _published(stand_in: StandIn, project: ProjectHandle, image: Image) -> str:
    """Push a commit, and its image as its job would; return the commit."""
    sha = stand_in.commit(project, {"README.md": "hello"})
    with registry(stand_in, project.owner) as client:
        image.push(client, repository(project.path), commit_tag(sha, Kind.CONTAINER))
    return sha


def test_a_commit_runs_in_its_image_and_pushes(
    stand_in: StandIn, project: ProjectHandle, alice: UserHandle, docked: Installation, notebook_image: Image
) -> None:
    """The image is pulled with the person's right; a cell sees an ordinary user without powers; `git push` arrives."""
    sha = _published(stand_in, project, notebook_image)
    client = docked.client(alice)
    name = client.launch(project, sha, build="never", fallback="fail")["name"]
    server = client.reaches(name, "RUNNING", seconds=180)
    base_url, headers = client.enter(name)
    with closing(Kernel(base_url.rstrip("/"), headers)) as kernel:
        seen = json.loads(kernel.run(LOOK))
        pushed = kernel.run(PUSH)

    assert (server["slipway"]["runtime"], server["slipway"]["image"]["source"]) == ("docker", "exact")
    assert seen.pop("pid_1").endswith("/plan.json")
    assert seen == {
        "uid": 1000, "head": sha, "branch": "main", "capabilities": 0, "no_new_privileges": 1, "sockets": [],
        "tools_writable": False, "plan": False,
    }  # fmt: skip
    branch = stand_in.api("GET", f"/projects/{project.id}/repository/branches/main", user=alice)
    assert branch["commit"]["id"] == pushed
    logs = client.call("GET", f"/api/notebooks/logs/{name}").json()
    assert "Checked out" in str(logs["git-clone"])
    _stopped_and_reopened(client, project, sha, name)


def _stopped_and_reopened(client: Client, project: ProjectHandle, sha: str, name: str) -> None:
    """What was made in the folder is there at the next launch."""
    client.stop(name)
    client.reaches(name, "GONE")
    assert client.launch(project, sha, build="never", fallback="fail")["name"] == name
    client.reaches(name, "RUNNING", seconds=60)
    base_url, headers = client.enter(name)
    kept = requests.get(f"{base_url}api/contents/pushed.txt", headers=headers, timeout=10)
    client.stop(name)
    client.reaches(name, "GONE")

    assert kept.json()["content"] == "from a container"


def test_a_launch_names_its_runtime(
    stand_in: StandIn, project: ProjectHandle, alice: UserHandle, docked: Installation
) -> None:
    """A launch that asks for the other runtime gets it; one that asks for none of ours is refused."""
    sha = stand_in.commit(project, {"README.md": "hello"})
    client = docked.client(alice)
    namespace, _, name = project.path.rpartition("/")
    body = {"namespace": namespace, "project": name, "commit_sha": sha, "branch": "main"}
    refused = client.call("POST", "/api/notebooks/servers", json={**body, "runtime": "elsewhere"})
    launched = client.launch(project, sha, build="never", runtime="standalone")
    client.stop(launched["name"])
    client.reaches(launched["name"], "GONE")

    assert (refused.status_code, refused.json()["error"]["message"]) == (422, "There is no runtime 'elsewhere'.")
    assert launched["slipway"]["runtime"] == "standalone"


def test_a_commit_without_an_image_says_so(
    stand_in: StandIn, project: ProjectHandle, alice: UserHandle, docked: Installation
) -> None:
    """Where there is no image and no default container, the launch fails in words."""
    sha = stand_in.commit(project, {"README.md": "hello"})
    client = docked.client(alice)
    name = client.launch(project, sha, build="never")["name"]
    server = client.reaches(name, "FAILED")

    assert "image" in server["slipway"]["error"]["message"]
