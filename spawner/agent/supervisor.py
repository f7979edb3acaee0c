"""One session's life, from its folders to its last word.

For: `python -m spawner.agent`; the order of steps, what is reported when, and the end of everything.
Promises: the server serves only when the repository is there, and loads while Git works where its port listens
already; whatever ends first, everything ends; `last.json` is written before anyone is told.
Must not know: HTTP paths of the spawner, Jupyter's options, how a plan comes about.
"""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spawner.agent import checkout, prepare, processes, server
from spawner.agent.children import Child, Children
from spawner.agent.files import read_json, write_json
from spawner.agent.memory import MemoryLimit, container_group
from spawner.agent.output import LAST_WORD, BoundedLog, Log, PrintedLog
from spawner.agent.person import acting_as
from spawner.agent.plan import Plan
from spawner.agent.usage import Usage

if TYPE_CHECKING:
    from spawner.agent.report import Reporter

_GRACE_SECONDS = 10.0  # when the one who stops us did not say
_KILL_SECONDS = 10.0
_LAST_WORD_SECONDS = 2.0
_RETRY_PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
_MEMORY_LOOK_SECONDS = 1.0
_USAGE_LOOK_SECONDS = 10.0


class Supervisor:
    """Runs one plan to its end."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._children = Children()
        self._logs = {name: self._log(name) for name in ("environment", "git-clone", "jupyter-server")}
        group = None if plan.image is None else container_group()
        self._memory = MemoryLimit(plan.workload, plan.memory_bytes, group=group)
        self._usage = Usage(os.getpid())
        self._measure_at: float | None = None
        self._variables: dict[str, str] = {}
        self._server: Child | None = None
        self._go: int | None = None
        self._tries = self._mishaps = 0
        self._checkout_began_at = self._began_at = time.monotonic()
        self._retry_at: float | None = None
        self._kill_at: float | None = None
        self._probe_stop = threading.Event()
        self._is_answered = False
        self._is_ready = False
        self._end: dict[str, Any] | None = None
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)

    @cached_property
    def _reporter(self) -> "Reporter":
        """Who tells the spawner; made when the server starts already, whose start nothing should hold up."""
        from spawner.agent.report import Reporter  # noqa: PLC0415 - HTTP and TLS take 20 ms to import

        return Reporter(
            report_url=self._plan.report_url,
            credential=self._plan.credential,
            common={"workload": self._plan.workload, "generation": self._plan.generation, "port": self._plan.port},
        )

    def _log(self, name: str) -> Log:
        """Return a container's log: a file of the record, or the output that a container's keeper reads."""
        if self._plan.image is not None:
            return PrintedLog(name)
        return BoundedLog(self._plan.record / "logs" / f"{name}.log")

    def run(self) -> int:
        """Prepare, start, watch and end the session; return its exit code."""
        self._say_status("starting")
        if (self._plan.record / "stop.json").exists():  # asked for before there was anyone to signal
            return self._finish({"message": "Stopped.", "exit_code": 0, "is_out_of_memory": False})
        prepare.make_run_folder(self._plan)
        with acting_as(self._plan.person):
            is_put_aside = prepare.prepare(self._plan)
        if is_put_aside:
            self._logs["environment"].say("This image has another Python: what pip had installed was put aside.")
        self._variables = prepare.variables(self._plan)
        if self._plan.image is None:
            self._start_server()
        else:
            from spawner.agent.passage import open_passage  # noqa: PLC0415 - as the reporter

            open_passage(self._plan.image.spawner_port, self._plan.image.spawner_socket)
        self._start_checkout()
        while self._end is None:
            for child in self._children.wait(self._pause_seconds()):
                self._on_end_of(child)
            self._look_at_clock()
        return self._finish(self._end)

    # ------------------------------------------------------------ steps

    def _start_server(self) -> None:
        plan, descriptors, told = self._plan, [], {}
        if plan.listen_descriptor is not None:
            word, self._go = os.pipe()
            descriptors = [plan.listen_descriptor, word]
            told = {"SLIPWAY_AGENT": os.getpid(), "SLIPWAY_LISTEN": plan.listen_descriptor, "SLIPWAY_GO": word}
        self._server = self._children.start(
            "jupyter-server",
            server.command(plan),
            environment={**self._variables, **{name: str(value) for name, value in told.items()}},
            folder=plan.checkout_path,
            person=plan.person,
            log=self._logs["jupyter-server"],
            descriptors=descriptors,
        )
        for descriptor in descriptors:
            os.close(descriptor)  # the port is the server's: it is free when the server is gone
        self._memory.apply(self._server.process.pid)

    def _start_checkout(self) -> None:
        self._tries += 1
        self._retry_at = None
        if self._tries == 1:
            self._step(f"Checking out {self._plan.checkout.sha[:7]} of {self._plan.checkout.branch}")
        self._children.start(
            "git-clone",
            ["/bin/sh", "-c", checkout.SCRIPT],
            environment={**self._variables, **checkout.script_variables(self._plan)},
            folder=self._plan.private,
            person=self._plan.person,
            log=self._logs["git-clone"],
        )

    def _on_checkout_end(self, child: Child, code: int) -> None:
        if code in {0, checkout.ALREADY_THERE}:
            seconds = time.monotonic() - self._checkout_began_at
            is_kept = code == checkout.ALREADY_THERE
            said = "Reopened the folder as it was left" if is_kept else f"Checked out in {seconds:.1f} s"
            self._logs["git-clone"].say(said + ".")
            self._step(said)
            self._start_project()
            return
        is_away = code == checkout.AWAY  # a spawner that restarts: worth the whole budget, and nothing else would help
        self._mishaps += not is_away
        can_retry = code != checkout.REFUSED and self._mishaps <= len(_RETRY_PAUSES_SECONDS)
        pause_seconds = _RETRY_PAUSES_SECONDS[min(self._tries, len(_RETRY_PAUSES_SECONDS)) - 1]
        if can_retry and not self._is_late(in_seconds=pause_seconds):
            self._retry_at = time.monotonic() + pause_seconds
            return
        last = child.last_line.decode("utf-8", errors="replace").strip()
        self._ends(f"Git could not check out {self._plan.checkout.sha[:7]}: {last[:200]}", exit_code=1)

    def _start_project(self) -> None:
        environment = self._plan.environment
        uv, project = (None, None) if environment is None else (environment.uv, environment.project)
        if uv is None or project is None:
            self._serve()
            return
        self._step("Installing the project itself, editable")
        self._children.start(
            "environment",
            [
                uv,
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                "--offline",
                "--editable",
                f"./{project}",
            ],
            environment=self._variables,
            folder=self._plan.checkout_path,
            person=self._plan.person,
            log=self._logs["environment"],
        )

    def _serve(self) -> None:
        self._step("Starting JupyterLab")
        if self._server is None:
            self._start_server()
        if self._go is not None:
            with suppress(BrokenPipeError):
                os.write(self._go, b"g")
            os.close(self._go)
            self._go = None
        threading.Thread(target=self._probe, name="probe", daemon=True).start()

    def _probe(self) -> None:
        from spawner.agent import probe  # noqa: PLC0415 - as the reporter

        def answered() -> None:
            self._is_answered = True
            self._children.wake()

        plan = self._plan
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(plan.listen_host, plan.listen_host)  # noqa: S104 - compared
        probe.until_answered(
            connect_host=host, port=plan.port, public_host=plan.public_host, stop=self._probe_stop, then=answered
        )

    # ------------------------------------------------------------ what happens

    def _on_end_of(self, child: Child) -> None:
        code = child.process.returncode
        if child is self._server:
            self._on_server_end(child, code)
        elif self._kill_at is not None:
            return
        elif child.name == "git-clone":
            self._on_checkout_end(child, code)
        elif child.name == "environment":
            if code != 0:
                self._logs["environment"].say("The project itself could not be installed; its folder is still there.")
                self._step("The project itself could not be installed; see the log of the environment")
            self._serve()

    def _on_server_end(self, child: Child, code: int) -> None:
        if self._kill_at is not None:
            self._ends("Stopped.", exit_code=0)
        elif code < 0 and self._memory.was_exceeded():
            self._ends("The session needed more memory than it may have.", exit_code=128 - code, is_out_of_memory=True)
        elif self._is_ready:
            how = f"by signal {-code}" if code < 0 else f"with code {code}"
            self._ends(f"JupyterLab ended {how}.", exit_code=code if code >= 0 else 128 - code)
        else:
            last = child.last_line.decode("utf-8", errors="replace").strip()
            why = f", by signal {-code}." if code < 0 else f": {last[:200]}" if last else f", with code {code}."
            self._ends(f"JupyterLab ended before it was ready{why}", exit_code=code if code >= 0 else 128 - code)

    def _on_stop(self, _number: int, _frame: object) -> None:
        if self._kill_at is None:
            wish = read_json(self._plan.record / "stop.json") or {}
            self._kill_at = time.monotonic() + float(wish.get("grace_seconds", _GRACE_SECONDS))
            self._probe_stop.set()
            if self._server is None or not self._is_ready:
                self._kill_at = time.monotonic()
            else:
                self._server.process.terminate()

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        if self._end is not None:
            return
        if self._is_answered and not self._is_ready and self._kill_at is None:
            self._is_ready = True
            self._measure_at = now
            self._say_status("ready")
            self._reporter.tell("ready", f"Answered after {now - self._began_at:.2f} s")
        if self._kill_at is not None:
            if now >= self._kill_at:
                self._ends("Stopped.", exit_code=0)
        elif self._retry_at is not None and now >= self._retry_at:
            self._start_checkout()
        elif not self._is_ready and self._is_late():
            self._ends("The session was not ready in time.", exit_code=1)
        elif self._memory.must_be_watched and self._memory.look():
            message = "The session needed more memory than it may have."
            self._ends(message, exit_code=128 + signal.SIGKILL, is_out_of_memory=True)
        elif self._measure_at is not None and now >= self._measure_at:
            self._measure_at = now + _USAGE_LOOK_SECONDS
            self._say_status("ready", usage=self._usage.look())

    def _pause_seconds(self) -> float | None:
        measure_at = self._measure_at if self._kill_at is None else None
        ends = [end for end in (self._kill_at, self._retry_at, measure_at) if end is not None]
        if not self._is_ready:
            ends.append(self._began_at + self._plan.start_budget_seconds)
        if self._memory.must_be_watched:
            ends.append(time.monotonic() + _MEMORY_LOOK_SECONDS)
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _is_late(self, *, in_seconds: float = 0.0) -> bool:
        return time.monotonic() + in_seconds > self._began_at + self._plan.start_budget_seconds

    # ------------------------------------------------------------ words

    def _step(self, message: str) -> None:
        self._say_status("starting", message)
        self._reporter.tell("step", message)

    def _say_status(self, health: str, message: str = "", *, usage: Mapping[str, float] | None = None) -> None:
        status = {"health": health, "message": message, "port": self._plan.port, **(usage or {})}
        write_json(self._plan.record / "status.json", status)

    def _ends(self, message: str, *, exit_code: int, is_out_of_memory: bool = False) -> None:
        if self._end is None:
            self._end = {"message": message, "exit_code": exit_code, "is_out_of_memory": is_out_of_memory}

    def _finish(self, end: dict[str, Any]) -> int:
        self._probe_stop.set()
        is_clean = processes.end_all(os.getpid(), within_seconds=_KILL_SECONDS)
        self._children.wait(0)
        self._memory.close()
        with acting_as(self._plan.person):
            prepare.forget_secrets(self._plan)
        shutil.rmtree(self._plan.run, ignore_errors=True)
        self._logs["jupyter-server"].say(end["message"])
        if self._plan.image is not None:
            self._log(LAST_WORD).say(json.dumps(end))
        write_json(self._plan.record / "last.json", {**end, "is_clean": is_clean, "ended_at_seconds": time.time()})
        self._reporter.tell(
            "exited", end["message"], exit_code=end["exit_code"], is_out_of_memory=end["is_out_of_memory"]
        )
        self._reporter.close(within_seconds=_LAST_WORD_SECONDS)
        if self._plan.image is not None:  # nobody outside reads it, and the workspace is kept
            shutil.rmtree(self._plan.record, ignore_errors=True)
        return int(end["exit_code"])


def write_identity(record: Path) -> None:
    """Say which process this is, for a spawner that looks for it later."""
    own = processes.identity(os.getpid())
    if own is not None:
        write_json(record / "process.json", asdict(own))
