"""Two people of one installation, run as root: neither learns of the other, and no secret reaches a session.

Covered: the API, pages, event streams, addresses, agents, the relay, and everything that code in a session can read.
Left out: the runtime's own separation in detail (contract/runtime/test_separation); an ordinary account
(test_ordinary_account).
"""

import json
import os
import re
import secrets as random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import pytest
import requests
import websocket

from spawner.gitlab.oauth import GitLabOAuth
from spawner.testing.democheck import Kernel
from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.functional.inside import Found, relayed, search
from tests.installation import SCOPES, Client, Installation

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="Several people need root: run this suite as root."),
    pytest.mark.timeout(600),
]

ABSENT = "absent-0123456789abcdef"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inhabitant:
    """A person with a running session, and what is secret of theirs."""

    client: Client
    project: ProjectHandle
    sha: str
    name: str
    workload: str
    workspace: Path
    base_url: str
    headers: Mapping[str, str]
    kernel: Kernel
    credential: str
    secrets: Mapping[str, str]  # what only the spawner may hold

    @property
    def words(self) -> Mapping[str, str]:
        """What tells that this session exists."""
        return {"session": self.name, "workload": self.workload, "project": self.project.path}


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """Both people, and what is nobody's in a session."""

    alice: Inhabitant
    bob: Inhabitant
    service: Mapping[str, str]


def _oauth_token(stand_in: StandIn, installation: Installation, username: str, password: str) -> Mapping[str, str]:
    """Sign in at the forge as a browser does; return the tokens that our own application gets."""
    told = installation.environment
    redirect = f"{installation.url}/login/callback"
    application = GitLabOAuth(
        stand_in.url,
        client_id=told["SPAWNER_GITLAB__CLIENT_ID"],
        client_secret=Path(told["SPAWNER_GITLAB__CLIENT_SECRET_FILE"]).read_text().strip(),
        redirect_uri=redirect,
        scopes=SCOPES,
    )
    verifier = random.token_urlsafe(48)
    with requests.Session() as browser:
        page = browser.get(
            application.authorization_url(redirect_uri=redirect, state="s", verifier=verifier), timeout=10
        )
        form = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', page.text))
        form |= {"user[login]": username, "user[password]": password}
        form.pop("pick", None)
        back = browser.post(page.url, data=form, timeout=30, allow_redirects=False)
        while not back.headers.get("Location", "").startswith(redirect):
            if back.is_redirect:
                back = browser.get(urljoin(page.url, back.headers["Location"]), timeout=30, allow_redirects=False)
                continue
            fields = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', back.text))  # "authorize this application"
            assert fields, back.text[:500]
            back = browser.post(back.url, data={**fields, "decision": "allow"}, timeout=30, allow_redirects=False)
    code = parse_qs(urlsplit(back.headers["Location"]).query)["code"][0]
    tokens = application.exchange(code=code, redirect_uri=redirect, verifier=verifier)
    return {"oauth token": tokens.access_token, "refresh token": tokens.refresh_token or ""}


def _moves_in(
    stand_in: StandIn, installation: Installation, held: ExitStack, user: UserHandle, secrets: Mapping[str, str]
) -> Inhabitant:
    project = stand_in.add_project(f"{user.username}/private-{random.token_hex(4)}", owner=user)
    sha = stand_in.commit(project, {"README.md": f"of {user.username}"})
    bearer = secrets.get("oauth token", user.token)
    client = Client(installation.url, replace(user, token=bearer))
    name = client.launch(project, sha, build="never")["name"]
    told = client.reaches(name, "RUNNING", seconds=180)["slipway"]
    base_url, headers = client.enter(name)
    kernel = held.enter_context(closing(Kernel(base_url.rstrip("/"), headers)))
    held.callback(client.stop, name)
    root = Path(installation.environment["SPAWNER_STANDALONE__ROOT"])
    workspace = root / "workspaces" / told["workspace"]
    private = json.loads((workspace / ".slipway" / "session.json").read_text())
    return Inhabitant(
        client=client,
        project=project,
        sha=sha,
        name=name,
        workload=told["workload_name"],
        workspace=workspace,
        base_url=base_url,
        headers=headers,
        kernel=kernel,
        credential=private["credential"],
        secrets={"personal token": user.token, **secrets},
    )


