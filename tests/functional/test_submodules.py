"""Submodules of a session's project, at a real forge.

Covered: a public one whose path begins with the project's own, given relative to it; a private one.
Left out: which addresses Git sends where (tests/unit/runtimes/test_standalone).
"""

from pathlib import Path

import requests

from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.functional.ladder import Stage
from tests.installation import Client

TOLD = "The submodule secret could not be fetched; a session reads public ones only."


def test_a_session_has_public_submodules(
    stand_in: StandIn, project: ProjectHandle, alice: UserHandle, at_alice: Client, tmp_path: Path
) -> None:
    """A public submodule is there with the session; a private one stays empty, is told of, and holds nothing up."""
    name = project.path.rpartition("/")[2]
    modules = {"data": "public", "secret": "private"}
    commits = {}
    for module, visibility in modules.items():
        made = stand_in.add_project(f"{project.path}-{module}", owner=alice, visibility=visibility)
        commits[module] = stand_in.commit(made, {"figures.csv": module})
    stage = Stage(stand_in=stand_in, project=project, client=at_alice, work=tmp_path)
    stage.git(tmp_path, "init", "-q", "-b", "main")
    lines = [f'[submodule "{each}"]\n\tpath = {each}\n\turl = ../{name}-{each}.git\n' for each in modules]
    (tmp_path / ".gitmodules").write_text("".join(lines))
    stage.git(tmp_path, "add", ".gitmodules")
    for module, sha in commits.items():
        stage.git(tmp_path, "update-index", "--add", "--cacheinfo", f"160000,{sha},{module}")
    stage.git(tmp_path, "commit", "-q", "-m", "Add submodules.")
    stage.git(tmp_path, "push", "-q", project.http_url, "main")

    session = at_alice.launch(project, stage.git(tmp_path, "rev-parse", "HEAD"), build="never")["name"]
    at_alice.reaches(session, "RUNNING", seconds=180)
    base_url, headers = at_alice.enter(session)
    there = {
        module: requests.get(f"{base_url}api/contents/{module}/figures.csv", headers=headers, timeout=30)
        for module in modules
    }
    log = at_alice.call("GET", f"/api/notebooks/logs/{session}").json()["git-clone"]
    at_alice.stop(session)
    at_alice.reaches(session, "GONE")

    assert {module: answer.status_code for module, answer in there.items()} == {"data": 200, "secret": 404}
    assert there["data"].json()["content"] == "data"
    assert TOLD in log
