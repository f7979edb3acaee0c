"""Runtimes for tests: one that does everything in memory, and those that fail in every way a real one can.

For: our own tests, and those of whoever builds on us; the same contract suite runs on them and on the real ones.
Promises: a true `Runtime`, `KeepsWorkspaces` and `AdmitsPeople` without processes; no clock, no sleeping: time passes
by looking (`observe`), so that a test decides how much.
Must not know: the service, a database.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from spawner.errors import LaunchRefused, SecondPerson, SpawnerError
from spawner.names import SessionName, UserId, WorkloadName
from spawner.ports import (
    Address,
    Health,
    ImageKind,
    LogLine,
    Observation,
    Owned,
    Progress,
    State,
    Workload,
)

STEPS = ("Preparing", "Submitting", "Submitted")
GONE = Observation(health=Health.GONE)
ENDED = Observation(health=Health.EXITED, message="The fake server ended.", exit_code=1)
_NEVER = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a runtime behaves. Steps count from 1; looks are calls of `observe` that see the workload.

    `fails_at_step` raises `failure` in the place of that step, `failures` times in all. A workload is ready from look
    `ready_at_look` on, exits at `exits_at_look`, is gone without a word at `vanishes_at_look`. A stop takes
    `looks_to_stop` looks. `admits` is the most people that are admitted at once.
    """

    fails_at_step: int | None = None
    failures: int = _NEVER
    failure: SpawnerError = field(default_factory=lambda: LaunchRefused("The fake runtime refuses."))
    ready_at_look: int = 1
    exits_at_look: int = _NEVER
    exit: Observation = ENDED
    vanishes_at_look: int = _NEVER
    looks_to_stop: int = 0
    admits: int = _NEVER


def slow(*, looks: int) -> Behaviour:
    """Return a runtime's behaviour that is ready only at a late look, or never within a test's patience."""
    return Behaviour(ready_at_look=looks)


def fails_at(step: int, failure: SpawnerError | None = None, *, times: int = _NEVER) -> Behaviour:
    """Return the behaviour of failing in the place of a step (1 to 3)."""
    if failure is None:
        return Behaviour(fails_at_step=step, failures=times)
    return Behaviour(fails_at_step=step, failures=times, failure=failure)


def dies_after_ready(*, at_look: int = 2, is_out_of_memory: bool = False) -> Behaviour:
    """Return the behaviour of becoming ready, then exiting."""
    message = "It needed more memory than it may have." if is_out_of_memory else "The fake server ended."
    end = Observation(health=Health.EXITED, message=message, exit_code=137, is_out_of_memory=is_out_of_memory)
    return Behaviour(exits_at_look=at_look, exit=end)


def vanishes(*, at_look: int = 2) -> Behaviour:
    """Return the behaviour of being gone at some look, without a word."""
    return Behaviour(vanishes_at_look=at_look)


@dataclass(slots=True, kw_only=True)
class _Run:
    workload: Workload
    created_at: datetime
    state: State
    looks: int = 0
    stop_looks: int | None = None
    is_over: bool = False
    is_made: bool = False


