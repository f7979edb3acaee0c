"""A spawner and an agent killed at every step: nothing lost, nothing doubled, nothing left.

Covers: SIGKILL of the process that starts a session after each of its steps; of the agent before it is ready.
Leaves out: the spawner's own recovery (functional suites); agents of running sessions (`test_standalone.py`).
"""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spawner.agent import processes
from spawner.ports import Health
from spawner.runtimes.standalone import StandaloneRuntime
from tests.contract.runtime.conftest import Bench
from tests.contract.runtime.looking import until

_START = """
import os, pickle, signal, sys
from itertools import islice
from pathlib import Path
from spawner.runtimes.standalone import create
root, cache, steps, workload = pickle.loads(sys.stdin.buffer.read())
runtime = create(root=Path(root), instance="tests", registry=None, variables={**os.environ, "UV_CACHE_DIR": cache})
for _ in islice(runtime.start(workload), steps):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("steps", [1, 2, 3], ids=["before the environment", "before the agent", "after the agent"])
def test_a_spawner_killed_while_it_starts_a_session(real: Bench, standalone: StandaloneRuntime, steps: int) -> None:
    """Whenever the spawner is killed, the next start leads to one ready session with one agent."""
    workload = real.workload("killed-start")
    cache = standalone.variables["UV_CACHE_DIR"]
    dying = subprocess.run(
        [sys.executable, "-c", _START],
        input=pickle.dumps((str(standalone.root), cache, steps, workload)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
        timeout=120,
        check=False,
    )
    assert dying.returncode == -signal.SIGKILL
    state = real.run(workload)
    real.until(state, Health.READY)

    assert len(agents_of(workload.name)) == 1
    assert [owned.workload for owned in standalone.inventory()].count(workload.name) == 1


def test_an_agent_killed_while_it_fetches(real: Bench, standalone: StandaloneRuntime) -> None:
    """An agent killed in the middle of a fetch leaves no process; the next generation starts on the same folder."""
    real.place.refusals_left = 1000
    first = real.workload("killed-fetch")
    state = real.run(first)
    agent = int(state["pid"])
    until(lambda: True if len(processes.descendants(agent)) > 0 else None, what="children", within_seconds=30)
    below = processes.descendants(agent)
    os.kill(agent, signal.SIGKILL)
    real.until(state, Health.EXITED, within_seconds=30)
    real.place.refusals_left = 0
    until(
        lambda: None if any(processes.identity(pid) for pid in below) else True, what="nothing left", within_seconds=30
    )
    real.runtime.stop(state, grace_seconds=0)
    real.until(state, Health.GONE, within_seconds=30)

    second = replace(first, name=real.workload("killed-fetch").name, generation=2)
    real.until(real.run(second), Health.READY)
    assert list((standalone.root / "run").glob("*/kernel*")) == []


def agents_of(workload: str) -> list[int]:
    """Return the agents of a workload that live: the processes that were told its name."""
    found = []
    for pid in processes.pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawner.agent" in command and f"/{workload}/plan.json".encode() in command:
            found.append(pid)
    return found
