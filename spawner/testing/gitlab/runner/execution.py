"""Runs one job from its first to its last line.

The stages and their sections are those of the official runner: prepare, sources, artifacts of earlier jobs, script,
after_script, upload, clean-up.

Promises: the job's end is reported once, whatever happens; its folder is removed and none of its processes is
left first.
Must not know: how jobs are asked for.
"""

import logging
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spawner.testing.gitlab.runner import artifacts, checkout
from spawner.testing.gitlab.runner.coordinator import VERSION, Coordinator, CoordinatorError
from spawner.testing.gitlab.runner.job import ArtifactRule, RunnerJob, Step
from spawner.testing.gitlab.runner.reporting import Outcome, Reporter
from spawner.testing.gitlab.runner.shell import Halt, HaltedError, run_caged, script_of
from spawner.testing.gitlab.runner.trace import Trace
from spawner.testing.gitlab.runner.workplace import (
    Workplace,
    job_environment,
    job_values,
    made_workplace,
)

# What gitlab-runner gives an after_script (RUNNER_AFTER_SCRIPT_TIMEOUT).
_AFTER_SCRIPT_SECONDS = 300
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all jobs of this runner share."""

    builds: Path
    passed_on: Mapping[str, str]
    trace_seconds: float = 0.3
    keep_alive_seconds: float = 2.0


class _StageError(Exception):
    """A stage of the runner's own failed; the message is for the log."""


