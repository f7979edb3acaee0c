"""The relay's half at the forge: clone and push through it, LFS without a token, what it never reaches.

A small front of our own stands for the product's edge, so that real Git speaks. Left out: the edge (functional tests).
"""

import base64
import hashlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any

import pytest

from spawner.errors import ForgeUnavailable, NotFound, ProjectNotFound
from spawner.gitlab.client import GitLabForge
from spawner.gitlab.relay import without_tokens
from spawner.names import ProjectPath
from spawner.ports import Credential, GitRequest
from tests.contract.forge_port.conftest import personal

if TYPE_CHECKING:
    from spawner.testing.gitlab import ProjectHandle
    from tests.contract.forge_port.conftest import World

LFS = "application/vnd.git-lfs+json"
OID = hashlib.sha256(b"large").hexdigest()


def asked(
    forge: GitLabForge, credential: Credential | None, path: str, **request: Any
) -> tuple[int, dict[str, str], bytes]:
    """Make one relayed request and read its answer whole."""
    given = {"method": "GET", "suffix": "info/refs", "query": "", "headers": {}, "body": None, **request}
    with forge.git(credential, ProjectPath(path), GitRequest(**given)) as answer:
        return answer.status, dict(answer.headers), b"".join(answer.body)


@contextmanager
def front(forge: GitLabForge, credential: Credential | None, project: "ProjectHandle") -> Iterator[str]:
    """Serve one project through the relay; yield the address that Git clones."""

    class Edge(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._relay(None)

        def do_POST(self) -> None:
            self._relay(self._pieces())

        def _pieces(self) -> Iterator[bytes]:
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                yield self.rfile.read(int(self.headers["Content-Length"]))

        def _relay(self, body: Iterator[bytes] | None) -> None:
            suffix, _, query = self.path.removeprefix("/x.git/").partition("?")
            request = GitRequest(method=self.command, suffix=suffix, query=query, headers=dict(self.headers), body=body)
            with forge.git(credential, ProjectPath(project.path), request) as answer:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                for piece in answer.body:
                    self.wfile.write(piece)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    class Server(ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Edge) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/x.git"
        finally:
            server.shutdown()
            thread.join(30)


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(
        ["git", *identity, *arguments],
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "GIT_TERMINAL_PROMPT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_git_clones_and_pushes_through_the_relay(world: "World", tmp_path: Path, size: int) -> None:
    """Real Git fetches a private project and pushes a small and a large commit, knowing no token."""
    project = world.standin.add_project(f"ada/relayed-{size}", owner=world.ada)
    world.standin.commit(project, {"a": "1"})
    forge = world.forge()
    with front(forge, personal(world.ada.token), project) as url:
        assert git(tmp_path, "clone", "-q", url, "work").returncode == 0
        work = tmp_path / "work"
        (work / "large.bin").write_bytes(bytes(hashlib.shake_256(b"x").digest(size)))
        git(work, "add", "--all")
        git(work, "commit", "-q", "-m", "Large.")
        pushed = git(work, "push", "-q", "origin", "HEAD")
        assert pushed.returncode == 0, pushed.stderr
        head = git(work, "rev-parse", "HEAD").stdout.strip()
    commit = forge.commit(personal(world.ada.token), project.id, "main")
    assert commit is not None
    assert commit.sha == head


def test_a_strangers_push_is_refused_by_gitlab(world: "World", tmp_path: Path) -> None:
    """The relay adds rights, never more than the person's."""
    with front(world.forge(), personal(world.bob.token), world.public) as url:
        assert git(tmp_path, "clone", "-q", url, "work").returncode == 0
        git(tmp_path / "work", "commit", "-q", "--allow-empty", "-m", "No.")
        assert git(tmp_path / "work", "push", "-q", "origin", "HEAD").returncode != 0


@pytest.mark.parametrize(("who", "expected"), [("nobody", (401, 200)), ("bob", (404, 200)), ("ada", (200, 200))])
def test_gitlabs_own_answer_is_passed_on(world: "World", who: str, expected: tuple[int, int]) -> None:
    """Status and words are GitLab's; the edge decides what Git is shown."""
    credential = {"nobody": None, "bob": personal(world.bob.token), "ada": personal(world.ada.token)}[who]
    found = tuple(
        asked(world.forge(), credential, project.path, query="service=git-upload-pack")[0]
        for project in (world.private, world.public)
    )
    assert found == expected


@pytest.mark.parametrize(
    ("method", "suffix", "query"),
    [
        ("GET", "../other.git/info/refs", ""),
        ("GET", "info/refs/", ""),
        ("GET", "HEAD", ""),
        ("GET", "objects/info/packs", ""),
        ("POST", "info/refs", ""),
        ("DELETE", "git-upload-pack", ""),
        ("GET", "gitlab-lfs/objects/../../x", ""),
        ("PUT", f"gitlab-lfs/objects/{OID}", ""),
        ("GET", "info/refs", "service=git-upload-pack#x"),
        ("GET", "info/refs", "private_token=a b"),
    ],
)
def test_no_other_address_is_reached(world: "World", method: str, suffix: str, query: str) -> None:
    """Only Git's and LFS's own requests pass."""
    with pytest.raises(NotFound):
        asked(world.forge(), None, world.public.path, method=method, suffix=suffix, query=query)


@pytest.mark.parametrize("path", ["x", "../x", "a/../b", "a/b/.", "a//b", "a/b?c", "a/b#c", "/a/b", "a/b%2fc"])
def test_what_is_no_project_path_is_not_asked(world: "World", path: str) -> None:
    """A path that a URL would resolve otherwise names no project."""
    with pytest.raises(ProjectNotFound):
        asked(world.forge(), None, path)


def test_lfs_goes_through_without_a_token_in_any_byte(world: "World") -> None:
    """A batch says where, without header or address; the object goes up and comes down through the relay."""
    project = world.standin.add_project("ada/large-files", owner=world.ada)
    world.standin.commit(project, {"a": "1"})
    forge, ada = world.forge(), personal(world.ada.token)
    answers: list[bytes] = []

    def batch(operation: str) -> Any:
        body = json.dumps({"operation": operation, "objects": [{"oid": OID, "size": 5}]}).encode()
        headers = {"Content-Type": LFS, "Accept": LFS, "Content-Length": str(len(body))}
        status, told, content = asked(
            forge, ada, project.path, method="POST", suffix="info/lfs/objects/batch", headers=headers, body=iter([body])
        )
        answers.append(content + repr(told).encode())
        assert (status, told["Content-Type"]) == (200, LFS)
        return json.loads(content)["objects"][0].get("actions")

    assert batch("upload") == {"upload": {"href": f"gitlab-lfs/objects/{OID}/5", **_life(batch("upload"))}}
    up = {"method": "PUT", "suffix": f"gitlab-lfs/objects/{OID}/5", "body": iter([b"lar", b"ge"])}
    assert asked(forge, ada, project.path, **up)[0] == 200
    assert batch("download")["download"]["href"] == f"gitlab-lfs/objects/{OID}"
    status, told, content = asked(forge, ada, project.path, suffix=f"gitlab-lfs/objects/{OID}")
    assert (status, content) == (200, b"large")
    locked = asked(
        forge, ada, project.path, method="POST", suffix="info/lfs/locks", body=iter([b'{"path": "a"}']),
        headers={"Content-Type": LFS},
    )  # fmt: skip
    listed = asked(forge, ada, project.path, suffix="info/lfs/locks")
    assert (locked[0], json.loads(listed[2])["locks"][0]["path"]) == (201, "a")
    everything = b"".join([*answers, repr(told).encode(), locked[2], listed[2]])
    words = [ada.token.encode(), base64.b64encode(f"oauth2:{ada.token}".encode()), b"Authorization", b"127.0.0.1"]
    assert [word for word in words if word in everything] == []


def _life(actions: Any) -> dict[str, Any]:
    return {name: value for name, value in actions["upload"].items() if name != "href"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"header": {"a": "b"}}, {}),
        ({"href": f"https://gl/a.git/gitlab-lfs/objects/{OID}"}, {"href": f"gitlab-lfs/objects/{OID}"}),
        ({"href": "https://storage/x?signature=secret"}, {"href": ""}),
        ({"href": 3}, {"href": ""}),
        ([{"objects": [{"header": 1, "size": 2}]}], [{"objects": [{"size": 2}]}]),
        ("text", "text"),
    ],
)
def test_headers_and_addresses_are_taken_out_at_any_depth(given: object, expected: object) -> None:
    """Whatever the shape, no `header` stays and no `href` names a host."""
    assert without_tokens(given) == expected


def test_a_gitlab_that_is_away_is_unavailable(tmp_path: Path) -> None:
    """A relay without GitLab says so, as for every other question."""
    forge = GitLabForge("http://127.0.0.1:9", key_cache=tmp_path)
    with pytest.raises(ForgeUnavailable):
        asked(forge, None, "a/b", query="service=git-upload-pack")
