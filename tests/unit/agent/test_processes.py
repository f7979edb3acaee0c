"""Processes as the agent and the runtime see them: identity, zombies, descendants, the end of all.

Covers: real processes. Leaves out: sessions (the contract suite).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from spawner.agent import processes

_PARENT = """
import os, subprocess, sys
from spawner.agent import processes
processes.adopt_orphans()
subprocess.run(["setsid", "-f", "sleep", "1000"])
subprocess.run(["sh", "-c", "(env -i setsid sleep 1000 &)"])
print("ready", flush=True)
sys.stdin.readline()
print(len(processes.descendants(os.getpid())), processes.end_all(os.getpid(), within_seconds=30), flush=True)
sys.stdin.readline()
"""


def _until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_process_is_itself_and_no_other() -> None:
    """A process is known by pid, start and boot: another start or boot is another process."""
    own = processes.identity(os.getpid())

    assert own is not None
    assert processes.is_alive(own)
    assert not processes.is_alive(replace(own, start_ticks=own.start_ticks + 1))
    assert not processes.is_alive(replace(own, boot_id="another"))


def test_a_zombie_is_gone() -> None:
    """A process that ended and was not reaped counts as gone, and gets no signal."""
    child = subprocess.Popen(["sleep", "1000"])
    found = processes.identity(child.pid)
    assert found is not None
    assert processes.send(found, signal.SIGKILL)
    _until(lambda: processes.identity(child.pid) is None)

    assert os.path.exists(f"/proc/{child.pid}")  # noqa: PTH110 - a zombie's entry, not a file
    assert not processes.is_alive(found)
    assert not processes.send(found, signal.SIGKILL)
    child.wait(30)


def test_a_marked_process_is_found() -> None:
    """A process is found by a variable of its environment, exactly."""
    child = subprocess.Popen(["sleep", "1000"], env={"SLIPWAY_WORKLOAD": "w-1"})
    try:
        _until(lambda: child.pid in processes.marked("SLIPWAY_WORKLOAD=w-1"))
        assert child.pid not in processes.marked("SLIPWAY_WORKLOAD=w")
    finally:
        child.kill()
        child.wait(30)


def test_daemons_end_with_their_ancestor() -> None:
    """What detached itself into sessions of its own, with or without variables, is found below and ended."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent, parent.stdin, parent.stdout:
        assert parent.stdout.readline() == "ready\n"
        _until(lambda: len(processes.descendants(parent.pid)) == 2)
        below = processes.descendants(parent.pid)
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "2 True\n"
        assert [pid for pid in below if processes.identity(pid) is not None] == []
        parent.kill()


def test_a_child_dies_with_its_parent() -> None:
    """A process that asked for it is killed by the kernel when its parent ends."""
    inner = "from spawner.agent import processes as p; import time; p.die_with_parent(); print('up', flush=True)"
    inner += "; time.sleep(99)"
    outer = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {inner!r}])"
    outer += "; print(c.pid, flush=True); c.wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", outer],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        _until(lambda: processes.identity(child) is None)
