"""A GitLab as far as includes need one: a project's repository over HTTP, and one plain file."""

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.serving import make_server

from tests.unit.testing.expand.conftest import make_bare

PASSWORD = "let-me-in"


@contextmanager
def served(folder: Path, files: Mapping[str, str], *, remote: str, tag: str) -> Iterator[str]:
    """Serve `grp/templates`, tagged, for whoever has the password, and `/remote.yml` for all; yield the address."""
    made = make_bare(folder / "made", (files,))
    (folder / "grp").mkdir()
    made.bare.rename(folder / "grp" / "templates.git")
    subprocess.run(["git", "-C", str(folder / "grp/templates.git"), "tag", tag], check=True, timeout=20)
    app = Flask(__name__)
    app.add_url_rule("/remote.yml", "remote", lambda: remote)
    app.add_url_rule("/grp/<path:rest>", "git", lambda rest: _backend(folder, rest), methods=["GET", "POST"])
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def git_config(folder: Path, url: str) -> Path:
    """Write the Git configuration that shows the password."""
    config = folder / "git.config"
    config.write_text(f'[http "{url}"]\n\textraHeader = Authorization: Basic dTpsZXQtbWUtaW4=\n')
    return config


def _backend(folder: Path, rest: str) -> Response:
    if request.authorization is None or request.authorization.password != PASSWORD:
        return Response(status=401, headers={"WWW-Authenticate": "Basic"})
    environment = {
        "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(folder), "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/grp/{rest}", "QUERY_STRING": request.query_string.decode(), "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": request.content_type or "", "HTTP_GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""), "REMOTE_USER": "ci",
    }  # fmt: skip
    ended = subprocess.run(
        ["git", "http-backend"], input=request.get_data(), env=environment, capture_output=True, timeout=20, check=True
    )
    head, _, body = ended.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    return Response(body, status=int(headers.pop("Status", "200").split()[0]), headers=headers)
