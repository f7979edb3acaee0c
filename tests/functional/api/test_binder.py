"""Binder's links and event stream over HTTP, read by a client that knows Binder's published events only.

Covered: links as badges have them, encoded and decoded on the way; each phase, the build's log, failures; who may
launch by a stream, and from where; what a browser is told; coming back after the end. Left out: a real session behind
the URL and token (functional/test_binder_client).
"""

import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from spawner.names import SessionName
from spawner.ports import AccessLevel, JobStatus, Visibility
from tests.functional.api.conftest import client_of
from tests.functional.api.test_pages import HTML, sign_in
from tests.functional.api.world import OLD_SHA, SHA, World

BUILD = "/build/gl/grp%2Fproj/main"
STREAM = {"Accept": "text/event-stream"}
OURS = {**STREAM, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"}
PHASES = {"fetching", "waiting", "building", "pushing", "built", "launching", "ready", "failed", "unknown"}


def read(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield a stream's events as an EventSource gives those without a name to its listener."""
    for block in body.decode().split("\n\n"):
        lines = [line.partition(": ") for line in block.splitlines() if not line.startswith(":")]
        fields = {name: value for name, _, value in lines}
        assert "event" not in fields, "a client listens for `message` alone"
        if "data" in fields:
            data = json.loads(fields["data"])
            assert data["phase"] in PHASES
            assert isinstance(data["message"], str)
            yield data


def events(client: FlaskClient, path: str = BUILD, **headers: str) -> list[dict[str, Any]]:
    """Return the events of a stream that ends by itself."""
    answer = client.get(path, headers={**STREAM, **headers})
    assert (answer.status_code, answer.content_type) == (200, "text/event-stream; charset=utf-8"), answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return list(read(answer.data))


def become_ready(world: World) -> None:
    """Let the one session that is launched answer."""
    world.be_ready(SessionName(world.until(lambda: next(iter(world.runtime.workloads), None))))


def launched(world: World, client: FlaskClient, path: str = BUILD, **headers: str) -> list[dict[str, Any]]:
    """Return the events of a launch that becomes ready."""
    other = threading.Thread(target=become_ready, args=[world])
    other.start()
    found = events(client, path, **headers)
    other.join(10)
    return found


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("gl/grp%2Fproj/main", "/launch/grp/proj/-/tree/main"),
        ("gl/grp%2Fsub%2Fproj/main", "/launch/grp/sub/proj/-/tree/main"),
        ("gl/grp%2Fproj/HEAD", "/launch/grp/proj"),
        ("gl/grp%2Fproj/feature%2Fx", "/launch/grp/proj/-/tree/feature/x"),
        ("gl/grp%2Fproj/feature/x", "/launch/grp/proj/-/tree/feature/x"),
        (f"gl/grp%2Fproj/{SHA}", f"/launch/grp/proj/-/tree/{SHA}"),
        ("gl/grp/sub/proj/main", "/launch/grp/sub/proj/-/tree/main"),
        ("gl/grp/proj/feature%2Fx", "/launch/grp/proj/-/tree/feature/x"),
        ("git/https%3A%2F%2Fgitlab.test%2Fgrp%2Fproj.git/main", "/launch/grp/proj/-/tree/main"),
        ("gl/grp%2Fproj/main?filepath=a%2Fb.ipynb", "/launch/grp/proj/-/tree/main?path=a%2Fb.ipynb"),
        ("gl/grp%2Fproj/main?labpath=/a.ipynb", "/launch/grp/proj/-/tree/main?path=a.ipynb"),
        ("gl/grp%2Fproj/main?urlpath=lab/tree/a.ipynb", "/launch/grp/proj/-/tree/main?path=a.ipynb"),
        ("gl/grp%2Fproj/main?urlpath=%2Fdoc%2Ftree%2Fa.ipynb%3Fx%3D1", "/launch/grp/proj/-/tree/main?path=a.ipynb"),
        ("gl/grp%2Fproj/main?urlpath=notebooks/a.ipynb", "/launch/grp/proj/-/tree/main?path=a.ipynb"),
        ("gl/grp%2Fproj/main?urlpath=%2F%2F%5Bx", "/launch/grp/proj/-/tree/main"),
        ("gl/grp%2Fproj/main?urlpath=lab", "/launch/grp/proj/-/tree/main"),
        ("gl/grp%2Fproj/main?urlpath=git-pull%3Frepo%3Dhttps%3A%2F%2Fevil.test", "/launch/grp/proj/-/tree/main"),
    ],
)
def test_link(nobody: FlaskClient, link: str, expected: str) -> None:
    """A Binder link leads to the launch page of the same project, branch and file."""
    answer = nobody.get(f"/v2/{link}", headers=HTML)
    assert (answer.status_code, answer.headers.get("Location")) == (302, expected)


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("gh/jupyterlab/jupyterlab-demo/HEAD", "launches projects of https://gitlab.test only"),
        ("gl/justaname", "names no project"),
        ("gl/grp%2Fproj/..%2F..%2Fx", "no branch, tag or commit"),
        ("gl/grp%2Fproj/main?filepath=../../etc/passwd", "none inside the repository"),
        ("git/https%3A%2F%2Fevil.test%2Fgrp%2Fproj/main", "another server"),
    ],
)
def test_no_link(nobody: FlaskClient, link: str, words: str) -> None:
    """A link that we cannot follow is told on a page, in a sentence."""
    answer = nobody.get(f"/v2/{link}", headers=HTML)
    assert (answer.status_code, words in answer.text) == (422, True), answer.text


