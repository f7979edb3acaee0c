"""Sends a job's log while it runs, keeps the job alive when it is silent, hears of a cancel, and reports the end.

Promises: the log arrives in order and whole, resent from where the server says (416) or from the start (412);
`canceling` is set when the job should end after its after_script, `gone` when it is no longer ours and nothing
more may be sent.
Must not know: how jobs are run.
"""

import logging
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus

from spawner.testing.gitlab.runner.coordinator import Coordinator, CoordinatorError, JobAnswer
from spawner.testing.gitlab.runner.job import RunnerJob
from spawner.testing.gitlab.runner.trace import Trace

_LARGEST_PIECE_BYTES = 1 << 20
_FINAL_PAUSE_SECONDS = 0.5
# How long the end of a job is offered to a server that does not answer, or has not stored the log yet.
_FINAL_SECONDS = 300.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended: its state for the protocol, and for a failure why and with which exit code."""

    state: str
    failure_reason: str = ""
    exit_code: int | None = None


class Reporter:
    """The line between one running job and the server."""

    def __init__(
        self,
        coordinator: Coordinator,
        job: RunnerJob,
        trace: Trace,
        *,
        trace_seconds: float,
        keep_alive_seconds: float,
    ) -> None:
        self.canceling = threading.Event()
        self.gone = threading.Event()
        self._coordinator, self._job, self._trace = coordinator, job, trace
        self._trace_seconds, self._keep_alive_seconds = trace_seconds, keep_alive_seconds
        self._sent_bytes = 0
        self._heard_at = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._pump, name=f"trace-{job.id}", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def finish(self, outcome: Outcome) -> None:
        """Send the rest of the log and the job's end; without effect on a job that is gone.

        Raises:
            CoordinatorError: the server did not take the end of the job.
        """
        self._ended.set()
        self._thread.join()
        self._trace.finish()
        deadline = time.monotonic() + _FINAL_SECONDS
        while not self._is_taken(outcome, is_last_try=time.monotonic() > deadline):
            if self._coordinator.stopping.wait(_FINAL_PAUSE_SECONDS):
                deadline = 0.0

    def _is_taken(self, outcome: Outcome, *, is_last_try: bool) -> bool:
        try:
            self._send()
            if self.gone.is_set():
                return True
            answer = self._report(outcome)
        except CoordinatorError:
            if is_last_try:
                raise
            return False
        if answer.status_code == HTTPStatus.PRECONDITION_FAILED:
            self._sent_bytes = 0
        elif answer.status_code == HTTPStatus.OK or answer.is_gone:
            return True
        if is_last_try or answer.status_code not in {HTTPStatus.PRECONDITION_FAILED, HTTPStatus.ACCEPTED}:
            raise CoordinatorError(f"The server took neither the log nor the end of job {self._job.id}.")
        return False

    def _report(self, outcome: Outcome) -> JobAnswer:
        size, checksum = self._trace.size_and_checksum()
        told: dict[str, object] = {"checksum": checksum, "output": {"checksum": checksum, "bytesize": size}}
        if outcome.failure_reason:
            known = self._job.failure_reasons
            fits = not known or outcome.failure_reason in known
            told["failure_reason"] = outcome.failure_reason if fits else "unknown_failure"
        if outcome.exit_code is not None:
            told["exit_code"] = outcome.exit_code
        return self._coordinator.update_job(self._job.id, self._job.token, state=outcome.state, **told)

    def _pump(self) -> None:
        while not self._ended.wait(self._trace_seconds) and not self.gone.is_set():
            try:
                self._send()
                if time.monotonic() - self._heard_at >= self._keep_alive_seconds:
                    self._heed(self._coordinator.update_job(self._job.id, self._job.token, state="running"))
            except CoordinatorError as exc:
                _log.warning("Job %s runs on, although its log cannot be sent: %s", self._job.id, exc)
        self._coordinator.close()

    def _send(self) -> None:
        while not self.gone.is_set():
            piece = self._trace.after(self._sent_bytes, most_bytes=_LARGEST_PIECE_BYTES)
            if not piece:
                return
            answer = self._coordinator.patch_trace(self._job.id, self._job.token, start=self._sent_bytes, piece=piece)
            self._heed(answer)
            if answer.status_code == HTTPStatus.ACCEPTED:
                self._sent_bytes += len(piece)
            elif answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and answer.received_bytes is not None:
                self._sent_bytes = answer.received_bytes
            elif not answer.is_gone:
                raise CoordinatorError(f"The server refused a piece of the log with {answer.status_code}.")

    def _heed(self, answer: JobAnswer) -> None:
        self._heard_at = time.monotonic()
        if answer.is_gone:
            self.gone.set()
        elif answer.job_status == "canceling":
            self.canceling.set()
