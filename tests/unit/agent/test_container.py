"""The agent's parts that only containers need: the passage, printed logs, the image's own entrypoint and variables.

Covers: real sockets, real shells. Leaves out: real containers (tests/contract/runtime).
"""

import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from spawner.agent import server
from spawner.agent.memory import MemoryLimit
from spawner.agent.output import PrintedLog
from spawner.agent.passage import open_passage
from spawner.agent.plan import ImagePlan, Plan
from spawner.agent.prepare import prepare, variables
from tests.unit.agent.test_words import make_plan

_PIECE = b"x" * (1 << 20)


def _in_image(folder: Path, *entrypoint: str) -> Plan:
    image = ImagePlan(entrypoint=entrypoint, spawner_socket=str(folder / "web.sock"), spawner_port=0)
    return replace(make_plan(folder), environment=None, listen_descriptor=None, image=image)


def _echo(path: Path) -> socket.socket:
    """Listen at a path, and send back what one client has sent, once it has sent all."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
            connection.sendall(received)

    threading.Thread(target=answer, daemon=True).start()
    return listening


def _said_back(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        line.sendall(_PIECE)
        line.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: line.recv(1 << 16), b""))


def test_the_passage_carries_bytes_both_ways(tmp_path: Path) -> None:
    """A megabyte goes through and comes back, and the end of one side is told to the other."""
    with _echo(tmp_path / "web.sock"):
        assert _said_back(open_passage(0, str(tmp_path / "web.sock"))) == _PIECE


def test_a_spawner_that_comes_back_is_found_again(tmp_path: Path) -> None:
    """Without a spawner a connection ends at once; a socket that appears at the same path is used from then on."""
    path = tmp_path / "web.sock"
    port = open_passage(0, str(path))
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        assert line.recv(1) == b""
    for _ in range(2):
        path.unlink(missing_ok=True)
        with _echo(path):
            assert _said_back(port) == _PIECE


def test_a_printed_line_bears_its_log(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines are printed whole, each with its log's name; our own begin on a line of their own."""
    log = PrintedLog("git-clone")
    for piece in (b"one\ntw", b"o\nbegun"):
        log.write(piece)
    log.say("ours")
    log.write(b"y" * 70_000)

    printed = capfd.readouterr().out.split("\n")
    assert printed[:4] == ["git-clone\tone", "git-clone\ttwo", "git-clone\tbegun", "git-clone\tours"]
    assert len(printed[4]) == 70_000 + len("git-clone\t")


def test_the_entrypoint_starts_the_server(tmp_path: Path) -> None:
    """The image's entrypoint is kept, and may be what puts Jupyter on the PATH; the first that is there is started."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "jupyter-notebook").write_text('#!/bin/sh\necho notebook "$@"\n')
    (programs / "jupyter-notebook").chmod(0o755)
    plan = _in_image(tmp_path, "/usr/bin/env", f"PATH={programs}:/bin:/usr/bin")
    done = subprocess.run(server.command(plan), capture_output=True, text=True, timeout=30, check=True, env={})
    without = subprocess.run(
        server.command(_in_image(tmp_path, "/usr/bin/env", "PATH=/nowhere")),
        capture_output=True, text=True, timeout=30, check=False, env={},
    )  # fmt: skip

    assert done.stdout == f"notebook --config={plan.private}/settings.py\n"
    assert (without.returncode, without.stderr) == (127, "This image has no Jupyter on its PATH.\n")


def test_an_image_keeps_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH, home and settings of the image stay; the session's own are added, and nothing of an environment."""
    home = tmp_path / "jovyan"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    plan = replace(_in_image(tmp_path), variables={"PATH": "/opt/conda/bin", "JUPYTER_CONFIG_PATH": "/etc/own"})
    told = variables(plan)
    monkeypatch.setenv("HOME", "/")
    elsewhere = variables(replace(plan, variables={"HOME": "/nowhere"}))

    assert (told["PATH"], told["HOME"]) == ("/opt/conda/bin", str(home))
    assert told["JUPYTER_CONFIG_PATH"] == f"{plan.private}:/etc/own"
    assert elsewhere["HOME"] == str(plan.home)
    assert {"VIRTUAL_ENV", "JUPYTERLAB_DIR"}.isdisjoint(told)


def test_an_image_gets_no_environment(tmp_path: Path) -> None:
    """Folders and private files are made; the image's Python stays the only one."""
    plan = _in_image(tmp_path)
    Path(plan.workspace_path).mkdir()

    assert prepare(plan) is False
    assert not plan.own_environment.exists()
    assert {"gitconfig", "session.json", "settings.py"} <= {path.name for path in plan.private.iterdir()}


def test_a_containers_group_tells_of_want(tmp_path: Path) -> None:
    """The group around the agent is read, in the words of both control groups, and never written or removed."""
    limit = MemoryLimit("w", 0, group=tmp_path)
    assert not limit.was_exceeded()
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert limit.was_exceeded()
    (tmp_path / "memory.events").unlink()
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    limit.apply(os.getpid())
    limit.close()

    assert (limit.was_exceeded(), limit.must_be_watched) == (True, False)
    assert not (tmp_path / "cgroup.procs").exists()


def test_an_old_jupyter_is_said_so() -> None:
    """Settings that meet a Jupyter which has no identity provider end it in a sentence, not in a traceback."""
    settings = Path(server.__file__).parent / "inside" / "settings.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(settings)], capture_output=True, text=True, timeout=30, check=False
    )

    told = "This image's Jupyter server is too old: install jupyter-server 2 or newer in it.\n"
    assert (done.returncode, done.stderr) == (1, told)
