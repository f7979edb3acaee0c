"""A process of the spawner that kills somebody right after a chosen write, and is the spawner in all else.

`python -m tests.functional.kill.process serve|worker|beat …` is `spawner serve|worker|beat …` whose stores tell, in
files of one folder, each write that concerns a session, and do what the harness asked for there:

    steps/<sha>         one line of JSON per write, by any process
    armed/<sha>.json    {"victim", "kills": {step: id}}: kill it after the first write of each name
    fired/<id>          "killed" or "absent", once
    pids/<part>         the process group of each part, written by the harness

No timing decides: the write is committed, the next line of code has not run. The product holds no line of this.
"""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spawner import wiring
from spawner.agent import processes
from spawner.cli import main
from spawner.images.model import Build
from spawner.names import SessionName, WorkloadName
from spawner.ports import Observation, State
from spawner.sessions.model import EventKind, NewEvent, Session, Target, WorkloadRow
from spawner.sessions.store import Claim
from spawner.store.builds import BuildRows
from spawner.store.sessions import SessionRows

FOLDER = Path(os.environ["SLIPWAY_KILL_FOLDER"])
ROOT = Path(os.environ["SPAWNER_STANDALONE__ROOT"])
RUNNER = Path(os.environ["SLIPWAY_KILL_RUNNER"])
APPEAR_SECONDS = 30.0
_UNTOLD = frozenset({"version", "events", "due_at", "phase_since", "reason"})


# ---------------------------------------------------------------- what a kill is


