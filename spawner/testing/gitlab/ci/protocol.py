"""The runner HTTP protocol, server side (gitlab-runner 19.4).

Promises: any runner that speaks the protocol is served; a job is given to one runner once; a runner of a job that
has ended is told to stop. A trace's `Content-Range` may end inclusively (the official client) or exclusively
(gitlab-python-runner).
Must not know: how jobs come to be.
"""

from __future__ import annotations

import hmac
import re
import zlib
from typing import TYPE_CHECKING, Any

import flask

from spawner.testing.gitlab import faults, web
from spawner.testing.gitlab.ci import lifecycle, payload, traces
from spawner.testing.gitlab.ci.uploads import receive_artifact, send_artifact
from spawner.testing.gitlab.instance import digest, now
from spawner.testing.gitlab.records import FINISHED, Job, Project, Runner, Status
from spawner.testing.gitlab.tokens import mint

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

blueprint = flask.Blueprint("runner_protocol", __name__, url_prefix="/api/v4")

# How long a request for a job is held open when there is none; GitLab's workhorse holds up to 50 s.
_HOLD_SECONDS = 5.0
_TRACE_LIMIT_BYTES = 4 * 1024 * 1024
_RANGE = re.compile(r"^(\d+)-(-?\d+)$")


@blueprint.post("/runners")
def register() -> flask.Response:
    """Register a runner with an existing runner's token, as older clients do."""
    return _verified(201)


@blueprint.post("/runners/verify")
def verify() -> flask.Response:
    """Tell a runner whether its token is good."""
    return _verified(200)


@blueprint.delete("/runners/managers")
def forget_manager() -> flask.Response:
    """Forget one process of a runner."""
    _runner()
    return flask.Response(status=204)


@blueprint.post("/jobs/request")
def request_job() -> flask.Response:
    """Give a runner a job, or tell it that there is none."""
    runner = _runner()
    instance = web.here()
    told = web.text("last_update")
    seen = instance.store.changes
    job = _take(instance, runner)
    if job is None and told is not None:
        instance.store.wait(seen=seen, timeout_seconds=_HOLD_SECONDS)
        seen = instance.store.changes
        job = _take(instance, runner)
    if job is None:
        return flask.Response(status=204, headers={"X-GitLab-Last-Update": str(seen)})
    return web.answer(payload.of(instance, job), 201, {"X-GitLab-Last-Update": str(seen)})


@blueprint.patch("/jobs/<int:job>/trace")
def patch_trace(job: int) -> flask.Response:
    """Take a piece of a job's log."""
    found = _running(job)
    instance = web.here()
    span = _RANGE.match(flask.request.headers.get("Content-Range", ""))
    if span is None:
        web.invalid("Content-Range is missing or is not <start>-<end>")
    size = traces.size_bytes(instance, found)
    start, piece = int(span[1]), flask.request.get_data()
    headers = _job_headers(found)
    if start != size:
        return flask.Response(status=416, headers=headers | {"Range": f"0-{size}"})
    if size + len(piece) > _TRACE_LIMIT_BYTES:
        lifecycle.move(instance, found, Status.FAILED, reason="trace_size_exceeded")
        web.forbidden()
    size = traces.append(instance, found, piece)
    instance.store.change(found, updated_at=now())
    return flask.Response(status=202, headers=headers | {"Range": f"0-{size}"})


@blueprint.put("/jobs/<int:job>")
def report(job: int) -> flask.Response:
    """Take a job's state."""
    found = _running(job)
    instance = web.here()
    state = web.text("state") or ""
    headers = _job_headers(found)
    if state in {"", "pending", "running"}:
        instance.store.change(found, updated_at=now())
        return web.answer("200", 200, headers)
    if not _trace_is_whole(instance, found):
        return flask.Response(status=412, headers=headers)
    if state == "success":
        moved = lifecycle.move(instance, found, Status.SUCCESS)
    elif state == "failed":
        reason = web.text("failure_reason") or "unknown_failure"
        moved = lifecycle.move(instance, found, Status.FAILED, reason=reason, exit_code=web.whole("exit_code"))
    else:
        web.invalid("state does not have a valid value")
    is_canceled = found.status is Status.CANCELING and moved.status is Status.CANCELED
    if moved.status != state and not is_canceled:  # It came to its end since this request began.
        raise _not_running(moved)
    return web.answer("200", 200, headers)


