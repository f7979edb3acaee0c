"""The Git relay's edge, with a forge whose Git answers what a test puts there.

Covered: what is sent on and what is not, rights, refusals in text, LFS, no token in any byte.
Left out: real Git through a real forge (tests/functional/gitlab).
"""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from spawner.names import SessionName
from spawner.ports import AccessLevel, GitAnswer, Visibility
from tests.functional.api.conftest import client_of
from tests.functional.api.test_servers import launch, run
from tests.functional.api.world import SHA, World

OID = "a" * 64
PACK = b"\x00PACK" * 500_000  # larger than any other body may be


@pytest.fixture
def name(world: World, ada: FlaskClient) -> str:
    """A running session of Ada's, who is developer."""
    found: str = run(world, ada)["name"]
    return found


def _git(world: World, name: str, suffix: str, *, method: str = "GET", project: str = "grp/proj", **more: Any) -> Any:
    credential = world.runtime.workloads[SessionName(name)].credential
    headers = {"Authorization": f"Bearer {credential}", **more.pop("headers", {})}
    client = client_of(world, None)
    return client.open(f"/git/{name}/{project}.git/{suffix}", method=method, headers=headers, **more)


def _answer(world: World, status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
    world.forge.git_answer = GitAnswer(status=status, headers=headers or {}, body=iter([body[:7], body[7:]]))


def test_fetch(world: World, name: str) -> None:
    """A fetch is sent on with the owner's token and Git's own headers, and the answer comes back as it is."""
    _answer(world, body=PACK, headers={"Content-Type": "application/x-git-upload-pack-result", "Set-Cookie": "x"})
    sent = {"Git-Protocol": "version=2", "Content-Encoding": "gzip", "Cookie": "y", "X-Forwarded-For": "z"}
    answer = _git(world, name, "git-upload-pack", method="POST", data=PACK, headers=sent)
    assert (answer.status_code, answer.data) == (200, PACK)
    assert "Set-Cookie" not in answer.headers
    token, project, request, body = world.forge.git_requests[-1]
    assert (
        token,
        project,
        request.suffix,
        request.query,
        body,
    ) == ("token-ada", "grp/proj", "git-upload-pack", "", PACK)
    assert {"Git-Protocol", "Content-Encoding", "Content-Length"} == set(request.headers)


@pytest.mark.parametrize("service", ["git-upload-pack", "git-receive-pack"])
def test_refs(world: World, name: str, service: str) -> None:
    """The list of refs is asked for one of Git's two services, and nothing else of the query is sent on."""
    _answer(world, body=b"001e# service")
    answer = _git(world, name, f"info/refs?service={service}&private_token=x")
    assert answer.status_code == 200
    assert world.forge.git_requests[-1][2].query == f"service={service}"


@pytest.mark.parametrize(
    ("suffix", "method", "status"),
    [
        ("info/refs", "GET", 403),
        ("info/refs?service=git-shell", "GET", 403),
        ("HEAD", "GET", 404),
        ("objects/info/packs", "GET", 404),
        ("git-upload-pack", "GET", 404),
        ("info/lfs/objects/batch", "GET", 404),
        ("info/lfs/locks/7/unlock", "GET", 404),
        ("info/lfs/locks", "PUT", 404),
        (f"gitlab-lfs/objects/{OID}", "PUT", 404),
        (f"gitlab-lfs/objects/{OID}", "POST", 404),
        (f"gitlab-lfs/objects/{OID}/3", "GET", 404),
        (f"gitlab-lfs/objects/{OID}/3", "POST", 404),
        ("-/raw/main/secret", "GET", 404),
    ],
)
def test_no_other_address(world: World, name: str, suffix: str, method: str, status: int) -> None:
    """Nothing but Git's own addresses is sent on."""
    answer = _git(world, name, suffix, method=method)
    assert (status, "text/plain; charset=utf-8") == (answer.status_code, answer.content_type)
    assert world.forge.git_requests == []


def test_other_project(world: World, name: str) -> None:
    """Another project is refused by name, whoever may read it."""
    answer = _git(world, name, "info/refs?service=git-upload-pack", project="grp/other")
    assert (answer.status_code, answer.text) == (403, "This session's Git reaches grp/proj only.\n")


@pytest.mark.parametrize("credential", [None, "wrong", "token-ada"])
def test_credential(world: World, name: str, credential: str | None) -> None:
    """Without the session's own credential there is 403 in text, never 401."""
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    path = f"/git/{name}/grp/proj.git/info/refs?service=git-upload-pack"
    answer = client_of(world, None).get(path, headers=headers)
    assert (answer.status_code, answer.content_type) == (403, "text/plain; charset=utf-8")
    assert world.forge.git_requests == []


def test_other_session(world: World, ada: FlaskClient, name: str) -> None:
    """One session's credential does not open another's relay."""
    other = launch(ada, commit_sha="a" * 40)["name"]
    world.until(lambda: ada.get(f"/notebooks/servers/{other}").json["slipway"]["phase"] == "WAITING")  # type: ignore[index]
    ada.patch(f"/notebooks/servers/{other}", json={"start": "now"})
    world.until(lambda: world.runtime.workloads.get(SessionName(other)))
    credential = world.runtime.workloads[SessionName(name)].credential
    answer = client_of(world, None).get(
        f"/git/{other}/grp/proj.git/info/refs?service=git-upload-pack",
        headers={"Authorization": f"Bearer {credential}"},
    )
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("level", "suffix", "status", "token"),
    [
        (AccessLevel.REPORTER, "info/refs?service=git-upload-pack", 200, "token-bob"),
        (AccessLevel.REPORTER, "info/refs?service=git-receive-pack", 403, None),
        (AccessLevel.DEVELOPER, "info/refs?service=git-receive-pack", 200, "token-bob"),
        (AccessLevel.NONE, "info/refs?service=git-upload-pack", 200, None),
        (AccessLevel.NONE, "info/refs?service=git-receive-pack", 403, None),
    ],
)
def test_rights(world: World, bob: FlaskClient, level: int, suffix: str, status: int, token: str | None) -> None:
    """A reporter may not push; a non-member of a public project fetches without any token."""
    members = {"bob": level} if level else {}
    world.add_project("open/proj", members=members, visibility=Visibility.PUBLIC)
    world.add_image("open/proj")
    body = {"namespace": "open", "project": "proj", "commit_sha": SHA, "branch": "main"}
    launched = bob.post("/notebooks/servers", json=body).json
    assert launched is not None
    world.be_ready(SessionName(launched["name"]))
    _answer(world)
    answer = _git(world, launched["name"], suffix, project="open/proj")
    assert status == answer.status_code
    sent = [request[0] for request in world.forge.git_requests]
    assert sent == ([token] if status == 200 else [])


