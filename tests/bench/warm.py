"""The bench `warm`: from a launch to a session that answers, its environment installed already.

For: `scripts/bench warm`. Promises: everything is real (stand-in, CI, registry, gunicorn, agent, JupyterLab); the clock
ends at the first 2xx that a client of ours gets from the session's own port; by hand means the very command and files
of a session, started in its environment after the checkout of the same commit, and beside it a plain `jupyter lab`.
Must not know: how the spawner starts a session; it looks at a running one to do the same by hand.
"""

import base64
import http.client
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spawner.agent import checkout
from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.bench import stage
from tests.bench.ci import PIPELINE
from tests.bench.figures import Report, Row
from tests.installation import Client, wait_for

NAME = "warm"
JOB = "from POST to the session's first answer, environment installed"
WITHIN = 1.15
PROBE_SECONDS = 0.005
START_SECONDS = 60.0
BUILD_SECONDS = 300.0
REQUIREMENTS = "humanize==4.12.3\n"


def measure(place: Path, runs: int) -> Report:
    """Measure a launch, a launch on a reused environment, and both ways by hand, in turn."""
    taken: dict[str, list[float]] = {"exact": [], "environment": [], "command": [], "plain": []}
    steps: dict[str, list[float]] = {}
    with StandIn.start(data=place / "gitlab") as stand_in, stage.installed(place, stand_in) as installation:
        alice = stand_in.add_user("alice")
        project = stand_in.add_project("alice/weather", owner=alice)
        bench = _Bench(place, stand_in, project, installation.client(alice))
        bench.prepare()
        for number in range(-1, runs):  # the first round fills caches and is not counted
            sha = bench.commit(is_built=True)
            round_ = {
                "exact": bench.launched(sha, source="exact", steps=steps if number >= 0 else {}),
                "command": bench.by_hand(sha),
                "plain": bench.plain(sha),
                "environment": bench.launched(bench.commit(is_built=False), source="environment", steps={}),
            }
            for name, seconds in round_.items():
                if number >= 0:
                    taken[name].append(seconds)
    return Report(name=NAME, job=JOB, rows=tuple(_rows(taken)), notes=_notes(steps))


def _rows(taken: Mapping[str, list[float]]) -> Iterator[Row]:
    def row(name: str, ours: str, beside: str, beside_what: str, *, is_target: bool) -> Row:
        found = Row(
            name=name,
            unit="s",
            ours=tuple(taken[ours]),
            beside=tuple(taken[beside]),
            beside_what=beside_what,
            target=f"≤ {WITHIN} times" if is_target else "",
            is_paired=True,
        )
        return replace(found, met=(found.ratio or 0) <= WITHIN) if is_target else found

    yield row("warm: the commit's own image", "exact", "command", "the same command by hand", is_target=True)
    yield row("the same", "exact", "plain", "a plain jupyter lab by hand", is_target=False)
    yield row("notebook edit pushed, no runner: reuse", "environment", "exact", "warm", is_target=True)


