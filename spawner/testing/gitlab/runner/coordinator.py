"""The runner's side of the Runner HTTP protocol.

Promises: every call has a timeout; 408, 429 and 5xx and broken connections are tried again five times, from 0.1
s on, as `Retry-After` and `RateLimit-ResetTime` ask; the token goes into a header and the body, never into an
address.
Must not know: how jobs are run.
Source: gitlab-runner 19.4, `network/gitlab.go`, `network/retry_requester.go`.
"""

import email.utils
import platform
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests

VERSION = "19.4.0"
_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 60.0
# A request for a job may be held open by the server for 50 s.
_REQUEST_SECONDS = 70
_CALL_SECONDS = 30
_TRANSFER_SECONDS = 300
_PIECE_BYTES = 1 << 16
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"0-(\d+)")


class CoordinatorError(RuntimeError):
    """The server did not answer as the protocol says; the message says to which call."""


class RefusedError(CoordinatorError):
    """The server refuses the runner's token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What asking for a job brought: the job, or nothing yet, and the mark to send with the next question."""

    job: Mapping[str, Any] | None
    last_update: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAnswer:
    """What the server says to a trace or an update: its HTTP status, the job's status, and how much log it has."""

    status_code: int
    job_status: str
    received_bytes: int | None

    @property
    def is_gone(self) -> bool:
        """Say whether the job is no longer ours to run."""
        return self.status_code in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND} or self.job_status in {
            "canceled",
            "failed",
            "success",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """One GitLab, seen by one runner. Every thread has a connection of its own.

    While `stopping` is set, no try waits for the next one.
    """

    url: str
    token: str
    system_id: str
    stopping: threading.Event = field(default_factory=threading.Event)
    _local: threading.local = field(default_factory=threading.local)

    def verify(self) -> None:
        """Ask whether the runner's token is good.

        Raises:
            RefusedError: it is not.
            CoordinatorError: the server does not answer.
        """
        body = {"token": self.token, "system_id": self.system_id, "info": _info()}
        answer = self._call("POST", "runners/verify", json=body, headers={"RUNNER-TOKEN": self.token})
        if answer.status_code != HTTPStatus.OK:
            raise _refusal(answer, "verify this runner")

    def request_job(self, *, last_update: str) -> JobRequest:
        """Ask for a job; the server may hold the question open for a while.

        Raises:
            RefusedError: the runner's token is no longer good.
            CoordinatorError: the server does not answer as expected.
        """
        body = {"info": _info(), "token": self.token, "system_id": self.system_id, "last_update": last_update}
        answer = self._call(
            "POST", "jobs/request", json=body, headers={"RUNNER-TOKEN": self.token}, timeout_seconds=_REQUEST_SECONDS
        )
        mark = answer.headers.get("X-GitLab-Last-Update", last_update)
        match answer.status_code:
            case HTTPStatus.CREATED:
                return JobRequest(job=answer.json(), last_update=mark)
            case HTTPStatus.NO_CONTENT | HTTPStatus.CONFLICT:
                return JobRequest(job=None, last_update=mark)
            case _:
                raise _refusal(answer, "give this runner a job")

    def patch_trace(self, job_id: int, token: str, *, start: int, piece: bytes) -> JobAnswer:
        """Send a piece of a job's log that begins at byte `start`.

        Raises:
            CoordinatorError: the server does not answer.
        """
        headers = {
            "JOB-TOKEN": token,
            "Content-Type": "text/plain",
            "Content-Range": f"{start}-{start + len(piece) - 1}",
        }
        path = f"jobs/{job_id}/trace?debug_trace=false"
        return _job_answer(self._call("PATCH", path, data=piece, headers=headers))

    def update_job(self, job_id: int, token: str, *, state: str, **told: object) -> JobAnswer:
        """Tell the state of a job: `running` to keep it alive, `success` or `failed` at its end.

        Raises:
            CoordinatorError: the server does not answer.
        """
        body = {"token": token, "state": state, "info": _info(), **told}
        return _job_answer(self._call("PUT", f"jobs/{job_id}", json=body, headers={"JOB-TOKEN": token}))

    def upload_artifact(self, job_id: int, token: str, path: Path, *, query: Mapping[str, str], name: str) -> None:
        """Upload a file as a multipart form without a length, as the official runner does.

        Raises:
            CoordinatorError: the server did not take it.
        """
        boundary = uuid.uuid4().hex
        headers = {"JOB-TOKEN": token, "Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = self._call(
            "POST", f"jobs/{job_id}/artifacts", params=dict(query), headers=headers,
            body=lambda: _multipart(path, boundary=boundary, name=name), timeout_seconds=_TRANSFER_SECONDS,
        )  # fmt: skip
        if answer.status_code != HTTPStatus.CREATED:
            raise _refusal(answer, "take the artifact")

    def download_artifact(self, job_id: int, token: str, target: Path) -> bool:
        """Write an earlier job's archive to `target`; say whether there was one.

        Raises:
            CoordinatorError: the server did not answer as expected.
        """
        answer = self._call(
            "GET", f"jobs/{job_id}/artifacts", headers={"JOB-TOKEN": token}, timeout_seconds=_TRANSFER_SECONDS
        )
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return False
        if answer.status_code != HTTPStatus.OK:
            raise _refusal(answer, "give an earlier job's artifacts")
        target.write_bytes(answer.content)
        return True

    def _call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout_seconds: float = _CALL_SECONDS,
        body: Callable[[], Iterable[bytes]] | None = None,
        **parts: Any,
    ) -> requests.Response:
        sent = {"User-Agent": f"gitlab-runner {VERSION} (slipway shell runner)", "X-Request-Id": uuid.uuid4().hex}
        pause_seconds = _FIRST_PAUSE_SECONDS
        for attempt in range(1, _TRIES + 1):
            try:
                answer = self._session().request(
                    method, f"{self.url}/api/v4/{path}", headers={**sent, **headers}, timeout=timeout_seconds,
                    **(parts if body is None else {**parts, "data": body()}),
                )  # fmt: skip
            except requests.RequestException as exc:
                if attempt == _TRIES:
                    call = f"{method} {path.partition('?')[0]}"
                    raise CoordinatorError(f"{self.url} does not answer {call}: {_cause(exc)}.") from exc
            else:
                if answer.status_code not in _AGAIN or attempt == _TRIES:
                    return answer
                pause_seconds = max(pause_seconds, _asked_pause_seconds(answer))
            self.stopping.wait(min(pause_seconds, _LONGEST_PAUSE_SECONDS))
            pause_seconds *= 2
        raise AssertionError("unreachable: the last try returns or raises")

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False
        return session

    def close(self) -> None:
        """Close this thread's connection."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is not None:
            session.close()
            del self._local.session


def _info() -> dict[str, object]:
    return {
        "name": "slipway-shell-runner",
        "version": VERSION,
        "revision": "slipway",
        "platform": platform.system().lower(),
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "executor": "shell",
        "shell": "bash",
        "features": {
            "variables": True, "artifacts": True, "upload_multiple_artifacts": True, "upload_raw_artifacts":
            True, "artifacts_exclude": True, "raw_variables": True, "masking": True, "refspecs": True,
            "return_exit_code": True, "trace_reset": True, "trace_checksum": True, "trace_size": True,
            "cancelable": True, "cancel_gracefully": True, "multi_build_steps": True, "terminal": False,
            "services": False, "image": False,
        },
        "config": {"gpus": ""},
    }  # fmt: skip


def _job_answer(answer: requests.Response) -> JobAnswer:
    found = _RANGE.fullmatch(answer.headers.get("Range", ""))
    return JobAnswer(
        status_code=answer.status_code,
        job_status=answer.headers.get("Job-Status", ""),
        received_bytes=int(found[1]) if found else None,
    )


def _refusal(answer: requests.Response, wish: str) -> CoordinatorError:
    text = f"{answer.url.split('?')[0]} would not {wish}: {answer.status_code} {answer.text[:256]}"
    return RefusedError(text) if answer.status_code == HTTPStatus.FORBIDDEN else CoordinatorError(text)


def _cause(exc: BaseException) -> str:
    """Return the innermost reason of a broken call, without the layers that only repeat it."""
    while (inner := exc.__cause__ or exc.__context__) is not None:
        exc = inner
    return str(exc)[:256] or type(exc).__name__


def _asked_pause_seconds(answer: requests.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    try:
        until = email.utils.parsedate_to_datetime(answer.headers.get("RateLimit-ResetTime", ""))
    except ValueError:
        return 0.0
    return max((until - datetime.now(tz=UTC)).total_seconds(), 0.0)


def _multipart(path: Path, *, boundary: str, name: str) -> Iterable[bytes]:
    disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    yield f"--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
    yield f"\r\n--{boundary}--\r\n".encode()