@pytest.fixture(scope="module")
def two(stand_in: StandIn, installation: Installation) -> Iterator[Two]:
    """Alice, who launched with a personal token, and Bob, who launched with an OAuth token of our application."""
    suffix, password = random.token_hex(3), random.token_urlsafe(12)
    alice = stand_in.add_user(f"alice-{suffix}")
    bob = stand_in.add_user(f"bob-{suffix}", password=password)
    told = installation.environment
    service = {
        "administrator's token": stand_in.admin.token,
        "key": Path(told["SPAWNER_SECRETS__KEY_FILE"]).read_text().strip(),
        "client secret": Path(told["SPAWNER_GITLAB__CLIENT_SECRET_FILE"]).read_text().strip(),
    }
    with ExitStack() as held:
        yield Two(
            alice=_moves_in(stand_in, installation, held, alice, {}),
            bob=_moves_in(
                stand_in, installation, held, bob, _oauth_token(stand_in, installation, bob.username, password)
            ),
            service=service,
        )


# ---------------------------------------------------------------- over HTTP

PATHS = [
    ("GET", "/api/notebooks/servers/{}", None),
    ("GET", "/notebooks/servers/{}", None),
    ("DELETE", "/api/notebooks/servers/{}", None),
    ("DELETE", "/api/notebooks/servers/{}?forced=true", None),
    ("PATCH", "/api/notebooks/servers/{}", {"start": "now"}),
    ("PATCH", "/api/notebooks/servers/{}", {"image": "built"}),
    ("PATCH", "/api/notebooks/servers/{}", {"state": "hibernated"}),
    ("PATCH", "/api/notebooks/servers/{}", {"state": "running", "resource_class_id": 1}),
    ("POST", "/api/notebooks/servers/{}/open", None),
    ("GET", "/api/notebooks/servers/{}/events", None),
    ("GET", "/api/notebooks/servers/{}/events?until=ready", None),
    ("GET", "/api/notebooks/logs/{}", None),
    ("GET", "/sessions/{}", None),
    ("POST", "/sessions/{}/stop", None),
    ("POST", "/sessions/{}/start-now", None),
    ("POST", "/sessions/{}/use-built-image", None),
    ("POST", "/sessions/{}/build", None),
    ("POST", "/sessions/{}/retry", None),
    ("POST", "/sessions/{}/open", None),
]


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
def test_a_foreign_session_answers_as_none(two: Two, method: str, path: str, body: object) -> None:
    """Whatever Bob asks of Alice's session gets, byte for byte, the 404 of a session that does not exist."""

    def asked(name: str) -> tuple[int, str, Mapping[str, str]]:
        answer = two.bob.client.call(method, path.format(name), json=body)
        kept = {key: value for key, value in answer.headers.items() if key not in {"Date", "Content-Length"}}
        return answer.status_code, answer.text.replace(name, "…"), kept

    foreign, absent = asked(two.alice.name), asked(ABSENT)

    assert foreign == absent
    assert foreign[0] == requests.codes.not_found
    assert two.alice.client.phase(two.alice.name) == "RUNNING"


@pytest.mark.parametrize("path", ["/api/notebooks/servers", "/notebooks/servers", "/", "/sessions", "/tokens"])
def test_lists_hold_nothing_foreign(two: Two, path: str) -> None:
    """A list and a page of Bob's name neither Alice's session nor her project."""
    answer = two.bob.client.call("GET", path)

    assert answer.ok
    assert [word for word in two.alice.words.values() if word in answer.text] == []


def test_filters_find_nothing_foreign(two: Two) -> None:
    """Asking for exactly Alice's project and commit finds nothing of hers."""
    namespace, _, project = two.alice.project.path.rpartition("/")
    wanted = {"namespace": namespace, "project": project, "commit_sha": two.alice.sha, "branch": "main"}

    assert two.bob.client.call("GET", "/api/notebooks/servers", params=wanted).json() == {"servers": {}}
    assert list(two.alice.client.call("GET", "/api/notebooks/servers", params=wanted).json()["servers"])


