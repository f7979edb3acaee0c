"""The demo's check: does the whole job without a person, as any client would, and says what each step took.

For: `spawner demo --check` runs `python -m spawner.testing.democheck DATA/demo.json [--json]` as a process of its own.
Promises: every step asserts what it claims on the answers of real servers, real Git and a real kernel; every wait is
bounded; the first failure ends the check with a sentence; exit code 0 means that every step passed, 1 that one did not.
Must not know: anything of ours. It reads `demo.json` and speaks HTTP, WebSocket and Git; an import contract says so.
One file on purpose, though a long one: it can be copied to any machine and run against any spawner.
"""

import argparse
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import websocket

READY_SECONDS = 300.0  # a cold environment has to be fetched and compiled within it, on a busy machine too
BUILD_SECONDS = 300.0
SHORT_SECONDS = 30.0
RUN_SECONDS = 120.0  # of one piece of code in a kernel
TOKENLESS = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}


class CheckFailed(Exception):
    """A step found something other than what it claims."""


def claim(condition: object, sentence: str) -> None:
    """Fail the step with a sentence unless the condition holds."""
    if not condition:
        raise CheckFailed(sentence)


def eventually(look: Callable[[], object], sentence: str, *, within_seconds: float = SHORT_SECONDS) -> None:
    """Look again and again until what is looked for is there; fail the step when the time is up."""
    deadline = time.monotonic() + within_seconds
    while not look():
        claim(time.monotonic() < deadline, f"{sentence} within {within_seconds:.0f} s.")
        time.sleep(0.1)


# ---------------------------------------------------------------- the clients


