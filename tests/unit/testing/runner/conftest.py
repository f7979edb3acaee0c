"""The server's side of the Runner HTTP protocol, real enough for one runner, with a Git repository behind it."""

import base64
import gzip
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

RUNNER_TOKEN, JOB_TOKEN = "glrt-test", "glcbt-64_abcdefghijklmnop"
DEADLINE_SECONDS = 30


@dataclass(kw_only=True)
class SentJob:
    """What the server knows of one job."""

    document: dict[str, Any]
    log: bytearray = field(default_factory=bytearray)
    status: str = "running"
    final: dict[str, Any] | None = None
    pieces: list[tuple[float, str, int]] = field(default_factory=list)
    keep_alives: int = 0
    refusals: list[int] = field(default_factory=list)
    uploads: dict[str, tuple[str, bytes, dict[str, str]]] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def text(self) -> str:
        return self.log.decode(errors="replace")


@dataclass(kw_only=True)
class Server:
    """A GitLab for one runner: jobs are put in by `add`."""

    url: str
    folder: Path
    sha: str = ""
    waiting: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[int, SentJob] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    archives: dict[int, bytes] = field(default_factory=dict)
    trouble: list[Callable[[], Response | None]] = field(default_factory=list)
    git_logins: list[str] = field(default_factory=list)
    runners: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(
        self, *script: str, after: Sequence[str] = (), variables: Mapping[str, str] | None = None, **parts: Any
    ) -> SentJob:
        """Queue a job and return what will be known of it."""
        number = 100 + len(self.jobs)
        rows = [{"key": key, "value": value, "public": True} for key, value in (variables or {}).items()]
        rows.append({"key": "CI_JOB_TOKEN", "value": JOB_TOKEN, "masked": True})
        steps = [{"name": "script", "script": list(script), "timeout": 3600, "when": "on_success"}]
        if after:
            steps.append({"name": "after_script", "script": list(after), "when": "always", "allow_failure": True})
        document = {
            "id": number,
            "token": JOB_TOKEN,
            "job_info": {"id": number, "name": "image_build", "stage": "build", "project_name": "proj"},
            "git_info": {
                "repo_url": self.url.replace("://", f"://gitlab-ci-token:{JOB_TOKEN}@") + "/grp/proj.git",
                "ref": "main", "sha": self.sha, "refspecs": [f"+{self.sha}:refs/pipelines/1"], "depth": 20,
            },
            "runner_info": {"timeout": 3600},
            "variables": rows + list(parts.pop("rows", [])),
            "steps": steps,
            "features": {"trace_sections": True, "token_mask_prefixes": ["glpat-"]},
            **parts,
        }  # fmt: skip
        self.jobs[number] = SentJob(document=document)
        self.waiting.append(document)
        return self.jobs[number]

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a runner."""
        token_file = self.folder / "token"
        token_file.write_text(RUNNER_TOKEN)
        command = [
            sys.executable, "-m", "spawner.testing.gitlab.runner", "--url", self.url, "--token-file", str(token_file),
            "--data", str(self.folder / "runner"), "--poll-seconds", "0.05", "--keep-alive-seconds", "0.4", *arguments,
        ]  # fmt: skip
        self.runners.append(subprocess.Popen(command, env={**os.environ, **(environment or {})}))
        return self.runners[-1]

    def run_one(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Let a runner do one job and end."""
        assert self.run("--once", *arguments, environment=environment).wait(DEADLINE_SECONDS) == 0