def test_the_stream_of_all_sessions_is_a_persons_own(two: Two) -> None:
    """Bob's stream holds his own session's events and none of Alice's, though its cursor names hers."""
    headers = {"Last-Event-ID": f"{two.alice.name}:0,{two.bob.name}:0"}
    seen = ""
    with two.bob.client.call("GET", "/api/slipway/v1/events", stream=True, headers=headers) as answer:
        assert answer.ok
        for line in answer.iter_lines(decode_unicode=True):
            seen += line
            if line.startswith(":") or "event: ready" in seen:
                break

    assert two.bob.name in seen
    assert two.alice.name not in seen


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/launch/{}", None),
        ("POST", "/launch/{}", None),
        ("GET", "/repos/api/v4/projects/{quoted}", None),
        ("GET", "/api/notebooks/images?image_url={registry}/{}:1", None),
        ("POST", "/api/notebooks/servers", {"branch": "main", "commit_sha": "{sha}"}),
        ("POST", "/api/notebooks/servers", {"branch": "main", "commit_sha": "{sha}", "image": "{registry}/{}:1"}),
    ],
)
def test_a_foreign_project_answers_as_none(
    two: Two, stand_in: StandIn, method: str, path: str, body: dict[str, str] | None
) -> None:
    """A project that Bob may not see is, for launches, pages and images, one that does not exist."""
    registry = urlsplit(stand_in.registry_url).netloc

    def asked(project: str) -> tuple[int, str]:
        told = {"registry": registry, "sha": two.alice.sha, "quoted": quote(project, safe="")}
        sent = None if body is None else {key: value.format(project, **told) for key, value in body.items()}
        if sent is not None:
            sent["namespace"], _, sent["project"] = project.rpartition("/")
        answer = two.bob.client.call(method, path.format(project, **told), json=sent)
        return answer.status_code, answer.text.replace(project, "…").replace(told["quoted"], "…")

    absent = "x" * len(two.alice.project.path.partition("/")[0]) + "/" + two.alice.project.path.partition("/")[2]
    assert asked(two.alice.project.path) == asked(absent)
    assert asked(absent)[0] == requests.codes.not_found


# ---------------------------------------------------------------- by address


def test_a_foreign_address_is_closed(two: Two) -> None:
    """At Alice's own address Bob gets no answer of hers: with his headers, with none, by HTTP or WebSocket."""
    for headers in (dict(two.bob.headers), {}):
        for path in ("api/contents", "api/kernels", "api/terminals", "lab", "files/README.md", "metrics"):
            answer = requests.get(two.alice.base_url + path, headers=headers, timeout=30, allow_redirects=False)
            assert answer.status_code in {302, 403}, (path, answer.status_code)
            assert f"of {two.alice.client.user.username}" not in answer.text
        channel = f"ws{two.alice.base_url.removeprefix('http')}api/kernels/{two.alice.kernel.id}/channels"
        with pytest.raises(websocket.WebSocketBadStatusException):
            websocket.create_connection(channel, header=[f"{k}: {v}" for k, v in headers.items()], timeout=30)
    assert requests.get(two.alice.base_url + "api/contents", headers=dict(two.alice.headers), timeout=30).ok


def test_a_code_opens_its_own_session_only(two: Two) -> None:
    """A code that Bob has for his session opens nothing at Alice's address, and is not used up there."""
    opened = two.bob.client.call("POST", f"/api/notebooks/servers/{two.bob.name}/open").json()["url"]
    query = urlsplit(opened).query

    def enter(base_url: str) -> int:
        address = f"{base_url}slipway/open?{query}"
        return requests.get(address, headers={"Accept": "application/json"}, timeout=30).status_code

    assert enter(two.alice.base_url) == requests.codes.forbidden
    assert enter(two.bob.base_url) == requests.codes.ok


# ---------------------------------------------------------------- with a session's credential


def test_a_credential_is_its_own_sessions(two: Two, installation: Installation) -> None:
    """Bob's session reaches neither Alice's relay, nor her project by its own, nor her codes, nor the API."""
    headers = {"Authorization": f"Bearer {two.bob.credential}"}
    code = parse_qs(
        urlsplit(two.alice.client.call("POST", f"/api/notebooks/servers/{two.alice.name}/open").json()["url"]).query
    )["code"][0]
    relay = f"{installation.url}/git/{{}}/{{}}.git/info/refs?service=git-upload-pack"
    refused = {
        "her relay": requests.get(relay.format(two.alice.name, two.alice.project.path), headers=headers, timeout=30),
        "an absent one": requests.get(relay.format(ABSENT, two.alice.project.path), headers=headers, timeout=30),
        "her project": requests.get(relay.format(two.bob.name, two.alice.project.path), headers=headers, timeout=30),
        "no credential": requests.get(relay.format(two.alice.name, two.alice.project.path), timeout=30),
    }
    redeemed = requests.post(
        f"{installation.url}/api/slipway/v1/agent/redeem", json={"code": code}, headers=headers, timeout=10
    )

    assert {name: answer.status_code for name, answer in refused.items()} == dict.fromkeys(refused, 403)
    assert refused["her relay"].text == refused["an absent one"].text
    assert redeemed.status_code == requests.codes.not_found
    own = requests.get(relay.format(two.bob.name, two.bob.project.path), headers=headers, timeout=30)
    assert own.status_code == requests.codes.ok
    for path in ("/api/notebooks/servers", f"/api/notebooks/servers/{two.bob.name}", "/api/slipway/v1/tokens"):
        assert requests.get(f"{installation.url}{path}", headers=headers, timeout=30).status_code == 401


