"""Bad input and failure around a whole spawner: each ends in words, and nothing is lost.

Covered: what a launch may name wrongly, people and tokens without a right, GitLab down and slow, a registry that is
down, a repository of a gigabyte, no environment file, requirements that do not resolve, a full disk, a port that is
taken, requests at the same instant, forged links.
Left out: a hostile notebook (test_isolation), strange characters (tests/functional/api/test_bad_input), generated
requests (test_openapi).
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.functional.conftest import WAYS, Maker, grouped
from tests.functional.ladder import Stage
from tests.functional.signing_in import sign_in
from tests.installation import Client, Installation, wait_for
from tests.surroundings import Folder

pytestmark = pytest.mark.timeout(420)

PASSWORD = "a-person's-own-1"
NOWHERE = "f" * 40
BIG_BYTES = 1_000_000_000
GITLAB_SECONDS = 6.0  # more than a busy machine takes for an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One spawner beside a GitLab of its own: Ada has two projects, Eve a private one."""

    stand_in: StandIn
    installation: Installation
    ada: UserHandle
    at_ada: Client
    project: ProjectHandle
    sha: str
    other_sha: str
    foreign: ProjectHandle
    foreign_sha: str
    closed_registry: str

    def launch(self, **fields: Any) -> requests.Response:
        """Ask for Ada's project, with other words where given; None leaves a field out."""
        namespace, _, name = self.project.path.rpartition("/")
        body = {"namespace": namespace, "project": name, "commit_sha": self.sha, "branch": "main", **fields}
        return self.at_ada.call(
            "POST", "/api/notebooks/servers", json={key: value for key, value in body.items() if value is not None}
        )

    def servers(self) -> dict[str, Any]:
        """Return Ada's sessions."""
        # On a connection of its own: a server hangs up on who sent a body that it refused to read.
        asked = Client(self.at_ada.url, self.at_ada.user).call("GET", "/api/notebooks/servers")
        found: dict[str, Any] = asked.json()["servers"]
        return found


@pytest.fixture(scope="module", params=grouped("bad-input"))
def world(request: pytest.FixtureRequest, make: Maker, folder: Folder, standalone_root: Path) -> Iterator[World]:
    """The spawner that everything is tried on, of each way."""
    with StandIn.start(data=folder("gitlab")) as stand_in, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # held, and never listened on: whoever connects is refused
        ada = stand_in.add_user("ada", password=PASSWORD)
        eve = stand_in.add_user("eve")
        project = stand_in.add_project("ada/work", owner=ada)
        other = stand_in.add_project("ada/other", owner=ada)
        foreign = stand_in.add_project("eve/secret", owner=eve)
        closed = f"127.0.0.1:{nobody.getsockname()[1]}"
        made = make(
            request.param,
            stand_in=stand_in,
            root=standalone_root,
            settings={
                "GITLAB__TIMEOUT_SECONDS": str(GITLAB_SECONDS),
                "IMAGES__GRACE_SECONDS": "2",
                "IMAGES__REGISTRY_BUDGET_SECONDS": "3",
                "REGISTRY__ALLOWED_HOSTS": closed,
                "REGISTRY__TIMEOUT_SECONDS": "2",
            },
        )
        try:
            made.start()
            yield World(
                stand_in=stand_in,
                installation=made,
                ada=ada,
                at_ada=made.client(ada),
                project=project,
                sha=stand_in.commit(project, {"README.md": "work"}),
                other_sha=stand_in.commit(other, {"README.md": "other"}),
                foreign=foreign,
                foreign_sha=stand_in.commit(foreign, {"README.md": "secret"}),
                closed_registry=closed,
            )
        finally:
            made.stop()