@pytest.mark.parametrize(
    ("status", "body", "expected", "text"),
    [
        (401, b"HTTP Basic: Access denied", 403, "GitLab refused this: HTTP Basic: Access denied\n"),
        (403, b"You are not allowed to push", 403, "GitLab refused this: You are not allowed to push\n"),
        (403, b"<!DOCTYPE html><html>", 403, "GitLab refused this.\n"),
        (404, b"", 404, "GitLab does not find grp/proj, or you may not see it any more.\n"),
        (301, b"", 503, "GitLab cannot be reached through the relay just now.\n"),
        (502, b"<html>", 503, "GitLab cannot be reached through the relay just now.\n"),
    ],
)
def test_refusal(world: World, name: str, status: int, body: bytes, expected: int, text: str) -> None:
    """What GitLab refuses is told in a sentence that Git shows."""
    _answer(world, status, body, {"WWW-Authenticate": "Basic", "Location": "https://elsewhere"})
    answer = _git(world, name, "info/refs?service=git-upload-pack")
    assert (expected, text) == (answer.status_code, answer.text)
    assert not {"WWW-Authenticate", "Location"} & set(answer.headers.keys())


def test_lfs(world: World, name: str) -> None:
    """An LFS batch is asked for the basic transfer and answered with links back here, without a token."""
    told = {
        "objects": [
            {
                "oid": OID,
                "size": 3,
                "actions": {"download": {"href": "https://x/y", "header": {"Authorization": "Basic canary"}}},
            }
        ]
    }
    _answer(world, body=json.dumps(told).encode())
    asked = {"operation": "download", "transfers": ["ssh", "basic"], "objects": [{"oid": OID, "size": 3}]}
    answer = _git(world, name, "info/lfs/objects/batch", method="POST", data=json.dumps(asked))
    href = f"http://slipway.test/git/{name}/grp/proj.git/gitlab-lfs/objects/{OID}"
    assert json.loads(answer.data) == {
        "transfer": "basic",
        "objects": [{"oid": OID, "size": 3, "authenticated": True, "actions": {"download": {"href": href}}}],
    }
    assert json.loads(world.forge.git_requests[-1][3])["transfers"] == ["basic"]
    assert b"canary" not in answer.data
    _answer(world, body=b"abc")
    assert _git(world, name, f"gitlab-lfs/objects/{OID}").data == b"abc"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("path=data%2Fone+two.bin&refspec=refs%2Fmain", "path=data%2Fone+two.bin&refspec=refs%2Fmain"),
        ("limit=2&cursor=7&id=3", "id=3&cursor=7&limit=2"),
        ("path=%26private_token%3Dx%23&private_token=y", "path=%26private_token%3Dx%23"),
        ("", ""),
    ],
)
def test_which_locks(world: World, name: str, asked: str, sent: str) -> None:
    """Which locks are asked for is sent on: an answer about others would make `git lfs unlock` open another lock."""
    _answer(world, body=b'{"locks": []}')
    assert _git(world, name, f"info/lfs/locks?{asked}").status_code == 200
    assert world.forge.git_requests[-1][2].query == sent


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"'])
def test_bad_lfs(world: World, name: str, body: bytes) -> None:
    """What is no request of Git LFS is refused in text."""
    answer = _git(world, name, "info/lfs/objects/batch", method="POST", data=body)
    assert (answer.status_code, answer.content_type) == (403, "text/plain; charset=utf-8")