def http(method: str, url: str, **more: Any) -> requests.Response:
    """Send one request as it is given: no proxy, and nothing of ~/.netrc in the place of a header."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with a token, as a client of the spawner and of GitLab."""

    username: str
    token: str = field(repr=False)
    spawner_url: str
    gitlab_url: str

    def ask(self, method: str, path: str, body: object = None, *, expect: tuple[int, ...] = (200,)) -> Any:
        """Send one request below /api/notebooks and return the decoded body."""
        answer = self.raw(method, path, body)
        claim(answer.status_code in expect, f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer.json() if answer.content else None

    def raw(self, method: str, path: str, body: object = None) -> requests.Response:
        """Send one request below /api/notebooks."""
        return http(
            method,
            f"{self.spawner_url}/api/notebooks{path}",
            json=body,
            headers=self.bearer,
            timeout=SHORT_SECONDS,
        )

    def gitlab(self, path: str) -> Any:
        """Get one document of GitLab's REST API."""
        answer = http("GET", f"{self.gitlab_url}/api/v4{path}", headers=self.bearer, timeout=SHORT_SECONDS)
        claim(answer.ok, f"GitLab answered {answer.status_code} to {path}: {answer.text[:200]}")
        return answer.json()

    @property
    def bearer(self) -> dict[str, str]:
        """The header that proves who asks."""
        return {"Authorization": f"Bearer {self.token}"}

    def launch(self, project: str, sha: str, branch: str, **more: object) -> Any:
        """Ask for a session and return the server object."""
        namespace, _, name = project.rpartition("/")
        body = {"namespace": namespace, "project": name, "branch": branch, "commit_sha": sha, **more}
        return self.ask("POST", "/servers", body, expect=(200, 201))

    def server(self, name: str) -> Any:
        """Return the server object."""
        return self.ask("GET", f"/servers/{name}")

    def stop(self, name: str) -> None:
        """Stop a session and wait until it is gone."""
        self.ask("DELETE", f"/servers/{name}", expect=(204,))
        eventually(
            lambda: self.raw("GET", f"/servers/{name}").status_code == requests.codes.not_found, f"{name} did not go"
        )

    def events(self, name: str, *, within_seconds: float, last_id: str = "0") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the session's events, oldest first, until it is ready, failed or gone."""
        deadline = time.monotonic() + within_seconds
        url = f"{self.spawner_url}/api/notebooks/servers/{name}/events?until=ready"
        headers = {**self.bearer, "Accept": "text/event-stream", "Last-Event-ID": last_id}
        with http("GET", url, headers=headers, stream=True, timeout=SHORT_SECONDS) as answer:
            if not answer.ok:  # only then may the body be read to its end
                raise CheckFailed(f"The event stream of {name} answered {answer.status_code}: {answer.text[:200]}")
            kind, data = "message", ""
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                claim(time.monotonic() < deadline, f"{name} was not ready within {within_seconds:.0f} s.")
                if line.startswith("event:"):
                    kind = line[6:].strip()
                elif line.startswith("data:"):
                    data += line[5:].strip()
                elif not line and data:
                    yield kind, json.loads(data)
                    kind, data = "message", ""

    def until_ready(self, name: str, *, within_seconds: float = READY_SECONDS) -> list[tuple[str, dict[str, Any]]]:
        """Read the stream to its end; fail unless the last event says that the session is ready."""
        seen = list(self.events(name, within_seconds=within_seconds))
        claim(seen, f"The event stream of {name} was empty.")
        kind, data = seen[-1]
        claim(kind == "ready", f"{name} ended with {kind!r}: {data.get('message')}")
        return seen

    def door(self, name: str) -> tuple[str, dict[str, str]]:
        """Return where the session answers programs, and the headers it wants."""
        opened = self.ask("POST", f"/servers/{name}/open", expect=(201,))
        url, host = by_loopback(opened["url"])
        answer = http("GET", url, headers={"Accept": "application/json", **host}, timeout=SHORT_SECONDS)
        claim(answer.ok, f"The one-time address answered {answer.status_code}: {answer.text[:200]}")
        return str(answer.json()["base_url"]).rstrip("/"), dict(answer.json()["headers"])


def by_loopback(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL that needs no name resolution, and the Host header that goes with it.

    Browsers resolve `*.localhost` to loopback by themselves (RFC 6761); a system's resolver need not.
    """
    parts = urlsplit(url)
    if not (parts.hostname or "").endswith(".localhost"):
        return url, {}
    return parts._replace(netloc=f"127.0.0.1:{parts.port or 80}").geturl(), {"Host": parts.netloc}


class Kernel:
    """A Python kernel of a session, spoken to over its WebSocket. Source: Jupyter messaging protocol 5.3."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = base_url, dict(headers)
        answer = http("POST", f"{base_url}/api/kernels", json={"name": "python3"}, headers=headers, timeout=30)
        claim(answer.status_code == requests.codes.created, f"No kernel: {answer.status_code} {answer.text[:200]}")
        self.id = answer.json()["id"]
        self._socket = self._connected()

    def _connected(self) -> websocket.WebSocket:
        return websocket.create_connection(
            f"ws{self._url.removeprefix('http')}/api/kernels/{self.id}/channels",
            header=[f"{key}: {value}" for key, value in self._headers.items()],
            timeout=60,
        )

    def run(self, code: str, *, within_seconds: float = RUN_SECONDS) -> str:
        """Run code and return what it printed; fail the step when it raises or takes too long."""
        deadline = time.monotonic() + within_seconds
        # A server hangs up on who reads nothing for a while: each run dials anew.
        self._socket.close()
        self._socket = self._connected()
        wanted = secrets.token_hex(16)
        header = {"msg_id": wanted, "msg_type": "execute_request", "username": "", "session": wanted, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "user_expressions": {}}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._socket.send(json.dumps(message))
        printed = ""
        while True:
            claim(time.monotonic() < deadline, f"The kernel did not end within {within_seconds:.0f} s.")
            self._socket.settimeout(min(60.0, max(0.1, deadline - time.monotonic())))
            answer = json.loads(self._socket.recv())
            if answer.get("parent_header", {}).get("msg_id") != wanted:
                continue
            match answer["msg_type"]:
                case "stream":
                    printed += answer["content"]["text"]
                case "error":
                    raise CheckFailed(f"The kernel raised {answer['content']['ename']}: {answer['content']['evalue']}")
                case "status" if answer["content"]["execution_state"] == "idle":
                    return printed.strip()

    def close(self) -> None:
        """Hang up; the kernel runs on."""
        self._socket.close()


class Clone:
    """A working copy of a project, pushed and pulled with a person's token from a private file."""

    def __init__(self, folder: Path, url: str, person: Person) -> None:
        parts = urlsplit(url)
        kept = folder / "credentials"
        kept.touch(mode=0o600)
        kept.write_text(f"{parts.scheme}://oauth2:{person.token}@{parts.netloc}\n")
        self.path = folder / "clone"
        self._settings = ["-c", "credential.helper=", "-c", f"credential.helper=store --file={kept}"]
        self._settings += ["-c", f"user.name={person.username}", "-c", f"user.email={person.username}@example.org"]
        self.git("clone", "--quiet", url, str(self.path), inside=False)

    def git(self, *arguments: str, inside: bool = True) -> str:
        """Run Git and return what it printed."""
        command = ["git", *(["-C", str(self.path)] if inside else []), *self._settings, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **TOKENLESS}
        )
        claim(done.returncode == 0, f"git {arguments[0]} failed: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    def commit(self, message: str, **files: str) -> str:
        """Commit files by path on top of what the remote has, and return the new commit."""
        for path, text in files.items():
            (self.path / path).write_text(text)
            self.git("add", "--", path)
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def catch_up(self) -> None:
        """Take over what others pushed."""
        self.git("fetch", "--quiet", "origin")
        self.git("reset", "--quiet", "--hard", "@{upstream}")


# ---------------------------------------------------------------- what the steps share


@dataclass(slots=True, kw_only=True)
class Check:
    """The demo as `demo.json` tells it, and what the steps so far have learned."""

    path: Path
    folder: Path
    demo: dict[str, Any]
    alice: Person
    bob: Person
    branch: str = ""
    session: str = ""
    sha: str = ""
    built_sha: str = ""
    base_url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    bob_session: str = ""
    pids: list[int] = field(default_factory=list)
    relay: dict[str, str] = field(default_factory=dict)
    clone: Clone | None = None
    kernel: Kernel | None = None

    def project(self, name: str) -> dict[str, Any]:
        """Return one of the sample projects."""
        return next(dict(project) for project in self.demo["projects"] if project["name"] == name)

    @property
    def copy(self) -> Clone:
        """The working copy of the first sample project."""
        claim(self.clone, "There is no clone.")
        assert self.clone is not None
        return self.clone

    @property
    def python(self) -> Kernel:
        """The kernel of the present session."""
        claim(self.kernel, "There is no kernel.")
        assert self.kernel is not None
        return self.kernel

    def launch_and_enter(self, sha: str, **more: object) -> list[tuple[str, dict[str, Any]]]:
        """Launch a commit of the first sample project as Alice, wait, open a kernel; return the events."""
        self.sha = sha
        self.session = self.alice.launch(self.project("requirements")["path"], sha, self.branch, **more)["name"]
        seen = self.alice.until_ready(self.session)
        self.enter()
        return seen

    def enter(self) -> None:
        """Open the present session and start a kernel in it."""
        self.base_url, self.headers = self.alice.door(self.session)
        self.kernel = Kernel(self.base_url, self.headers)

    def leave(self) -> None:
        """Hang up and stop the present session."""
        self.python.close()
        self.alice.stop(self.session)

    def let_runner(self, *, work: bool) -> None:
        """Let CI's runner take jobs, or keep them pending."""
        address = f"{self.demo['stand_in_url']}/-/stand-in/runner"
        http("POST", address, json={"paused": not work}, timeout=SHORT_SECONDS).raise_for_status()

    @contextmanager
    def paused_runner(self) -> Iterator[None]:
        """Keep CI jobs pending for a while."""
        self.let_runner(work=False)
        try:
            yield
        finally:
            self.let_runner(work=True)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------- the steps


def create(check: Check) -> str:
    """Clone the sample and commit a change of its environment that nobody has built."""
    project = check.project("requirements")
    check.branch = project["default_branch"]
    listed = check.alice.gitlab(f"/projects/{project['id']}")
    check.clone = Clone(check.folder, listed["http_url_to_repo"], check.alice)
    missing = set(project["commits"]) - set(check.copy.git("log", "--format=%H").split())
    claim(not missing, f"demo.json names commits that {project['path']} does not have: {', '.join(missing)}.")
    first, *rest = _requirements(check)
    # Excluding a version that never was declares another environment, and resolves to the same packages.
    changed = f"{first},!=0.0.{secrets.randbelow(10**9)}"
    text = "\n".join([changed, *rest]) + "\n"
    check.sha = check.built_sha = check.copy.commit("Exclude a version.", **{"requirements.txt": text})
    return f"{project['path']} at {check.sha[:8]}"


def _requirements(check: Check) -> list[str]:
    lines = (check.copy.path / "requirements.txt").read_text().splitlines()
    found = [line.partition("#")[0].strip() for line in lines]
    return [line for line in found if line]


def push(check: Check) -> str:
    """Push the commit and see that GitLab has it. Its job waits until somebody waits for it."""
    check.let_runner(work=False)
    check.copy.git("push", "--quiet", "origin", f"HEAD:{check.branch}")
    found = check.alice.gitlab(f"/projects/{check.project('requirements')['id']}/repository/commits/{check.sha}")
    claim(found["id"] == check.sha, "GitLab does not have the pushed commit.")
    return check.sha[:8]


def pipeline(check: Check) -> str:
    """See that the push made a pipeline with the build job in it."""
    project = check.project("requirements")["id"]
    jobs: list[dict[str, Any]] = []

    def look() -> bool:
        for found in check.alice.gitlab(f"/projects/{project}/pipelines?sha={check.sha}"):
            jobs.extend(check.alice.gitlab(f"/projects/{project}/pipelines/{found['id']}/jobs"))
        return any(job["name"] == check.demo["build_job"] for job in jobs)

    eventually(look, f"No pipeline with a job {check.demo['build_job']!r} for {check.sha[:8]}")
    return f"job {next(job['id'] for job in jobs if job['name'] == check.demo['build_job'])}"


def wait(check: Check) -> str:
    """Launch at once; the stream tells that the build is waited for, and shows its log."""
    server = check.alice.launch(check.project("requirements")["path"], check.sha, check.branch)
    check.session = server["name"]
    again = check.alice.launch(check.project("requirements")["path"], check.sha, check.branch)
    claim(again["name"] == check.session, "The same POST made another session.")
    lines = 0
    waited = False
    for kind, data in check.alice.events(check.session, within_seconds=BUILD_SECONDS):
        if data.get("phase") == "WAITING" and not waited:
            waited = True
            check.let_runner(work=True)
        lines += kind == "log"
        claim(kind not in {"failed", "gone"}, f"The launch ended with {kind!r}: {data.get('message')}")
        if kind == "image":
            break
    claim(waited, "The session never was WAITING, though nothing had built its environment.")
    claim(lines, "No line of the build's log came over the stream.")
    return f"{check.session}, {lines} pieces of log"


def ready(check: Check) -> str:
    """The stream says ready, the server object says running, and the session answers."""
    check.alice.until_ready(check.session)
    server = check.alice.server(check.session)
    ours = server["slipway"]
    claim(server["status"]["state"] == "running", f"status.state is {server['status']['state']!r}.")
    claim(ours["phase"] == "RUNNING", f"The phase is {ours['phase']!r}.")
    source = ours["image"]["source"]
    if source not in {"built", "exact"}:
        log = check.alice.ask("GET", f"/logs/{check.session}").get("image-build", "")
        raise CheckFailed(f"The image's source is {source!r}: {ours['image']['reason']} Its log ends: {log[-700:]}")
    check.enter()
    status = http("GET", f"{check.base_url}/api/status", headers=check.headers, timeout=SHORT_SECONDS)
    claim(status.ok, f"The session answered {status.status_code}.")
    return f"{source}: {ours['image']['reason']}"


def kernel_commit(check: Check) -> str:
    """A kernel finds exactly the pushed commit, on its branch, with nothing changed."""
    code = "import subprocess; print(subprocess.check_output({}, text=True).strip())"
    found = check.python.run(code.format("['git', 'rev-parse', 'HEAD']"))
    claim(found == check.sha, f"The kernel stands on {found!r}, not on {check.sha}.")
    branch = check.python.run(code.format("['git', 'symbolic-ref', '--short', 'HEAD']"))
    claim(branch == check.branch, f"The kernel's branch is {branch!r}.")
    changed = check.python.run(code.format("['git', 'status', '--porcelain', '--untracked-files=no']"))
    claim(changed == "", f"The checkout differs from the commit: {changed}")
    return found[:8]


def kernel_package(check: Check) -> str:
    """The package that the commit declares can be imported, in a version it allows."""
    declared = _requirements(check)[0]
    name = re.split(r"[^A-Za-z0-9._-]", declared)[0]
    found = check.python.run(
        "import importlib, importlib.metadata as m\n"
        f"d = m.distribution({name!r})\n"
        "tops = {f.parts[0].removesuffix('.py') for f in d.files if f.suffix == '.py' and '..' not in f.parts}\n"
        "print([importlib.import_module(t).__name__ for t in sorted(tops)][0], d.version)"
    )
    pinned = re.search(r"==([0-9][^,;\s]*)", declared)
    version = found.split()[-1]
    claim(pinned is None or pinned[1] == version, f"{declared} is declared, {found} is installed.")
    return found


def stop(check: Check) -> str:
    """Start a process that leaves its parents, note what the session holds, then stop it."""
    code = (
        "import os, subprocess\n"
        "p = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(os.getpid(), os.getppid(), p.pid)"
    )
    check.pids = [int(pid) for pid in check.python.run(code).split()]
    claim(all(is_alive(pid) for pid in check.pids), "The session's processes cannot be seen from here.")
    remote = "['git', 'ls-remote', '--get-url', 'origin']"
    header = "['git', 'config', '--get-regexp', r'^http\\..*\\.extraheader$']"
    show = "import subprocess; print(subprocess.check_output({}, text=True))"
    url = check.python.run(show.format(remote))
    value = check.python.run(show.format(header)).partition(" ")[2]
    check.relay = {"url": url, "header": value}
    claim(_relay_status(check) == requests.codes.ok, "The relay does not serve the running session.")
    check.leave()
    return ", ".join(f"pid {pid}" for pid in check.pids)


def _relay_status(check: Check) -> int:
    name, _, value = check.relay["header"].partition(":")
    address = f"{check.relay['url']}/info/refs?service=git-upload-pack"
    return http("GET", address, headers={name.strip(): value.strip()}, timeout=SHORT_SECONDS).status_code


def nothing_left(check: Check) -> str:
    """No process, no port and no credential of the stopped session is left."""
    eventually(lambda: not any(is_alive(pid) for pid in check.pids), f"Of {check.pids} some process is left")
    parts = urlsplit(check.base_url)

    def refused() -> bool:
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex((parts.hostname or "", parts.port or 80)) != 0

    eventually(refused, f"Port {parts.port} still answers")
    eventually(
        lambda: _relay_status(check) == requests.codes.forbidden, "The session's credential still opens the relay"
    )
    listed = check.alice.ask("GET", "/servers")["servers"]
    claim(check.session not in listed, "The stopped session is still listed.")
    return "no process, no port, no credential"


def second_user(check: Check) -> str:
    """As root a second person works beside the first; as an ordinary user they are refused, with the reason."""
    project = check.project("requirements")["path"]
    check.launch_and_enter(check.sha)
    if os.geteuid() != 0:
        answer = check.bob.raw("POST", "/servers", _body(project, check.sha, check.branch))
        claim(answer.status_code == requests.codes.forbidden, f"A second person was answered {answer.status_code}.")
        sentence = answer.json()["error"]["message"]
        claim(sentence, "The refusal has no sentence.")
        return f"refused: {sentence}"
    check.bob_session = check.bob.launch(project, check.sha, check.branch)["name"]
    check.bob.until_ready(check.bob_session)
    base_url, headers = check.bob.door(check.bob_session)
    kernel = Kernel(base_url, headers)
    mine, theirs = (
        k.run("import os; print(os.getuid(), os.getcwd())").split(maxsplit=1) for k in (check.python, kernel)
    )
    claim(mine[0] != theirs[0], "Two people's kernels run under one user id.")
    claim("0" not in {mine[0], theirs[0]}, "A kernel runs as root.")
    code = f"import os\ntry: print(os.listdir({mine[1]!r}))\nexcept OSError as e: print('refused', e.errno)"
    claim(kernel.run(code).startswith("refused"), "One person's kernel can list the other's workspace.")
    kernel.close()
    return f"{check.bob.username} runs beside {check.alice.username}, as user {theirs[0]}"


def _body(project: str, sha: str, branch: str) -> dict[str, str]:
    namespace, _, name = project.rpartition("/")
    return {"namespace": namespace, "project": name, "branch": branch, "commit_sha": sha}


def foreign_404(check: Check) -> str:
    """Somebody else's session answers exactly as one that does not exist."""
    asked = 0
    for method, path, body in (
        ("GET", "/servers/{}", None),
        ("PATCH", "/servers/{}", {"start": "now"}),
        ("DELETE", "/servers/{}", None),
        ("GET", "/logs/{}", None),
        ("GET", "/servers/{}/events", None),
        ("POST", "/servers/{}/open", None),
    ):
        real = check.bob.raw(method, path.format(check.session), body)
        none = check.bob.raw(method, path.format("no-such-session-00000000"), body)
        claim(real.status_code == requests.codes.not_found, f"{method} {path} answered {real.status_code}.")
        same = real.text.replace(check.session, "*") == none.text.replace("no-such-session-00000000", "*")
        claim(same, f"{method} {path} tells a foreign session from none: {real.text[:200]}")
        asked += 1
    claim(check.session not in check.bob.ask("GET", "/servers")["servers"], "A foreign session is listed.")
    return f"{asked} addresses"


def foreign_address_refused(check: Check) -> str:
    """The session's own address answers nobody without its authorization, and no WebSocket either."""
    attempts: dict[str, dict[str, str]] = {"nobody": {}, "a GitLab token": check.bob.bearer}
    attempts["a wrong token"] = {key: f"{value[:-4]}0000" for key, value in check.headers.items()}
    if check.bob_session:
        attempts["the other's headers"] = check.bob.door(check.bob_session)[1]
    for who, headers in attempts.items():
        for path in ("/api/contents", "/api/kernels", "/files/requirements.txt"):
            answer = http("GET", check.base_url + path, headers=headers, timeout=SHORT_SECONDS, allow_redirects=False)
            claim(answer.status_code in {401, 403, 404, 302}, f"{path} answered {who} with {answer.status_code}.")
            claim("humanize" not in answer.text, f"{path} showed {who} the project's files.")
        _refuse_socket(check, who, headers)
    if check.bob_session:
        check.bob.stop(check.bob_session)
    return f"{', '.join(attempts)}: refused"


def _refuse_socket(check: Check, who: str, headers: Mapping[str, str]) -> None:
    url = f"ws{check.base_url.removeprefix('http')}/api/kernels/{check.python.id}/channels"
    try:
        opened = websocket.create_connection(url, header=[f"{k}: {v}" for k, v in headers.items()], timeout=10)
    except websocket.WebSocketBadStatusException:
        return
    opened.close()
    raise CheckFailed(f"A WebSocket to the kernel opened for {who}.")


def push_from_session(check: Check) -> str:
    """Work in the session is committed and pushed from it, without a prompt and without a token in it."""
    code = (
        "import subprocess, pathlib\n"
        "pathlib.Path('from-session.txt').write_text('made in a session\\n')\n"
        "for c in (['add', 'from-session.txt'], ['commit', '-qm', 'Add a file.'], ['push', '-q', 'origin', 'HEAD']):\n"
        "    r = subprocess.run(['git', *c], capture_output=True, text=True, stdin=subprocess.DEVNULL)\n"
        "    assert r.returncode == 0, r.stderr\n"
        "print(subprocess.check_output(['git', 'rev-parse', 'HEAD'], text=True))"
    )
    made = check.python.run(code)
    shown = check.copy.git("ls-remote", "origin", f"refs/heads/{check.branch}").split()
    claim(shown[:1] == [made], f"The session pushed {made[:8]}, GitLab has {shown[:1]}.")
    token = check.alice.token
    leak = check.python.run(f"import os; print({token[-12:]!r} in str(dict(os.environ)))")
    claim(leak == "False", "The environment of the session holds the person's token.")
    check.leave()
    return made[:8]


def reuse(check: Check) -> str:
    """With no runner at all, a pushed notebook edit launches at once in the environment already built."""
    check.copy.catch_up()
    notebook = next(iter(sorted(check.copy.path.glob("*.ipynb"))), None)
    claim(notebook, "The sample has no notebook.")
    assert notebook is not None
    edited = json.loads(notebook.read_text())
    edited["cells"].append({"cell_type": "markdown", "id": "demo-check", "metadata": {}, "source": ["An edit."]})
    with check.paused_runner():
        sha = check.copy.commit("Edit a notebook.", **{notebook.name: json.dumps(edited, indent=1) + "\n"})
        check.copy.git("push", "--quiet", "origin", f"HEAD:{check.branch}")
        seen = check.launch_and_enter(sha)
        image = check.alice.server(check.session)["slipway"]["image"]
        kernel_commit(check)
    claim(image["source"] == "environment", f"The image's source is {image['source']!r}: {image['reason']}")
    claim(image["built_for_commit"] == check.built_sha, f"built_for_commit is {image['built_for_commit']!r}.")
    waited = [data.get("message") for _, data in seen if data.get("phase") == "WAITING"]
    claim(not waited, f"The launch waited for a build that changes nothing: {waited}")
    check.leave()
    return str(image["reason"])


def failing_build(check: Check) -> str:
    """A build that fails is told in a sentence, with the failing lines of its log beside it."""
    project = check.project("failing")
    launched = check.alice.launch(project["path"], project["commits"][0], project["default_branch"], fallback="fail")
    seen = list(check.alice.events(launched["name"], within_seconds=BUILD_SECONDS))
    kind, data = seen[-1]
    claim(kind == "failed", f"The launch ended with {kind!r}: {data.get('message')}")
    server = check.alice.server(launched["name"])
    error = server["slipway"]["error"]
    claim(server["status"]["state"] == "failed", f"status.state is {server['status']['state']!r}.")
    claim(error and error["message"] and error["remedy"], f"The failure says neither what nor what to do: {error}")
    claim(check.demo["build_job"] in error["message"], f"The sentence does not name the job: {error['message']}")
    log = check.alice.ask("GET", f"/logs/{launched['name']}").get("image-build", "")
    told = [line for line in log.splitlines() if re.search(r"no solution|not found|error|fail", line, re.IGNORECASE)]
    claim(told, f"The kept log has no failing line: {log[-300:]!r}")
    check.alice.stop(launched["name"])
    return str(error["message"])


def start_now(check: Check) -> str:
    """Whoever does not want to wait says so, and gets the best image there is, flagged."""
    first, *rest = _requirements(check)
    text = "\n".join([f"{first},!=0.0.{secrets.randbelow(10**9)}", *rest]) + "\n"
    with check.paused_runner():
        sha = check.copy.commit("Exclude another version.", **{"requirements.txt": text})
        check.copy.git("push", "--quiet", "origin", f"HEAD:{check.branch}")
        check.sha = sha
        check.session = check.alice.launch(check.project("requirements")["path"], sha, check.branch)["name"]
        eventually(
            lambda: check.alice.server(check.session)["slipway"]["phase"] == "WAITING", "The session did not wait"
        )
        check.alice.ask("PATCH", f"/servers/{check.session}", {"start": "now"}, expect=(200, 204))
        check.alice.until_ready(check.session)
        server = check.alice.server(check.session)
    image = server["slipway"]["image"]
    claim(image["source"] in {"default", "ancestor"}, f"The image's source is {image['source']!r}.")
    claim(server["status"]["warnings"], "The page would not say that this is not the commit's own image.")
    check.enter()
    kernel_commit(check)
    return f"{image['source']}: {image['reason']}"


def spawner_killed(check: Check) -> str:
    """The spawner is killed; the session answers all the while, is found again, and can be stopped."""
    pid = int(json.loads(check.path.read_text())["pid"])
    os.kill(pid, signal.SIGKILL)
    claim(check.python.run("print(6 * 7)") == "42", "The kernel did not survive the spawner.")

    def back() -> bool:
        try:
            answer = http("GET", f"{check.alice.spawner_url}/health", timeout=2)
        except requests.RequestException:
            claim(check.python.run("print(1)") == "1", "The kernel did not survive the spawner.")
            return False
        return answer.ok and not is_alive(pid)

    eventually(back, "The spawner did not come back", within_seconds=60)
    server = check.alice.server(check.session)
    claim(server["slipway"]["phase"] == "RUNNING", f"After the restart the phase is {server['slipway']['phase']!r}.")
    claim(server["slipway"]["generation"] == 1, "The session was started again, which loses its kernels.")
    claim(check.python.run("print(6 * 7)") == "42", "The kernel did not survive the restart.")
    check.leave()
    return f"pid {pid} killed, session untouched"


STEPS: tuple[Callable[[Check], str], ...] = (
    create,
    push,
    pipeline,
    wait,
    ready,
    kernel_commit,
    kernel_package,
    stop,
    nothing_left,
    second_user,
    foreign_404,
    foreign_address_refused,
    push_from_session,
    reuse,
    failing_build,
    start_now,
    spawner_killed,
)


# ---------------------------------------------------------------- running them


def run_steps(check: Check, tell: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Run the steps in order up to the first failure; return and tell each one's name, end, seconds and detail."""
    done: list[dict[str, Any]] = []
    for step in STEPS:
        started = time.monotonic()
        try:
            detail, passed = step(check), True
        except (
            CheckFailed,
            requests.RequestException,
            websocket.WebSocketException,
            OSError,
            subprocess.SubprocessError,
        ) as problem:
            detail, passed = str(problem) or type(problem).__name__, False
        except Exception as problem:  # noqa: BLE001 - the outermost loop: any step may meet an answer that it cannot read
            detail, passed = f"An answer lacks what the contract promises: {problem!r}", False
        seconds = round(time.monotonic() - started, 3)
        done.append({"step": step.__name__, "passed": passed, "seconds": seconds, "detail": detail})
        tell(done[-1])
        if not passed:
            break
    return done


def main(arguments: list[str]) -> int:
    """Check the demo that a `demo.json` describes; 0 when every step passed."""
    parser = argparse.ArgumentParser(prog="python -m spawner.testing.democheck", description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="the demo.json of a running demo")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, prose on stderr")
    options = parser.parse_args(arguments)
    prose = sys.stderr if options.json else sys.stdout

    def tell(row: dict[str, Any]) -> None:
        mark = "ok    " if row["passed"] else "FAILED"
        print(f"{mark} {row['step']:<24} {row['seconds']:7.2f} s  {row['detail']}", file=prose, flush=True)

    demo = json.loads(options.demo.read_text())
    urls = {"spawner_url": demo["spawner_url"].rstrip("/"), "gitlab_url": demo["gitlab_url"].rstrip("/")}
    alice, bob = (
        Person(username=user["username"], token=user["token"], **urls)
        for user in [user for user in demo["users"] if not user["is_admin"]][:2]
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="slipway-check-") as folder:
        check = Check(path=options.demo, folder=Path(folder), demo=demo, alice=alice, bob=bob)
        try:
            rows = run_steps(check, tell)
        finally:
            with suppress(requests.RequestException):  # a failed check leaves the demo usable, where it still runs
                check.let_runner(work=True)
    passed = len(rows) == len(STEPS) and all(row["passed"] for row in rows)
    seconds = round(time.monotonic() - started, 3)
    print(f"{'All' if passed else 'Not all'} of {len(STEPS)} steps passed, {seconds:.1f} s", file=prose)
    if options.json:
        not_run = [step.__name__ for step in STEPS[len(rows) :]]
        sys.stdout.write(json.dumps({"passed": passed, "seconds": seconds, "steps": rows, "not_run": not_run}) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