# ---------------------------------------------------------------- the stream


def test_a_program_gets_url_and_token(world: World, ada: FlaskClient) -> None:
    """A member's program sees the image found, the start, and a URL and token that open the session."""
    image = world.add_image()
    found = launched(world, ada)
    assert [each["phase"] for each in found if each["phase"] != "waiting"] == ["built", *["launching"] * 3, "ready"]
    ready = found[-1]
    name = next(iter(world.runtime.workloads))
    assert {key: value for key, value in ready.items() if key not in {"phase", "message"}} == {
        "url": "http://127.0.0.1:4567/",
        "token": "session-token",
        "image": image.pinned,
        "repo_url": "https://gitlab.test/grp/proj",
        "binder_ref_url": f"https://gitlab.test/grp/proj/-/tree/{SHA}",
        "binder_launch_host": "http://slipway.test/",
        "binder_request": "v2/gl/grp%2Fproj/main",
        "binder_persistent_request": f"v2/gl/grp%2Fproj/{SHA}",
    }
    assert [each["imageName"] for each in found if each["phase"] == "built"] == [image.pinned]
    assert list(ada.get("/notebooks/servers").json["servers"]) == [name]  # type: ignore[index]


def test_twice_is_once(world: World, ada: FlaskClient) -> None:
    """A client that connects again finds the same session; one that comes back after the end is told to stop."""
    world.add_image()
    launched(world, ada)
    assert events(ada)[-1]["phase"] == "ready"
    assert len(world.runtime.workloads) == 1
    last = [line for line in ada.get(BUILD, headers=STREAM).text.splitlines() if line.startswith("id: ")][-1]
    again = ada.get(BUILD, headers={**STREAM, "Last-Event-ID": last.removeprefix("id: ")})
    assert (again.status_code, again.data) == (204, b"")