# ---------------------------------------------------------------- what a launch names wrongly


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What is sent instead of a launch that would do, and the answer: status, code, and words of its sentence."""

    fields: Callable[[World], dict[str, Any]]
    status: int
    code: int
    words: str


REFUSALS = {
    "an unknown project": Refusal(
        fields=lambda _: {"project": "nowhere"}, status=404, code=1404, words="There is no project ada/nowhere"
    ),
    "an unknown branch": Refusal(
        fields=lambda _: {"branch": "nowhere"}, status=404, code=1404, words="branch nowhere does not exist in ada/work"
    ),
    "an unknown commit": Refusal(
        fields=lambda _: {"commit_sha": NOWHERE}, status=404, code=1404, words="ada/work has no commit"
    ),
    "a commit of another project": Refusal(
        fields=lambda world: {"commit_sha": world.other_sha}, status=404, code=1404, words="ada/work has no commit"
    ),
    "a short SHA": Refusal(
        fields=lambda world: {"commit_sha": world.sha[:8]}, status=422, code=1000, words="is not a full commit SHA"
    ),
    "an upper-case SHA": Refusal(
        fields=lambda world: {"commit_sha": world.sha.upper()},
        status=422,
        code=1000,
        words="is not a full commit SHA",
    ),
    "a private project of somebody else": Refusal(
        fields=lambda world: {"namespace": "eve", "project": "secret", "commit_sha": world.foreign_sha},
        status=404,
        code=1404,
        words="There is no project eve/secret, or you may not see it.",
    ),
    "a missing field": Refusal(
        fields=lambda _: {"commit_sha": None},
        status=422,
        code=1422,
        words="Field 'commit_sha' has errors: Missing data for required field.",
    ),
    "an unknown field": Refusal(
        fields=lambda _: {"surprise": 1}, status=422, code=1422, words="Field 'surprise' has errors: Unknown field."
    ),
    "an image that does not parse": Refusal(
        fields=lambda _: {"image": "https://not an image"}, status=422, code=1002, words="image"
    ),
    "a runtime that is not there": Refusal(
        fields=lambda _: {"runtime": "mainframe"}, status=422, code=1000, words="no runtime 'mainframe'"
    ),
    "too much storage": Refusal(
        fields=lambda _: {"storage": 100_000}, status=422, code=1005, words="Ask for 1 to 20 GB."
    ),
    "a resource class that is not there": Refusal(
        fields=lambda _: {"resource_class_id": 77}, status=422, code=1005, words="77"
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_launch_that_cannot_be(world: World, what: str) -> None:
    """It is refused with its status, code and sentence, and no session is left."""
    refusal = REFUSALS[what]
    answer = world.launch(**refusal.fields(world))

    assert_told(answer, status=refusal.status, code=refusal.code, words=refusal.words)
    assert world.servers() == {}


def assert_told(answer: requests.Response, *, status: int, code: int, words: str) -> None:
    """Fail unless the answer is the contract's error with these words in its message or detail."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "detail"}
    assert error["code"] == code, error
    assert words in f"{error['message']} {error['detail']}", error


def test_a_foreign_project_is_told_as_one_that_is_not_there(world: World) -> None:
    """Nothing in the answer tells a private project from one that does not exist."""
    foreign = world.launch(namespace="eve", project="secret", commit_sha=world.foreign_sha).json()
    absent = world.launch(namespace="eve", project="nothere", commit_sha=world.foreign_sha).json()

    assert foreign == {"error": {**absent["error"], "message": absent["error"]["message"].replace("nothere", "secret")}}


MALFORMED = {
    "half of a document": (b'{"namespace": ', 400, 1400),
    "a number that is not JSON": (b'{"storage": NaN}', 400, 1400),
    "a list": (b"[]", 422, 1422),
    "nothing": (b"", 422, 1422),
    "no text": (b"\xff\xfe\x00", 400, 1400),
    "deep brackets": (b"[" * 100_000, 400, 1400),
    "too much": (b'{"namespace": "' + b"x" * 1_100_000 + b'"}', 413, 1413),
}


@pytest.mark.parametrize(
    ("body", "status", "code"), MALFORMED.values(), ids=[name.replace(" ", "-") for name in MALFORMED]
)
def test_a_malformed_body(world: World, body: bytes, status: int, code: int) -> None:
    """What is no launch at all is refused in the contract's own shape."""
    answer = world.at_ada.call(
        "POST", "/api/notebooks/servers", data=body, headers={"Content-Type": "application/json"}
    )

    assert_told(answer, status=status, code=code, words="")
    assert world.servers() == {}


# ---------------------------------------------------------------- tokens