@dataclass(slots=True, kw_only=True)
class FakeRuntime:
    """A runtime in memory. `behaviour` may be replaced at any time; `started` and `stopped` are for looking at."""

    name: str = "fake"
    image_kinds: frozenset[ImageKind] = frozenset({ImageKind.ENVIRONMENT})
    behaviour: Behaviour = field(default_factory=Behaviour)
    started: list[WorkloadName] = field(default_factory=list)
    stopped: list[State] = field(default_factory=list)
    workspaces: set[str] = field(default_factory=set)
    _runs: dict[str, _Run] = field(default_factory=dict)
    _admitted: dict[UserId, str] = field(default_factory=dict)
    _failed: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self, workload: Workload) -> Iterator[Progress]:
        """Submit the workload in three steps; adopts its own."""
        with self._lock:
            run = self._runs.get(workload.name)
            if run is not None and run.is_made:
                yield Progress(message="Found the session as it was", state=run.state)
                return
            self.admit(workload.user_id, workload.username)
            state: dict[str, Any] = {"workload": workload.name, "step": 0, "generation": workload.generation}
            run = _Run(workload=workload, created_at=datetime.now(UTC), state=state)
            self._runs[workload.name] = run
        for number, message in enumerate(STEPS, start=1):
            self._maybe_fail(number)
            with self._lock:
                run.state = {**run.state, "step": number}
                if number == len(STEPS):
                    run.is_made = True
                    self.started.append(workload.name)
                    self.workspaces.add(workload.workspace)
            yield Progress(message=message, state=run.state)

    def observe(self, states: Sequence[State]) -> Sequence[Observation]:
        """Look at many workloads at once; same order and length. Each look passes time."""
        with self._lock:
            return [self._observe(str(state["workload"])) for state in states]

    def stop(self, state: State, *, grace_seconds: float) -> None:  # noqa: ARG002 - nothing here needs grace
        """Begin ending a workload; a no-op when already gone."""
        with self._lock:
            self.stopped.append(state)
            run = self._runs.get(str(state["workload"]))
            if run is not None and run.stop_looks is None:
                run.stop_looks = run.looks
                run.is_over = run.is_over or not run.is_made

    def logs(self, state: State, *, max_lines: int) -> Iterator[LogLine]:
        """Yield the last lines, oldest first."""
        run = self._runs.get(str(state["workload"]))
        if run is None:
            return
        lines = [LogLine(container="jupyter-server", text=f"{message}.") for message in STEPS[: run.state["step"]]]
        yield from lines[-max_lines:]

    def inventory(self) -> Iterator[Owned]:
        """Yield every workload that lives."""
        with self._lock:
            found = [run for run in self._runs.values() if run.is_made and not self._is_gone(run)]
        for run in found:
            yield Owned(
                workload=run.workload.name,
                state=run.state,
                created_at=run.created_at,
                annotations=run.workload.annotations,
            )

    def remove_workspace(self, workspace: str) -> None:
        """Delete a workspace; a no-op when it is gone."""
        self.workspaces.discard(workspace)

    @property
    def admitted(self) -> Sequence[UserId]:
        """Who is admitted, where not everybody is."""
        with self._lock:
            return () if self.behaviour.admits == _NEVER else tuple(self._admitted)

    def admit(self, user_id: UserId, username: str) -> tuple[str, ...]:
        """Admit a person while there is room; raises SecondPerson."""
        with self._lock:
            if user_id not in self._admitted and len(self._admitted) >= self.behaviour.admits:
                raise SecondPerson("Somebody else's sessions run here.", remedy="Wait until they have stopped.")
            self._admitted[user_id] = username
        return () if self.behaviour.admits == _NEVER else ("Launch only code you trust as yourself.",)

    def release(self, user_id: UserId) -> None:
        """Forget a person of whom nothing lives."""
        with self._lock:
            if not any(run.workload.user_id == user_id and not self._is_gone(run) for run in self._runs.values()):
                self._admitted.pop(user_id, None)

    def plant(self, workload: Workload) -> State:
        """Make a workload that no database knows, as a restored database would find it."""
        *_, last = self.start(workload)
        return last.state

    def end(self, workload: WorkloadName) -> None:
        """End a workload from outside, without a word."""
        with self._lock:
            self._runs.pop(workload, None)

    def _maybe_fail(self, step: int) -> None:
        with self._lock:
            if step == self.behaviour.fails_at_step and self._failed < self.behaviour.failures:
                self._failed += 1
                raise self.behaviour.failure

    def _observe(self, name: str) -> Observation:
        run = self._runs.get(name)
        if run is None or not run.is_made:
            return GONE
        run.looks += 1
        does = self.behaviour
        if self._is_gone(run):
            return GONE
        if run.is_over or run.looks >= does.exits_at_look:
            run.is_over = True
            return does.exit
        return Observation(health=Health.READY if run.looks >= does.ready_at_look else Health.STARTING)

    def _is_gone(self, run: _Run) -> bool:
        if run.looks >= self.behaviour.vanishes_at_look:
            return True
        if run.stop_looks is None:
            return False
        return run.is_over or run.looks - run.stop_looks > self.behaviour.looks_to_stop


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRoutes:
    """Routes of the fake runtime: names that lead nowhere."""

    host: str = "sessions.invalid"

    def address(self, session: SessionName, state: State) -> Address | None:
        """Return an address once the workload was submitted."""
        if state.get("step") != len(STEPS):
            return None
        url = f"http://{session}.{self.host}/"
        return Address(people_url=url, programs_url=url, open_path="slipway/open")