def until(condition: Callable[[], object], *, what: str) -> None:
    """Wait until a condition holds, or fail."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_SECONDS} s in vain: {what}"
        pause.wait(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    app = Flask(__name__)
    listening = make_server("127.0.0.1", 0, app, threaded=True)
    made = Server(url=f"http://127.0.0.1:{listening.server_port}", folder=tmp_path)
    made.sha = _make_repository(tmp_path)
    _add_routes(app, made)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        for runner in made.runners:
            runner.terminate()
            runner.wait(DEADLINE_SECONDS)
        listening.shutdown()
        thread.join(timeout=30)
        listening.server_close()


def _make_repository(folder: Path) -> str:
    work = folder / "work"
    script = (
        f"git init -q -b main {work} && cd {work} && git config user.email a@b.c && git config user.name n"
        " && echo hello > README && git add -A && git commit -qm first && git rev-parse HEAD"
        f" && git clone -q --bare . {folder}/grp/proj.git && cd {folder}/grp/proj.git"
        " && git config uploadpack.allowAnySHA1InWant true"
    )
    return subprocess.run(
        ["bash", "-ec", script], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def _add_routes(app: Flask, server: Server) -> None:  # noqa: C901 - one short function per route
    @app.before_request
    def disturb() -> Response | None:
        if server.trouble and request.path.startswith("/api/"):
            return server.trouble.pop(0)()
        return None

    @app.post("/api/v4/runners/verify")
    def verify() -> Response:
        if request.headers.get("RUNNER-TOKEN") != RUNNER_TOKEN or request.json["token"] != RUNNER_TOKEN:
            return _answer({"message": "403 Forbidden"}, 403)
        return _answer({"id": 1, "token": RUNNER_TOKEN, "token_expires_at": None}, 200)

    @app.post("/api/v4/jobs/request")
    def request_job() -> Response:
        assert request.headers["RUNNER-TOKEN"] == RUNNER_TOKEN
        server.asked.append(request.json)
        headers = {"X-GitLab-Last-Update": f"mark-{len(server.jobs)}"}
        if not server.waiting:
            return Response(status=204, headers=headers)
        return _answer(server.waiting.pop(0), 201, headers)

    @app.patch("/api/v4/jobs/<int:number>/trace")
    def trace(number: int) -> Response:
        assert request.headers["JOB-TOKEN"] == JOB_TOKEN
        job, span = server.jobs[number], request.headers["Content-Range"]
        start, _, end = span.partition("-")
        piece = request.get_data()
        assert int(end) - int(start) + 1 == len(piece)
        if job.status in {"canceled", "failed", "success"}:
            return Response(status=403, headers={"Job-Status": job.status})
        if int(start) != len(job.log):
            return _said(job, 416)
        job.log += piece
        job.pieces.append((time.monotonic(), span, len(piece)))
        return _said(job, 202)

    @app.put("/api/v4/jobs/<int:number>")
    def update(number: int) -> Response:
        body = request.json
        assert request.headers["JOB-TOKEN"] == body["token"] == JOB_TOKEN
        job = server.jobs[number]
        if job.status in {"canceled", "failed", "success"}:
            return Response(status=403, headers={"Job-Status": job.status})
        if body["state"] == "running":
            job.keep_alives += 1
            return _said(job, 200)
        if body["checksum"] != f"crc32:{zlib.crc32(job.log):08x}" or body["output"]["bytesize"] != len(job.log):
            job.log.clear()
            return _said(job, 412)
        job.final, job.status = body, body["state"]
        job.ended.set()
        return _said(job, 200)

    @app.post("/api/v4/jobs/<int:number>/artifacts")
    def upload(number: int) -> Response:
        assert request.headers["JOB-TOKEN"] == JOB_TOKEN
        assert "Content-Length" not in request.headers
        file = request.files["file"]
        kind = request.args["artifact_type"]
        server.jobs[number].uploads[kind] = (str(file.filename), file.read(), dict(request.args))
        return _answer({}, 201)

    @app.get("/api/v4/jobs/<int:number>/artifacts")
    def download(number: int) -> Response:
        assert request.headers["JOB-TOKEN"] == f"dependency-{number}"
        return Response(server.archives[number]) if number in server.archives else Response(status=404)

    app.add_url_rule(
        "/<path:rest>", "git", lambda rest: _git(server, rest), methods=["GET", "POST"], provide_automatic_options=False
    )


def _git(server: Server, rest: str) -> Response:
    given = request.authorization
    if given is None or given.password != JOB_TOKEN:
        return Response(status=401, headers={"WWW-Authenticate": "Basic"})
    server.git_logins.append(str(given.username))
    environment = {
        "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(server.folder), "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{rest}", "QUERY_STRING": request.query_string.decode(), "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": request.content_type or "", "HTTP_GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""), "REMOTE_USER": "ci",
    }  # fmt: skip
    ended = subprocess.run(
        ["git", "http-backend"], input=request.get_data(), env=environment, capture_output=True, timeout=20, check=True
    )
    head, _, body = ended.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    return Response(body, status=int(headers.pop("Status", "200").split()[0]), headers=headers)


def _said(job: SentJob, status: int) -> Response:
    job.refusals += [status] if status >= 400 else []
    return Response(status=status, headers={"Job-Status": job.status, "Range": f"0-{len(job.log)}"})


def _answer(body: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    answer = jsonify(body)
    answer.status_code = status
    answer.headers.update(headers or {})
    return answer


def unzipped(content: bytes) -> dict[str, bytes]:
    """Return the files of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def gunzipped(content: bytes) -> bytes:
    """Return what a gzip of one or several members holds."""
    return gzip.decompress(content)


def basic(user: str, password: str) -> str:
    """Return the credentials of a Basic header."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def dumped(value: object) -> str:
    """Return a value as one line of JSON."""
    return json.dumps(value, sort_keys=True)