def test_an_expired_token(world: World) -> None:
    """A GitLab token that has ended, a token of ours that was revoked, and no token are each 401 in words."""
    spent = world.stand_in.add_token(world.ada.id, expires_at="2099-01-01")
    person = UserHandle(username="ada", id=world.ada.id, token=spent)
    made = world.at_ada.call("POST", "/api/slipway/v1/tokens", json={"name": "spent", "expires_in_days": 1}).json()
    world.stand_in.api("DELETE", "/personal_access_tokens/self", user=person)
    assert world.at_ada.call("DELETE", f"/api/slipway/v1/tokens/{made['id']}").status_code == 204

    tokens = {spent: "expired or been revoked", made["token"]: "revoked", "nonsense": "does not know this token"}
    for token, words in tokens.items():
        answer = requests.get(
            f"{world.installation.url}/api/notebooks/servers", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        assert_told(answer, status=401, code=1401, words=words)
    bare = requests.get(f"{world.installation.url}/api/notebooks/servers", timeout=30)
    assert_told(bare, status=401, code=1401, words="")


# ---------------------------------------------------------------- others that fail


@contextmanager
def _frozen(stand_in: StandIn) -> Iterator[None]:
    os.killpg(stand_in.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(stand_in.process.pid, signal.SIGCONT)


def test_gitlab_is_slow(world: World) -> None:
    """A GitLab that does not answer costs its time limit and no more; what runs here answers meanwhile."""
    world.servers()  # who Ada is was asked before
    with _frozen(world.stand_in):
        began = time.monotonic()
        answer = world.launch()
        lasted_seconds = time.monotonic() - began
        healthy = requests.get(f"{world.installation.url}/health", timeout=30)
        listed = world.servers()

    assert_told(answer, status=503, code=3503, words="GitLab")
    assert int(answer.headers["Retry-After"]) >= 1
    assert lasted_seconds < 10 * GITLAB_SECONDS
    assert (healthy.status_code, listed) == (200, {})


def test_gitlab_is_down(world: World) -> None:
    """A GitLab that is not there is told as such, and the same launch is accepted when it is back."""
    world.servers()
    world.stand_in.kill()
    try:
        answer = world.launch()
    finally:
        world.stand_in.restart()

    assert_told(answer, status=503, code=3503, words="GitLab")
    assert world.servers() == {}
    accepted = world.launch(build="never", fallback="fail")
    assert accepted.status_code == 201, accepted.text
    _gone(world, accepted.json()["name"])


def _gone(world: World, name: str) -> None:
    assert world.at_ada.stop(name) == 204
    wait_for(lambda: world.at_ada.phase(name) == "GONE" or None, seconds=200, what=f"{name} is gone")


def test_a_registry_is_down(world: World) -> None:
    """It is waited for, in words, then that is the reason for what comes: never that the image is "missing"."""
    stage = _stage(world, world.project)
    told = stage.watch(stage.launch(world.sha, image=f"{world.closed_registry}/a/b:1"))

    assert (told.source, told.phases) == ("registry_unavailable", ("NEW", "WAITING", "FAILED")), told
    assert world.closed_registry in told.reason
    assert "does not exist" not in told.reason
    _gone(world, stage.names[0])


def _stage(world: World, project: ProjectHandle, work: Path = Path()) -> Stage:
    return Stage(stand_in=world.stand_in, project=project, client=world.at_ada, work=work)


# ---------------------------------------------------------------- repositories


def test_a_repository_of_a_gigabyte(world: World, folder: Folder) -> None:
    """Its launch is accepted and decided as quickly as any, and the session has the file."""
    project = world.stand_in.add_project("ada/big", owner=world.ada)
    stage = _stage(world, project, folder("big"))
    sha = _push_big(stage)

    began = time.monotonic()
    name = stage.launch(sha, build="never", fallback="default")
    accepted_seconds = time.monotonic() - began
    stage.watch(name)
    decided_seconds = time.monotonic() - began
    world.at_ada.reaches(name, "RUNNING", seconds=240)
    base_url, headers = world.at_ada.enter(name)
    there = requests.get(f"{base_url}api/contents/big.bin?content=0", headers=headers, timeout=30).json()
    _gone(world, name)

    print(f"accepted in {accepted_seconds:.2f} s, decided in {decided_seconds:.2f} s")  # noqa: T201 - shown on failure
    assert max(accepted_seconds, decided_seconds) < 10 * GITLAB_SECONDS
    assert there["size"] == BIG_BYTES


def _push_big(stage: Stage) -> str:
    """Push a file of a gigabyte. It is empty space: what takes time is its size, not its content."""
    folder = stage.work / "made"
    folder.mkdir()
    stage.git(folder, "init", "-q", "-b", "main")
    with (folder / "big.bin").open("wb") as file:
        file.truncate(BIG_BYTES)
    (folder / "README.md").write_text("big\n")
    stage.git(folder, "add", ".", seconds=180)
    stage.git(folder, "commit", "-q", "-m", "Add a large file.", seconds=180)
    stage.git(folder, "push", "-q", stage.project.http_url, "main", seconds=180)
    return stage.git(folder, "rev-parse", "HEAD")


def test_no_environment_file(world: World) -> None:
    """A repository that declares nothing starts on the default image, and is told why."""
    stage = _stage(world, world.project)
    told = stage.watch(stage.launch(world.sha, fallback="default"))
    _gone(world, stage.names[0])

    assert told.source == "default"
    assert told.reason == "GitLab made no pipeline for this commit. The default image is used instead."


@pytest.mark.network
def test_requirements_that_do_not_resolve(world: World) -> None:
    """The build fails, the session says so, and the kept log names the requirement."""
    project = world.stand_in.add_project("ada/unsolvable", owner=world.ada)
    stage = _stage(world, project)
    builder = Path(sys.executable).with_name("builder")
    files = {
        "requirements.txt": "slipway-has-no-such-package==9.9.9\n",
        ".gitlab-ci.yml": f"image_build:\n  script: ['{builder} build --engine environment']\n",
    }
    sha = world.stand_in.commit(project, files)
    world.stand_in.wait_for_pipeline(project, sha, timeout_seconds=60)
    told = stage.watch(stage.launch(sha))
    log = world.at_ada.call("GET", f"/api/notebooks/logs/{stage.names[0]}").json().get("image-build", "")
    stage.end()

    assert (told.source, told.phases) == ("build_failed", ("NEW", "WAITING", "FAILED")), f"{told}\n{log}"
    assert "slipway-has-no-such-package" in log


# ---------------------------------------------------------------- the machine


@pytest.fixture
def small_disk(folder: Folder) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root: run this suite as root")
    place = folder("small")
    options = "size=6m,mode=0711"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here (a container without that right?): {mounted.stderr}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], timeout=20, check=True)