# ---------------------------------------------------------------- from inside


def _searched(two: Two, by: Inhabitant, secrets: Mapping[str, str], installation: Installation) -> Found:
    told = installation.environment
    root = Path(told["SPAWNER_STANDALONE__ROOT"])
    other = two.alice if by is two.bob else two.bob
    data, gitlab = installation.data, installation.stand_in.data
    roots = [root, data, gitlab, by.workspace, other.workspace, Path("/dev/shm"), Path("/run"), Path("/var/lib")]
    paths = [
        *(
            data / name
            for name in ("keys", "client-secret", "slipway.db", "slipway.db-wal", "web.log", "worker.log", "beat.log")
        ),
        *(gitlab / name for name in ("stand-in.json", "admin-token", "stand-in.log")),
        *(root / name for name in ("people.json", "person.json", "workloads", "workspaces", "run", "keys")),
        *(root / "workloads" / other.workload / name for name in ("record.json", "process.json", "plan.json")),
        *(other.workspace / name for name in (".slipway/session.json", ".slipway/gitconfig", "work", "home")),
        Path("/proc/self/root/proc/1/environ"),
    ]
    return search(by.kernel, secrets, roots=[str(each) for each in roots], paths=[str(each) for each in paths])


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_session_reads_no_secret_and_nothing_of_the_other(two: Two, installation: Installation, who: str) -> None:
    """Files, variables, arguments, processes and ports show code in a session no token but its own credential."""
    by: Inhabitant = getattr(two, who)
    other = two.alice if by is two.bob else two.bob
    canary = f"planted-{random.token_hex(8)}"
    (other.workspace / "work" / "canary.txt").write_text(canary)
    forbidden = {
        **{f"own {name}": secret for name, secret in by.secrets.items()},
        **{f"other's {name}": secret for name, secret in other.secrets.items()},
        **two.service,
        "other's credential": other.credential,
        "other's headers": next(iter(other.headers.values())).rpartition(" ")[2],
        "other's file": canary,
        **{f"other's {name}": word for name, word in other.words.items()},
    }
    control = {"own credential": by.credential, "own session": by.name}

    found = _searched(two, by, {**forbidden, **control}, installation)

    assert set(found.places) == set(control), found.places
    assert found.counts["files"] > 5, found.counts
    assert found.counts["processes"] >= 2, found.counts
    assert found.counts["ports"] >= 3, found.counts
    assert found.uid >= 200_000
    assert set(found.groups) <= {found.uid}


def test_people_have_different_user_ids(two: Two) -> None:
    """Each person's processes run under an id of their own, which owns their folder alone."""
    uids = [int(each.kernel.run("import os; print(os.getuid())")) for each in (two.alice, two.bob)]

    assert uids[0] != uids[1]
    assert [each.workspace.stat().st_uid for each in (two.alice, two.bob)] == uids
    assert [each.workspace.stat().st_mode & 0o777 for each in (two.alice, two.bob)] == [0o700, 0o700]


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_the_relay_gives_no_secret_away(two: Two, who: str) -> None:
    """Fetch, push and LFS work through the relay, and not one byte of it is a GitLab token, nor one of its LFS."""
    by: Inhabitant = getattr(two, who)
    other = two.alice if by is two.bob else two.bob
    forbidden = {**{f"own {name}": secret for name, secret in by.secrets.items()}, **two.service}
    forbidden |= {f"other's {name}": secret for name, secret in other.secrets.items()}
    # GitLab's own LFS tokens are `<user>:lfs.<claim>`; their claims begin like this.
    forbidden["token of the LFS answer"] = f"{by.client.user.username}:lfs."

    found, statuses, count = relayed(by.kernel, {**forbidden, "control": "git-upload-pack"})

    assert found == {"control"}
    assert count > 1000
    assert statuses.pop("another project") == requests.codes.forbidden
    assert statuses == {
        "git-upload-pack": 200,
        "git-receive-pack": 200,
        "batch upload": 200,
        "upload": 200,
        "batch download": 200,
        "download": 200,
        "lock": 201,
        "locks": 200,
        "verify": 200,
        "git fetch": 0,
        "git add": 0,
        "git commit": 0,
        "git push": 0,
    }
