"""Artifacts: what runners upload and what jobs and people download.

Promises: an archive is kept as it came; a dotenv report is read and its variables reach the jobs that depend on it;
one that breaks GitLab's rules is refused with 400. A `trace` artifact is never uploaded.
Must not know: who may download.
"""

from __future__ import annotations

import gzip
import re
import zipfile
from datetime import timedelta
from typing import TYPE_CHECKING

import flask

from spawner.testing.gitlab import web
from spawner.testing.gitlab.expand import duration_seconds
from spawner.testing.gitlab.expand.model import ConfigurationError
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Artifact, Job

if TYPE_CHECKING:
    from datetime import datetime

    from spawner.testing.gitlab.instance import Instance

# https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv (18.x)
_DOTENV_LIMIT_BYTES = 5 * 1024
_DOTENV_LINE = re.compile(r"^\s*([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)$")


def receive_artifact(instance: Instance, job: Job) -> flask.Response:
    """Keep one uploaded file."""
    upload = flask.request.files.get("file")
    if upload is None:
        web.invalid("file is missing")
    kind = web.text("artifact_type") or "archive"
    content = upload.read()
    dotenv = _dotenv(content) if kind == "dotenv" else job.dotenv
    filename = (upload.filename or "artifacts.zip").rsplit("/", 1)[-1]
    path = instance.data / "artifacts" / str(job.id) / f"{kind}.bin"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    row = Artifact(
        file_type=kind,
        file_format=web.text("artifact_format"),
        filename=filename,
        size_bytes=len(content),
        path=str(path.relative_to(instance.data)),
    )
    with instance.store as store:
        present = store.get(Job, job.id) or job
        others = tuple(found for found in present.artifacts if found.file_type != kind)
        expiry = _expiry(web.text("expire_in"))
        store.change(present, artifacts=(*others, row), dotenv=dotenv, artifacts_expire_at=expiry)
    return web.answer("201", 201)


def send_artifact(instance: Instance, job: Job, inner: str | None = None) -> flask.Response:
    """Answer a job's archive, or one file of it."""
    found = next((row for row in job.artifacts if row.file_type == "archive"), None)
    if found is None or (job.artifacts_expire_at and job.artifacts_expire_at <= now()):
        web.not_found()
    path = instance.data / found.path
    if inner is None:
        return flask.send_file(path, mimetype="application/zip", as_attachment=True, download_name=found.filename)
    with zipfile.ZipFile(path) as archive:
        if inner not in archive.namelist():
            web.not_found()
        return flask.Response(archive.read(inner), mimetype="application/octet-stream")


def _expiry(text: str | None) -> datetime | None:
    if not text or text == "never":
        return None
    try:
        return now() + timedelta(seconds=duration_seconds(text))
    except ConfigurationError as exc:
        raise web.APIError(400, {"message": str(exc)}) from exc


def _dotenv(content: bytes) -> tuple[tuple[str, str], ...]:
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    if len(plain) > _DOTENV_LIMIT_BYTES:
        web.bad_request("Dotenv Artifact Too Big. Maximum Allowable Size: 5120")
    rows: list[tuple[str, str]] = []
    for line in plain.decode(errors="replace").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _DOTENV_LINE.match(line)
        if found is None:
            web.bad_request("Invalid Format")
        rows.append((found[1], found[2].strip()))
    return tuple(rows)


def drop_artifacts(instance: Instance, job: Job) -> None:
    """Remove a job's files; removing them twice is no error."""
    for row in job.artifacts:
        (instance.data / row.path).unlink(missing_ok=True)