def run_job(job: RunnerJob, *, coordinator: Coordinator, settings: Settings, stopping: threading.Event) -> None:
    """Run a job and report its end; `stopping` ends it early as a failure of the runner.

    Raises:
        CoordinatorError: the server did not take the end of the job.
    """
    trace = Trace(secrets=job.secrets(), prefixes=job.mask_prefixes, has_sections=job.has_sections)
    reporter = Reporter(
        coordinator, job, trace,
        trace_seconds=settings.trace_seconds, keep_alive_seconds=settings.keep_alive_seconds,
    )  # fmt: skip
    reporter.start()
    outcome = Outcome(state="failed", failure_reason="runner_system_failure")
    try:
        place = made_workplace(settings.builds, job)
        run = _Run(
            job=job, place=place, trace=trace, reporter=reporter, coordinator=coordinator, settings=settings,
            stopping=stopping, values=job_values(job, place), deadline=time.monotonic() + job.timeout_seconds,
        )  # fmt: skip
        try:
            outcome = run.outcome()
        finally:
            place.remove()
        _write_last_line(trace, outcome, job)
    except OSError as exc:
        _log.exception("Job %s broke", job.id)
        trace.write(f"\n\x1b[31;1mERROR: Job failed (system failure): {exc}\x1b[0;m\n")
    finally:
        try:
            reporter.finish(outcome)
        finally:
            coordinator.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    job: RunnerJob
    place: Workplace
    trace: Trace
    reporter: Reporter
    coordinator: Coordinator
    settings: Settings
    stopping: threading.Event
    values: Mapping[str, str]
    deadline: float

    def outcome(self) -> Outcome:
        """Run every stage and say how it ended."""
        try:
            self._prepare()
            self._get_sources()
            self._download()
            outcome = self._main_steps()
            self._after_scripts("success" if outcome.state == "success" else "failed")
        except HaltedError as exc:
            return self._halted(exc.halt)
        except (_StageError, CoordinatorError) as exc:
            self.trace.write(f"\x1b[31;1mERROR: {exc}\x1b[0;m\n")
            return Outcome(state="failed", failure_reason="runner_system_failure")
        try:
            self._upload(is_success=outcome.state == "success")
        except HaltedError as exc:
            return self._halted(exc.halt)
        except (CoordinatorError, OSError, subprocess.SubprocessError) as exc:
            self.trace.write(f"\x1b[31;1mERROR: Uploading artifacts failed: {exc}\x1b[0;m\n")
            return Outcome(state="failed", failure_reason="script_failure", exit_code=outcome.exit_code or 1)
        return outcome

    def _prepare(self) -> None:
        self.trace.write(f"Running with slipway-shell-runner {VERSION}\n")
        with self.trace.section("prepare_executor", 'Preparing the "shell" executor'):
            self.trace.write("Using Shell (bash) executor...\n")
            for name in (self.job.image, *self.job.services):
                if name:
                    self.trace.write(f"\x1b[33;1mThe shell executor does not use {name}.\x1b[0;m\n")
        with self.trace.section("prepare_script", "Preparing environment"):
            self.trace.write(f"Running on {socket.gethostname()}...\n")

    def _get_sources(self) -> None:
        with self.trace.section("get_sources", "Getting source from Git repository"):
            if self.values.get("GIT_STRATEGY") in {"none", "empty"}:
                self.trace.write("Skipping Git repository setup\n")
                return
            depth = self.values.get("GIT_DEPTH", "")
            script = self.place.private / "get_sources.sh"
            script.write_text(
                checkout.fetch_script(
                    self.job.source,
                    self.place.project,
                    depth=int(depth) if depth.isdecimal() else self.job.source.depth,
                )
            )
            environment = checkout.git_environment(
                self.place.private, self.job.source, self.job.token, surroundings=self.settings.passed_on
            )
            code = self._caged(["sh", str(script)], environment, self._stop_reason)
            if code != 0:
                raise _StageError(f"Getting the source failed: git ended with {code}.")
            (self.place.private / "git.config").unlink()
            self.trace.write(
                f"Checking out {self.job.source.sha[:8]} as detached HEAD (ref is {self.job.source.ref})...\n"
            )

    def _download(self) -> None:
        if not self.job.dependencies:
            return
        with self.trace.section("download_artifacts", "Downloading artifacts"):
            for dependency in self.job.dependencies:
                archive = self.place.private / f"{dependency.id}.zip"
                self.trace.write(f"Downloading artifacts for {dependency.name} ({dependency.id})...\n")
                if not self.coordinator.download_artifact(dependency.id, dependency.token, archive):
                    raise _StageError(f"The artifacts of {dependency.name} ({dependency.id}) are not there any more.")
                try:
                    artifacts.unpack(archive, self.place.project)
                except zipfile.BadZipFile as exc:
                    raise _StageError(f"The artifacts of {dependency.name} cannot be unpacked: {exc}.") from exc
                archive.unlink()

    def _main_steps(self) -> Outcome:
        outcome = Outcome(state="success", exit_code=0)
        for step in self.job.steps:
            if step.name == "after_script" or (outcome.state != "success" and step.when == "on_success"):
                continue
            with self.trace.section("step_script", f'Executing "step_{step.name}" stage of the job script'):
                code = self._step(step, status="running", halted=self._stop_reason)
            if code != 0 and not step.allow_failure and outcome.state == "success":
                outcome = Outcome(state="failed", failure_reason="script_failure", exit_code=code)
        return outcome

    def _after_scripts(self, status: str) -> None:
        until = min(time.monotonic() + _AFTER_SCRIPT_SECONDS, self.deadline)
        for step in self.job.steps:
            if step.name != "after_script" or not step.script:
                continue
            with self.trace.section("after_script", "Running after_script"):
                code = self._step(step, status=status, halted=lambda: self._after_script_stop_reason(until))
                if code != 0:
                    self.trace.write(
                        f"\x1b[33;1mWARNING: after_script failed, but job will continue: exit code {code}\x1b[0;m\n"
                    )

    def _step(self, step: Step, *, status: str, halted: Callable[[], Halt | None]) -> int:
        script = self.place.private / f"{step.name}.sh"
        script.write_text(script_of(step.script, folder=self.place.project))
        environment = job_environment({**self.values, "CI_JOB_STATUS": status}, passed_on=self.settings.passed_on)
        code = self._caged(["bash", "--noprofile", "--norc", str(script)], environment, halted)
        self.trace.finish()
        return code

    def _upload(self, *, is_success: bool) -> None:
        wanted = [
            rule for rule in self.job.artifacts if rule.when in {"always", "on_success" if is_success else "on_failure"}
        ]
        if not wanted:
            return
        ending, kind = ("on_success", "successful") if is_success else ("on_failure", "failed")
        with self.trace.section(f"upload_artifacts_{ending}", f"Uploading artifacts for {kind} job"):
            for rule in wanted:
                if (halt := self._after_script_stop_reason(self.deadline)) is not None:
                    raise HaltedError(halt)
                self._upload_one(rule)

    def _upload_one(self, rule: ArtifactRule) -> None:
        self.trace.write(f"Uploading {rule.type}...\n")
        names, missing = artifacts.matching_files(rule, self.place.project, values=self.values)
        for pattern in missing:
            self.trace.write(
                f"\x1b[0;33mWARNING: {pattern}: no matching files. Ensure that the artifact path is relative to the "
                "working directory\x1b[0;m\n"
            )
        if not names:
            self.trace.write("\x1b[31;1mERROR: No files to upload\x1b[0;m\n")
            return
        self.trace.write(f"Found {len(names)} matching artifact files\n")
        packed = self.place.private / f"upload-{rule.type}"
        label = artifacts.pack(rule, self.place.project, names, target=packed)
        query = {"artifact_format": rule.format, "artifact_type": rule.type, "expire_in": rule.expire_in}
        self.coordinator.upload_artifact(
            self.job.id, self.job.token, packed, name=label, query={key: value for key, value in query.items() if value}
        )
        packed.unlink()

    def _halted(self, halt: Halt) -> Outcome:
        match halt:
            case Halt.CANCELING:
                try:
                    self._after_scripts("canceled")
                except HaltedError as exc:
                    return self._halted(exc.halt)
                return Outcome(state="failed", failure_reason="job_canceled")
            case Halt.TIMEOUT:
                return Outcome(state="failed", failure_reason="job_execution_timeout")
            case Halt.STOPPING:
                return Outcome(state="failed", failure_reason="runner_system_failure")
            case Halt.GONE:
                return Outcome(state="failed", failure_reason="unknown_failure")

    def _stop_reason(self) -> Halt | None:
        if self.reporter.canceling.is_set():
            return Halt.CANCELING
        return self._after_script_stop_reason(self.deadline)

    def _after_script_stop_reason(self, until: float) -> Halt | None:
        if self.reporter.gone.is_set():
            return Halt.GONE
        if self.stopping.is_set():
            return Halt.STOPPING
        return Halt.TIMEOUT if time.monotonic() > until else None

    def _caged(self, command: list[str], environment: Mapping[str, str], halted: Callable[[], Halt | None]) -> int:
        return run_caged(command, folder=self.place.project, environment=environment, trace=self.trace, halted=halted)


def _write_last_line(trace: Trace, outcome: Outcome, job: RunnerJob) -> None:
    match outcome:
        case Outcome(state="success"):
            trace.write("\x1b[32;1mJob succeeded\x1b[0;m\n")
            return
        case Outcome(failure_reason="job_execution_timeout"):
            why = f"Job failed: execution took longer than {job.timeout_seconds}s seconds"
        case Outcome(failure_reason="job_canceled"):
            why = "Job failed: canceled"
        case Outcome(failure_reason="script_failure"):
            why = f"Job failed: exit code {outcome.exit_code}"
        case _:
            why = "Job failed (system failure): the runner could not finish the job"
    trace.write(f"\x1b[31;1mERROR: {why}\x1b[0;m\n")
