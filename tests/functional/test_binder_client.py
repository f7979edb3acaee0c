"""A client made for Binder, on a whole spawner: from `/build/gl/…` to the session's own Jupyter API.

Covered: the published flow of BinderHub's API documentation, the raw path as a web server hands it on, the session
behind URL and token, a link's way to the launch page. Left out: each phase and refusal (functional/api/test_binder).
"""

import json
from typing import Any
from urllib.parse import quote

import requests

from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.installation import Client

_SECONDS = 60.0


def follow(client: Client, spec: str) -> list[dict[str, Any]]:
    """Return the events of a launch up to its end, as a Binder client reads them."""
    found: list[dict[str, Any]] = []
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {client.user.token}"}
    with requests.get(f"{client.url}/build/gl/{spec}", headers=headers, stream=True, timeout=_SECONDS) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
            if line.startswith("data:"):
                found.append(json.loads(line.removeprefix("data:")))
                if found[-1]["phase"] in {"ready", "failed"}:
                    break
    return found


def test_a_launch(stand_in: StandIn, project: ProjectHandle, at_alice: Client) -> None:
    """URL and token of the last event open the session's Jupyter; without the token it stays closed."""
    sha = stand_in.commit(project, {"hello.py": "print(1)"}, branch="feature/hello")
    spec = f"{quote(project.path, safe='')}/{quote('feature/hello', safe='')}"
    found = follow(at_alice, spec)
    assert found[-1]["phase"] == "ready", found
    ready = found[-1]
    try:
        assert ready["binder_persistent_request"] == f"v2/gl/{quote(project.path, safe='')}/{sha}"
        contents = f"{ready['url']}api/contents/hello.py"
        seen = requests.get(contents, headers={"Authorization": f"token {ready['token']}"}, timeout=_SECONDS)
        assert seen.json()["content"] == "print(1)"
        assert requests.get(contents, timeout=_SECONDS).status_code == requests.codes.forbidden
    finally:
        for name in at_alice.call("GET", "/api/notebooks/servers").json()["servers"]:
            at_alice.stop(name)


def test_a_link(project: ProjectHandle, at_alice: Client) -> None:
    """A link with its project encoded leads to the launch page, through a real web server."""
    link = f"/v2/gl/{quote(project.path, safe='')}/feature%2Fhello?filepath=hello.py"
    answer = at_alice.call("GET", link, allow_redirects=False)
    expected = f"/launch/{project.path}/-/tree/feature/hello?path=hello.py"
    assert (answer.status_code, answer.headers["Location"].removeprefix(at_alice.url)) == (302, expected)
