"""A session's life over HTTP: launch, reuse of names, stop in each phase, relaunch on the kept folder.

Covered: both databases and dispatchers, with a real JupyterLab in the default environment.
Left out: images built by CI (test_images), two people (test_isolation), kills (tests/functional/test_kill_matrix).
"""

import requests

from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.installation import Client, wait_for


def test_a_launch_runs_answers_and_ends(stand_in: StandIn, project: ProjectHandle, at_alice: Client) -> None:
    """A launched commit answers at its own address, and stopping it leaves nothing that answers."""
    sha = stand_in.commit(project, {"README.md": "hello"})

    name = at_alice.launch(project, sha, build="never")["name"]
    at_alice.reaches(name, "RUNNING", seconds=180)
    base_url, headers = at_alice.enter(name)
    there = requests.get(f"{base_url}api/contents/README.md", headers=headers, timeout=30)
    assert (there.status_code, there.json()["content"]) == (200, "hello")

    assert requests.get(f"{base_url}api/contents", timeout=30).status_code in {302, 403}
    used = wait_for(lambda: (at_alice.get(name) or {})["resources"]["usage"], seconds=30, what="its usage")
    assert used["memory"].endswith("G")
    assert 0.01 < float(used["memory"][:-1]) < 2
    assert at_alice.stop(name) == requests.codes.no_content
    at_alice.reaches(name, "GONE")
    try:
        requests.get(base_url, timeout=2)
    except requests.ConnectionError:
        return
    raise AssertionError("the session's port still answers")


def test_the_same_launch_twice_is_one_session(stand_in: StandIn, project: ProjectHandle, at_alice: Client) -> None:
    """Posting again finds the session (200), and stopping it while it starts ends it."""
    sha = stand_in.commit(project, {"README.md": "hello"})

    first = at_alice.launch(project, sha, build="never")
    second = at_alice.launch(project, sha, build="never")

    assert second["name"] == first["name"]
    assert at_alice.stop(first["name"]) == requests.codes.no_content
    at_alice.reaches(first["name"], "GONE")


def test_a_stopped_session_reopens_on_its_folder(stand_in: StandIn, project: ProjectHandle, at_alice: Client) -> None:
    """What was written in the folder is there at the next launch of the same session, which says so."""
    sha = stand_in.commit(project, {"README.md": "hello"})
    name = at_alice.launch(project, sha, build="never")["name"]
    at_alice.reaches(name, "RUNNING", seconds=180)
    base_url, headers = at_alice.enter(name)
    written = requests.put(
        f"{base_url}api/contents/kept.txt",
        headers=headers,
        json={"type": "file", "format": "text", "content": "mine"},
        timeout=30,
    )
    assert written.status_code == requests.codes.created, written.text
    at_alice.stop(name)
    at_alice.reaches(name, "GONE")

    assert at_alice.launch(project, sha, build="never")["name"] == name
    at_alice.reaches(name, "RUNNING", seconds=60)
    base_url, headers = at_alice.enter(name)
    kept = requests.get(f"{base_url}api/contents/kept.txt", headers=headers, timeout=30)

    assert kept.json()["content"] == "mine"
    assert any("kept from before" in event["message"] for event in at_alice.events(name))
    at_alice.stop(name)
    at_alice.reaches(name, "GONE")