def _notes(steps: Mapping[str, list[float]]) -> tuple[str, ...]:
    order = sorted(steps, key=lambda name: statistics.median(steps[name]))
    shown = ", ".join(f"{name} {statistics.median(steps[name]):.2f}" for name in order)
    return (
        "Every launch is of a new commit, with its checkout; each start by hand too, by the agent's Git commands.",
        "The ratio is the median of the rounds' own ratios: in a round all four are measured one after the other.",
        "Each reuse was asserted: source “environment”, built for the first commit, no WAITING among its events.",
        f"Where the time of a launch goes, seconds after POST (medians): {shown}.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A running session to do the same by hand: its workspace, its server's command and variables."""

    workspace: Path
    variables: Mapping[str, str]
    kept: Path  # a copy of its private files and its thin environment


class _Bench:
    def __init__(self, place: Path, stand_in: StandIn, project: ProjectHandle, client: Client) -> None:
        self._place, self._stand_in, self._project, self._client = place, stand_in, project, client
        self._workloads = place / "standalone" / "workloads"
        self._numbers = itertools.count(1)
        self._pending: list[str] = []
        self._model: _Model | None = None
        self._first = ""

    @property
    def _alice(self) -> UserHandle:
        return self._project.owner

    # ------------------------------------------------------------ commits and launches

    def prepare(self) -> None:
        """Build the environment once in CI, launch it once, and look at how its server was started."""
        files = {"requirements.txt": REQUIREMENTS, ".gitlab-ci.yml": PIPELINE, "rain.ipynb": _notebook("first")}
        self._first = self._stand_in.commit(self._project, files)
        self._built(self._first)
        name = self._client.launch(self._project, self._first)["name"]
        self._client.reaches(name, "RUNNING", seconds=BUILD_SECONDS)
        server = self._client.get(name)
        assert server is not None
        self._model = self._looked_at(server["slipway"]["workload_name"])
        self._end(name)
        wait_for(self._is_compiled, seconds=BUILD_SECONDS, what="the environment compiled")

    def _is_compiled(self) -> bool | None:
        """Say whether the environment is as it will stay: its modules are compiled after its first start."""
        records = [json.loads(path.read_text()) for path in self._place.glob("standalone/environments/*/*.json")]
        return bool(records and all(record.get("is_compiled") for record in records)) or None

    def commit(self, *, is_built: bool) -> str:
        """Push a notebook edit; its CI job runs to its end, or no runner takes it."""
        self._stand_in.pause_runner(paused=not is_built)
        sha = self._stand_in.commit(self._project, {"rain.ipynb": _notebook(f"edit {next(self._numbers)}")})
        self._pending.append(sha)
        self._stand_in.wait_for_pipeline(self._project, sha)  # the stand-in's own work after a push is not ours
        if is_built:
            for each in self._pending:
                self._built(each)
            self._pending = []
        return sha

    def _built(self, sha: str) -> None:
        job = self._stand_in.wait_for_job(self._project, sha, "image_build", timeout_seconds=BUILD_SECONDS)
        assert job["status"] == "success", job

    def launched(self, sha: str, *, source: str, steps: dict[str, list[float]]) -> float:
        """Launch a commit; return the seconds from POST to the session's first answer, and end it."""
        probe = _Probe(self._workloads)
        probe.start()
        at, began = datetime.now(UTC), time.perf_counter()
        name = self._client.launch(self._project, sha)["name"]
        steps.setdefault("POST answered", []).append(time.perf_counter() - began)
        took = probe.answered_at() - began
        events = self._client.events(name, until="ready")
        for event in events:
            since = datetime.fromisoformat(event["at"]).astimezone(UTC) - at
            steps.setdefault(_step_name(event), []).append(since.total_seconds())
        steps.setdefault("the first answer", []).append(took)
        said = self._client.call("GET", f"/api/notebooks/logs/{name}").json().get("git-clone", "")
        if found := re.search(r"Checked out in ([0-9.]+) s", said):
            steps.setdefault("(the checkout alone, beside the server's start)", []).append(float(found[1]))
        image = (self._client.get(name) or {})["slipway"]["image"]
        assert image["source"] == source, image
        assert image["built_for_commit"] == self._first or source != "environment", image
        assert "WAITING" not in {event["phase"] for event in events}, events
        self._end(name)
        return took

    def _end(self, name: str) -> None:
        self._client.stop(name)
        self._client.reaches(name, "GONE", seconds=START_SECONDS)

    # ------------------------------------------------------------ by hand

    def _looked_at(self, workload: str) -> _Model:
        agent = json.loads((self._workloads / workload / "process.json").read_text())["pid"]
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        server = next(
            each for each in children if b"/.slipway/jupyter-lab" in Path(f"/proc/{each}/cmdline").read_bytes()
        )
        raw = Path(f"/proc/{server}/environ").read_bytes().split(b"\0")
        variables = dict(line.decode().split("=", 1) for line in raw if b"=" in line)
        workspace = Path(variables["HOME"]).parent
        kept = self._place / "kept"
        for folder in (".slipway", "environment"):
            shutil.copytree(workspace / folder, kept / folder, symlinks=True)
        return _Model(workspace=workspace, variables=variables, kept=kept)

    def by_hand(self, sha: str) -> float:
        """Check the commit out and start a session's own command; return the seconds to its first answer."""
        assert self._model is not None
        with self._hand_made() as (folder, variables, settings):
            began = time.perf_counter()
            self._check_out(sha, folder, variables)
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", settings["port"]))
                listening.listen(128)
                listening.set_inheritable(True)
                read, write = os.pipe()
                os.set_inheritable(read, True)  # noqa: FBT003 - positional only
                os.write(write, b"g")
                os.close(write)
                told = {"SLIPWAY_AGENT": str(os.getpid()), "SLIPWAY_LISTEN": str(listening.fileno())}
                process = subprocess.Popen(
                    [str(folder / "environment/bin/python"), str(folder / ".slipway/jupyter-lab")],
                    env={**variables, **told, "SLIPWAY_GO": str(read)},
                    cwd=settings["root"],
                    pass_fds=(listening.fileno(), read),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                os.close(read)
            return _first_answer(process, settings["port"], "/slipway/open", settings["public_host"]) - began

    def plain(self, sha: str) -> float:
        """Check the commit out and start `jupyter lab` with nothing of ours; return the seconds to its answer."""
        with self._hand_made() as (folder, variables, settings):
            began = time.perf_counter()
            self._check_out(sha, folder, variables)
            process = subprocess.Popen(
                [
                    str(folder / "environment/bin/python"),
                    *("-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port_retries=0"),
                    f"--ServerApp.port={settings['port']}",
                    "--IdentityProvider.token=",
                ],
                env={name: value for name, value in variables.items() if not name.startswith("SLIPWAY_")},
                cwd=settings["root"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            return _first_answer(process, settings["port"], "/api", "127.0.0.1") - began

    @contextmanager
    def _hand_made(self) -> Iterator[tuple[Path, dict[str, str], dict[str, Any]]]:
        """Yield a folder with a session's private files and environment, the variables, and the settings."""
        assert self._model is not None
        folder = self._place / f"hand-{secrets.token_hex(4)}"
        shutil.copytree(self._model.kept, folder, symlinks=True)
        for each in ("home", "work", "run", ".slipway/tmp"):
            (folder / each).mkdir(parents=True, exist_ok=True)
        (folder / ".slipway/checkout-done").unlink(missing_ok=True)
        old = str(self._model.workspace)
        variables = {name: value.replace(old, str(folder)) for name, value in self._model.variables.items()}
        variables["JUPYTER_RUNTIME_DIR"] = str(folder / "run")
        settings = json.loads((folder / ".slipway/session.json").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            settings |= {"port": free.getsockname()[1], "root": str(folder / "work")}
        (folder / ".slipway/session.json").write_text(json.dumps(settings))
        pair = base64.b64encode(f"oauth2:{self._alice.token}".encode()).decode()
        (folder / ".slipway/gitconfig").write_text(f'[http]\n\textraHeader = "Authorization: Basic {pair}"\n')
        try:
            yield folder, variables, settings
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check_out(self, sha: str, folder: Path, variables: Mapping[str, str]) -> None:
        told = {
            "SLIPWAY_PRIVATE": str(folder / ".slipway"),
            "SLIPWAY_CHECKOUT": str(folder / "work"),
            "SLIPWAY_ORIGIN": self._project.http_url,
            "SLIPWAY_SHA": sha,
            "SLIPWAY_BRANCH": "main",
            "SLIPWAY_IS_TAG": "0",
            "SLIPWAY_LFS": "0",
        }
        command = ["/bin/sh", "-c", checkout.SCRIPT]
        subprocess.run(command, env={**variables, **told}, cwd=folder, check=True, timeout=60, capture_output=True)


class _Probe(threading.Thread):
    """The independent client: finds the new session's port where it is written, and asks it until it answers."""

    def __init__(self, workloads: Path) -> None:
        super().__init__(name="probe", daemon=True)
        self._workloads = workloads
        self._known = set(workloads.iterdir()) if workloads.is_dir() else set()
        self._answered = threading.Event()
        self._at = 0.0

    def run(self) -> None:
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            found = self._port()
            if found is not None and _is_answered(*found):
                self._at = time.perf_counter()
                self._answered.set()
                return
            time.sleep(PROBE_SECONDS)

    def answered_at(self) -> float:
        """Return when the session answered, by `perf_counter`."""
        assert self._answered.wait(START_SECONDS), "no session answered"
        return self._at

    def _port(self) -> tuple[int, str, str] | None:
        for folder in set(self._workloads.iterdir()) - self._known:
            with suppress(OSError, ValueError):
                state = json.loads((folder / "record.json").read_text())["state"]
                if state["port"]:
                    return state["port"], "/slipway/open", state["public_host"]
        return None


def _first_answer(process: subprocess.Popen[bytes], port: int, path: str, host: str) -> float:
    """Return when a server answered, by `perf_counter`, and end it with its group."""

    def look() -> float | None:
        assert process.poll() is None, f"the server ended with code {process.returncode}"
        if _is_answered(port, path, host):
            return time.perf_counter()
        time.sleep(PROBE_SECONDS)
        return None

    try:
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            if (at := look()) is not None:
                return at
        raise AssertionError("no server answered")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _is_answered(port: int, path: str, host: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        connection.request("GET", path, headers={"Host": f"{host}:{port}", "Connection": "close"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return 200 <= answer.status < 300


def _step_name(event: Mapping[str, Any]) -> str:
    message = str(event.get("message", ""))
    if event.get("event") in {"phase", "ready"}:
        return str(event["phase"]) if event["event"] == "phase" else "told ready"
    return message.partition(" (")[0].partition(" in ")[0].partition(" of ")[0][:40]


def _notebook(text: str) -> str:
    cell = {"cell_type": "markdown", "id": "one", "metadata": {}, "source": [text]}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"