@blueprint.post("/jobs/<int:job>/artifacts/authorize")
def authorize_artifacts(job: int) -> flask.Response:
    """Let a runner upload."""
    _running(job)
    return web.answer({})


@blueprint.post("/jobs/<int:job>/artifacts")
def upload_artifacts(job: int) -> flask.Response:
    """Take a job's artifact or report."""
    return receive_artifact(web.here(), _running(job))


@blueprint.get("/jobs/<int:job>/artifacts")
def download_artifacts(job: int) -> flask.Response:
    """Give a job's archive to a job that depends on it."""
    found = _with_token(job)
    return send_artifact(web.here(), found)


def _verified(status: int) -> flask.Response:
    runner = _runner()
    return web.answer({"id": runner.id, "token": _presented(), "token_expires_at": None}, status)


def _presented() -> str:
    return web.text("token") or flask.request.headers.get("RUNNER-TOKEN") or ""


def _runner() -> Runner:
    wanted = digest(_presented())
    found = web.here().store.first(Runner, lambda row: hmac.compare_digest(row.digest, wanted))
    if found is None:
        web.forbidden()
    return web.here().store.change(found, contacted_at=now()) if _is_stale(found) else found


def _is_stale(runner: Runner) -> bool:
    return runner.contacted_at is None or (now() - runner.contacted_at).total_seconds() > 60  # noqa: PLR2004 - a minute


def _take(instance: Instance, runner: Runner) -> Job | None:
    with instance.store as store:
        present = store.get(Runner, runner.id)
        if present is None or present.paused:
            return None
        for job in store.all(Job, lambda row: row.status is Status.PENDING and not row.external and not row.trigger):
            project = store.get(Project, job.project_id)
            if project is None or not _fits(runner, job) or _is_held(instance, job, project):
                continue
            graceful = _has_feature("cancel_gracefully")
            store.change(job, runner_id=runner.id, token=mint("glcbt-64_"), cancels_gracefully=graceful)
            return lifecycle.move(instance, job, Status.RUNNING)
    return None


def _has_feature(name: str) -> bool:
    info = web.parameters().get("info")
    features = info.get("features") if isinstance(info, dict) else None
    return isinstance(features, dict) and bool(features.get(name))


def _fits(runner: Runner, job: Job) -> bool:
    if runner.project_id not in {None, job.project_id}:
        return False
    return set(job.tags) <= set(runner.tags) if job.tags else runner.run_untagged


def _is_held(instance: Instance, job: Job, project: Project) -> bool:
    """Tell whether a fault keeps runners from seeing a job."""
    if job.held:
        if faults.standing(instance, faults.Kind.JOB_STUCK_PENDING):
            return True
        instance.store.change(job, held=False)
    if faults.strikes(instance, faults.Kind.JOB_STUCK_PENDING, project):
        instance.store.change(job, held=True)
        return True
    return False


def _with_token(identifier: int) -> Job:
    job = web.here().store.get(Job, identifier)
    token = flask.request.headers.get("JOB-TOKEN") or web.text("token") or ""
    if job is None or not job.token or not hmac.compare_digest(job.token, token):
        web.forbidden()
    return job


def _running(identifier: int) -> Job:
    """Return a job that still runs; its runner is told to stop when it does not."""
    job = _with_token(identifier)
    if job.status in FINISHED:
        raise _not_running(job)
    return job


def _not_running(job: Job) -> web.APIError:
    return web.APIError(403, {"message": "403 Forbidden - Job is not running"}, _job_headers(job))


def _job_headers(job: Job) -> dict[str, str]:
    return {"Job-Status": job.status.value, "X-GitLab-Trace-Update-Interval": "3"}


def _trace_is_whole(instance: Instance, job: Job) -> bool:
    body: dict[str, Any] = web.parameters()
    output = body.get("output") or {}
    checksum = str(output.get("checksum") or body.get("checksum") or "")
    if not checksum.startswith("crc32:"):
        return True
    whole = traces.read(instance, job)
    if f"{zlib.crc32(whole):08x}" == checksum.removeprefix("crc32:").zfill(8):
        return True
    # The client resets and sends everything again from the start.
    if len(whole) != int(output.get("bytesize") or -1):
        return True
    traces.reset(instance, job)
    return False