def written(sha: str, step: str) -> None:
    """Tell a write, and kill whom the harness wants killed there."""
    line = json.dumps({"step": step, "by": sys.argv[1], "pid": os.getpid()}) + "\n"
    handle = os.open(FOLDER / "steps" / sha, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, line.encode())
    os.close(handle)
    try:
        armed = json.loads((FOLDER / "armed" / f"{sha}.json").read_text())
    except FileNotFoundError:
        return
    identity = armed["kills"].get(step)
    if identity is None:
        return
    with suppress(FileExistsError):
        handle = os.open(FOLDER / "fired" / identity, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if _is_ourselves(armed["victim"]):
            os.write(handle, b"killed")
        # Told afterwards of others: another life's kill may end us in between, and then it did not happen.
        os.write(handle, b"killed" if _kill(armed["victim"], sha) else b"absent")
        os.close(handle)


def _is_ourselves(victim: str) -> bool:
    with suppress(OSError):
        return int((FOLDER / "pids" / victim).read_text()) == os.getpgrp()
    return False


def _kill(victim: str, sha: str) -> bool:
    if victim in {"agent", "session"}:
        return _kill_of_session(victim, sha)
    try:
        pid = int((RUNNER if victim == "runner" else FOLDER / "pids" / victim).read_text())
        kill = os.kill if victim in {"runner", "redis"} else os.killpg  # the others lead groups of their own
        kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # killed a moment ago, and not back yet
        return False
    return True


def _kill_of_session(victim: str, sha: str) -> bool:
    """Kill the newest agent of a commit, or the server below it, as soon as it is there."""
    ends = time.monotonic() + APPEAR_SECONDS
    while time.monotonic() < ends:
        for agent in _agents(sha):
            found = [agent] if victim == "agent" else [pid for pid in processes.descendants(agent) if _is_server(pid)]
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
        time.sleep(0.01)
    return False


def _agents(sha: str) -> Sequence[int]:
    found = []
    for record in (ROOT / "workloads").glob("*/record.json"):
        noted = json.loads(record.read_text())
        identity = _identity(record.with_name("process.json"))
        is_over = record.with_name("last.json").exists()
        if noted["annotations"]["commit"] == sha and identity is not None and not is_over:
            found.append(identity.pid)
    return found


def _identity(path: Path) -> processes.ProcessIdentity | None:
    with suppress(OSError, ValueError):
        identity = processes.ProcessIdentity(**json.loads(path.read_text()))
        return identity if processes.is_alive(identity) else None
    return None


def _is_server(pid: int) -> bool:
    with suppress(OSError):
        return b"/.slipway/jupyter-lab\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


# ---------------------------------------------------------------- what a write is called


class ToldSessions(SessionRows):
    """The sessions' store, telling every write."""

    def _of(self, name: SessionName) -> str:
        session = self.get(name)
        return "" if session is None else session.sha

    def add(self, session: Session, events: Sequence[NewEvent]) -> tuple[Session, bool]:
        kept, is_new = super().add(session, events)
        if is_new:
            written(kept.sha, "NEW: accepted")
        return kept, is_new

    def relaunch(self, session: Session, events: Sequence[NewEvent]) -> Session | None:
        saved = super().relaunch(session, events)
        if saved is not None:
            written(saved.sha, "NEW: launched again")
        return saved

    def claim(self, name: SessionName, *, holder: str, seconds: float) -> Claim | None:
        claim = super().claim(name, holder=holder, seconds=seconds)
        if claim is not None and (session := self.get(name)) is not None:
            written(session.sha, f"{_aim(session)} lease taken")
        return claim

    def release(self, claim: Claim) -> bool:
        is_released = super().release(claim)
        if is_released and (session := self.get(claim.name)) is not None:
            written(session.sha, f"{_aim(session)} lease given back")
        return is_released

    def save(self, session: Session, events: Sequence[NewEvent], claim: Claim) -> Session | None:
        before = self.get(session.name)
        saved = super().save(session, events, claim)
        if saved is not None and before is not None:
            written(saved.sha, f"{saved.phase}: {_change(before, saved, events)}")
        return saved

    def wish(self, name: SessionName, **wishes: Any) -> bool:
        is_written = super().wish(name, **wishes)
        if wishes.get("target") is Target.GONE:
            written(self._of(name), "stop wished")
        return is_written

    def put_workload(self, row: WorkloadRow) -> None:
        super().put_workload(row)
        written(self._of(SessionName(row.owner_name)), "workload: named")

    def set_state(self, name: WorkloadName, state: State) -> None:
        super().set_state(name, state)
        row = self.workload(name)
        if row is not None:
            known = "process" if state.get("pid") else "port" if state.get("port") else "record"
            written(self._of(SessionName(row.owner_name)), f"workload: {known}")

    def observe(self, name: WorkloadName, observation: Observation) -> SessionName | None:
        owner = super().observe(name, observation)
        if owner is not None:
            written(self._of(owner), f"observed: {observation.health}")
        return owner


class ToldBuilds(BuildRows):
    """The builds' store, telling every write."""

    def add(self, build: Build) -> Build:
        is_new = self.get(build.id) is None
        kept = super().add(build)
        if is_new:
            written(kept.sha, "build: row")
        return kept

    def claim(self, id: str, *, seconds: float) -> bool:  # noqa: A002 - the store's own name for it
        is_claimed = super().claim(id, seconds=seconds)
        if is_claimed and (build := self.get(id)) is not None:
            written(build.sha, "build: lease taken")
        return is_claimed

    def save(self, build: Build) -> Build | None:
        saved = super().save(build)
        if saved is not None:
            written(saved.sha, "build: over" if saved.is_over else "build: looked at")
        return saved

    def replace_log(self, id: str, text: str) -> None:  # noqa: A002 - as above
        super().replace_log(id, text)
        if (build := self.get(id)) is not None:
            written(build.sha, "build: log kept")


def _aim(session: Session) -> str:
    return "stop:" if session.target is Target.GONE else "launch:"


def _change(before: Session, after: Session, events: Sequence[NewEvent]) -> str:
    """Name a save by its newest telling event, else by the columns that changed."""
    kinds = [event.kind for event in events]
    if EventKind.STEP in kinds:
        return re.sub(r" \([\d.]+ s\)$", "", events[0].message)
    if after.phase is not before.phase:
        return f"entered from {before.phase}"
    if kinds:
        return kinds[-1].value
    fields = type(after).__dataclass_fields__
    changed = sorted(name for name in fields if getattr(before, name) != getattr(after, name))
    return ", ".join(name for name in changed if name not in _UNTOLD) or "looked at"


if __name__ == "__main__":
    wiring.SessionRows = ToldSessions  # type: ignore[attr-defined]
    wiring.BuildRows = ToldBuilds  # type: ignore[attr-defined]
    sys.exit(main())