def test_a_full_disk(world: World, make: Maker, small_disk: Path) -> None:
    """The launch fails and says that the disk is full; the spawner answers on, and keeps the session's record."""
    made = make(
        WAYS[world.installation.with_celery],
        stand_in=world.stand_in,
        root=small_disk / "root",
        settings={"SESSIONS__START_BUDGET_SECONDS": "8"},
    )
    try:
        made.start()
        client = made.client(world.ada)
        name = client.launch(world.project, world.sha, build="never")["name"]
        server = _failed(client, name)
        healthy = requests.get(f"{made.url}/health", timeout=30).status_code
    finally:
        made.stop()

    told = server["slipway"]["error"]
    assert re.search("no space left|disk is full", told["message"], re.IGNORECASE), told
    assert told["remedy"]
    assert healthy == 200


def _failed(client: Client, name: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        server = client.get(name)
        return server if server and server["slipway"]["phase"] == "FAILED" else None

    return wait_for(look, seconds=180, what=f"{name} has failed")


def test_a_port_that_is_taken(world: World) -> None:
    """A second spawner on the same port ends at once, with a sentence that names the port; the first goes on."""
    command = [sys.executable, "-m", "spawner", "serve", *([] if world.installation.with_celery else ["--embedded"])]
    done = subprocess.run(
        command,
        env=dict(world.installation.environment),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        stdin=subprocess.DEVNULL,
    )

    assert done.returncode not in {0, -signal.SIGTERM}
    assert str(world.installation.port) in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert world.servers() == {}


# ---------------------------------------------------------------- at once, and forged


def test_requests_at_the_same_instant(world: World) -> None:
    """Eight equal launches at one instant are one session: one 201, seven 200, one name."""
    barrier = threading.Barrier(8)

    def ask(_: int) -> tuple[int, str]:
        barrier.wait(30)
        answer = requests.post(
            f"{world.installation.url}/api/notebooks/servers",
            headers={"Authorization": f"Bearer {world.ada.token}"},
            json={
                "namespace": "ada",
                "project": "work",
                "commit_sha": world.sha,
                "branch": "main",
                "build": "wait",  # nobody builds it, so that it waits for as long as the eight need
            },
            timeout=60,
        )
        return answer.status_code, str(answer.json().get("name"))

    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(ask, range(8)))

    names = {name for _, name in answers}
    assert sorted(status for status, _ in answers) == [200] * 7 + [201], answers
    assert len(names) == 1
    assert list(world.servers()) == list(names)
    _gone(world, names.pop())
    assert world.servers() == {}


FORGED = {
    "a picture on a page": ("GET", {"Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "cross-site"}, "", 200),
    "a frame": ("GET", {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site"}, "", 200),
    "a prefetch": ("GET", {"Sec-Purpose": "prefetch"}, "", 200),
    "a link that names an image": ("GET", {"Sec-Fetch-Dest": "document"}, "?image=evil.example/x:1", 200),
    "a form of another site": ("POST", {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, "", 403),
    "a form of a session": ("POST", {"Origin": "http://a.localhost:9", "Sec-Fetch-Site": "same-site"}, "", 403),
    "a form without its token": ("POST", {"Sec-Fetch-Site": "same-origin"}, "", 403),
}


@pytest.mark.parametrize(
    ("method", "headers", "query", "status"), FORGED.values(), ids=[name.replace(" ", "-") for name in FORGED]
)
def test_a_forged_link(world: World, method: str, headers: dict[str, str], query: str, status: int) -> None:
    """Nobody else's page starts a session in a signed-in person's browser."""
    browser = sign_in(world.installation.url, world.stand_in.url, username="ada", password=PASSWORD)
    answer = browser.request(
        method,
        f"{world.installation.url}/launch/ada/work{query}",
        headers={"Accept": "text/html", **headers},
        timeout=30,
        allow_redirects=False,
    )

    assert answer.status_code == status, answer.text[:500]
    assert world.servers() == {}