def test_a_build_is_told(world: World, ada: FlaskClient) -> None:
    """While CI builds, its log comes as `building`; then `pushing` and `built`, as clients expect them in turn."""
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.RUNNING, log=b"Resolving six\n")

    def finish() -> None:
        world.until(lambda: (build := world.services.images.build(f"default/42/{SHA}")) and build.log_bytes)
        world.add_image()
        world.add_job(project, JobStatus.SUCCESS, log=b"Resolving six\nPushed\n")
        world.services.images.hint("default", 42, SHA)
        become_ready(world)

    other = threading.Thread(target=finish)
    other.start()
    found = events(ada)
    other.join(20)
    phases = [each["phase"] for each in found]
    assert [phase for n, phase in enumerate(phases) if phase != phases[n - 1]] == [
        "waiting",
        "building",
        "pushing",
        "built",
        "launching",
        "ready",
    ]
    log = "".join(each["message"] for each in found if each["phase"] == "building")
    assert "Resolving six\n" in log


def test_a_failure_ends_the_stream(world: World, ada: FlaskClient) -> None:
    """A launch that fails says why and what to do, in the last event."""
    world.add_job(world.forge.projects[42], JobStatus.FAILED)
    world.registry.images.clear()
    last = events(ada)[-1]
    assert (last["phase"], "image_build" in last["message"]) == ("failed", True)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/build/gl/grp%2Fabsent/main", "There is no project grp/absent, or you may not see it."),
        ("/build/gl/grp%2Fproj/absent", "has no commit, branch or tag 'absent'"),
        ("/build/gh/some/repo/HEAD", "launches projects of https://gitlab.test only"),
        (f"{BUILD}?build_only=true", "Nothing is built without a launch here."),
    ],
)
def test_refusals(world: World, ada: FlaskClient, path: str, words: str) -> None:
    """What cannot be launched is one `failed` event, since an EventSource shows nothing else."""
    found = events(ada, path)
    assert [(each["phase"], words in each["message"]) for each in found] == [("failed", True)]
    assert world.runtime.workloads == {}
    assert ada.get(path, headers={"Last-Event-ID": "over"}).status_code == 204


def test_only_members_launch_by_a_stream(world: World, bob: FlaskClient, nobody: FlaskClient) -> None:
    """A stranger's client is sent to the page that asks; without a sign-in there is nothing at all."""
    world.add_project("lab/open", members={"ada": AccessLevel.DEVELOPER}, visibility=Visibility.PUBLIC)
    path = f"/build/gl/{quote('lab/open', safe='')}/main"
    told = events(bob, path)
    assert [each["phase"] for each in told] == ["failed"]
    assert "http://slipway.test/launch/lab/open/-/tree/main" in told[0]["message"]
    assert [each["phase"] for each in events(nobody, path)] == ["failed"]
    assert world.runtime.workloads == {}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "image"},
    ],
)
def test_no_other_page_launches(world: World, headers: dict[str, str]) -> None:
    """A signed-in browser launches by a stream from our own pages only, not from a session's or a stranger's."""
    client = client_of(world, None)
    sign_in(client, "ada")
    assert [each["phase"] for each in events(client, **headers)] == ["failed"]
    assert world.runtime.workloads == {}


def test_a_browser_is_told_no_token(world: World) -> None:
    """A browser gets the address of the session's page, whatever its client puts behind it, and no secret."""
    client = client_of(world, None)
    sign_in(client, "ada")
    world.add_image()
    ready = launched(world, client, **OURS)[-1]
    name = next(iter(world.runtime.workloads))
    assert (ready["url"], ready["token"]) == (f"http://slipway.test/sessions/{name}/", "")
    for path in ("", "doc/tree/a.ipynb?token=", "?token="):
        answer = client.get(f"/sessions/{name}/{path}", headers=HTML)
        assert (answer.status_code, answer.headers.get("Location")) == (302, f"/sessions/{name}")


def test_an_old_commit(world: World, ada: FlaskClient) -> None:
    """The persistent link of a commit launches that commit."""
    world.add_image(sha=OLD_SHA)
    found = launched(world, ada, f"/build/gl/grp%2Fproj/{OLD_SHA}")
    assert found[-1]["binder_persistent_request"] == f"v2/gl/grp%2Fproj/{OLD_SHA}"
