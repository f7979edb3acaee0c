"""The demo's places and process tree.

Covered: ports, hosts, demo.json, the folder's end; restart of what was killed, the end of what cannot stay up, the end
that is asked for, descendants in sessions of their own. Left out: the whole demo, which `scripts/demo --check` runs.
"""

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spawner.cli.demo.places import pick
from spawner.cli.exits import CommandFailed, ExitCode

# Each runs in a process of its own, because a tree is the whole process's children.
PREAMBLE = """
import json, os, signal, sys, time
from pathlib import Path
from spawner.cli.demo.tree import Part, PartEnded, ProcessTree, descendants

def part(name, code, restarts=True):
    log = Path(sys.argv[1]) / f"{name}.log"
    command = [sys.executable, "-c", code]
    ready = lambda: log.exists() and b"ready" in log.read_bytes()
    return Part(name=name, command=command, environment=dict(os.environ), log=log, is_ready=ready, restarts=restarts)

def until(look):
    end = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.02)
    return found

SLEEPER = "print('ready', flush=True); import time; time.sleep(60)"
tree = ProcessTree()
"""
RESTART = """
tree.start(part("a", SLEEPER), within_seconds=30)
before = tree.pid("a")
os.kill(before, signal.SIGKILL)
again = until(tree.tend)
after = tree.pid("a")
print(json.dumps({"again": again, "is_another": before != after, "left": tree.end(grace_seconds=5)}))
"""
POLITE = """
tree.start(part("a", SLEEPER), within_seconds=30)
os.kill(tree.pid("a"), signal.SIGTERM)
def ended():
    try:
        tree.tend()
    except PartEnded as error:
        return str(error)
print(json.dumps({"sentence": until(ended), "left": tree.end(grace_seconds=5)}))
"""
CRASHING = """
CODE = "import time; print('ready', flush=True); time.sleep(0.2); raise SystemExit('no')"
tree.start(part("a", CODE), within_seconds=30)
count = 0
def given_up():
    global count
    try:
        count += len(tree.tend())
    except PartEnded as error:
        return str(error)
print(json.dumps({"sentence": until(given_up), "count": count, "left": tree.end(grace_seconds=5)}))
"""
DETACHED = """
CODE = '''
import subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(60)
'''
tree.start(part("a", CODE), within_seconds=30)
os.kill(tree.pid("a"), signal.SIGKILL)
until(lambda: len(descendants(os.getpid())) == 1)
left = tree.end(grace_seconds=1)
print(json.dumps({"left": left, "living": descendants(os.getpid())}))
"""
BROKEN = """
try:
    tree.start(part("a", "import sys; sys.exit('no such thing')"), within_seconds=30)
except Exception as error:
    print(json.dumps({"sentence": str(error), "left": tree.end(grace_seconds=5)}))
"""


def play(code: str, folder: Path) -> dict[str, object]:
    """Run a scene in a process of its own and return what it printed."""
    command = [sys.executable, "-c", PREAMBLE + code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    printed: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return printed


def test_what_was_killed_is_started_again(tmp_path: Path) -> None:
    """A part that was killed runs again, under another pid, and is named."""
    assert play(RESTART, tmp_path) == {"again": ["a"], "is_another": True, "left": []}


def test_what_was_asked_to_end_ends_the_demo(tmp_path: Path) -> None:
    """A part that somebody ends politely is not started again: the demo is meant."""
    played = play(POLITE, tmp_path)
    assert str(played["sentence"]).startswith("The a ended with code -15;")
    assert played["left"] == []


def test_what_cannot_stay_up_is_given_up(tmp_path: Path) -> None:
    """A part that ends again and again is started five times more, then told with the end of its log."""
    played = play(CRASHING, tmp_path)
    assert str(played["sentence"]).startswith("The a ended with code 1; its log ends:\n")
    assert str(played["sentence"]).endswith("    no")
    assert (played["count"], played["left"]) == (5, [])


def test_detached_descendants_end_too(tmp_path: Path) -> None:
    """A grandchild in a session of its own that ignores SIGTERM comes back to the tree and is ended with it."""
    assert play(DETACHED, tmp_path) == {"left": [], "living": []}


def test_a_part_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    """A part that ends at once is an error with the end of its log."""
    played = play(BROKEN, tmp_path)
    assert "The a ended with code 1" in str(played["sentence"])
    assert "no such thing" in str(played["sentence"])


def test_free_ports_differ(tmp_path: Path) -> None:
    """Port 0 gives four different ports."""
    ports = pick(host="127.0.0.1", port=0, data=tmp_path).ports
    assert len({ports.spawner, ports.gitlab, ports.registry, ports.redis}) == 4


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """A port that is taken is named with the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailed, match=f"Port {port} ") as failed:
            pick(host="127.0.0.1", port=port, data=tmp_path)
    assert "--port 0" in failed.value.remedy


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "example.org", "::"])  # noqa: S104 - is refused
def test_only_loopback(tmp_path: Path, host: str) -> None:
    """The demo listens on loopback only, and says how else to serve."""
    with pytest.raises(CommandFailed) as failed:
        pick(host=host, port=0, data=tmp_path)
    assert failed.value.code is ExitCode.USAGE


def test_description_is_private_and_goes(tmp_path: Path) -> None:
    """demo.json has mode 0600 and is gone at the end; a folder that was named stays."""
    places = pick(host="127.0.0.1", port=0, data=tmp_path / "data")
    places.describe({"pid": 1})
    places.describe({"pid": 2})
    assert json.loads(places.description.read_text()) == {"pid": 2}
    assert stat.S_IMODE(places.description.stat().st_mode) == 0o600
    places.clear()
    assert list((tmp_path / "data").iterdir()) == []


def test_a_temporary_folder_goes_with_its_read_only_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that nobody named is removed whole, read-only environments included."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    places = pick(host="127.0.0.1", port=0, data=None)
    shut = places.data / "environments" / "one"
    shut.mkdir(parents=True)
    (shut / "file").write_text("x")
    shut.chmod(0o555)
    places.clear()
    assert list(tmp_path.iterdir()) == []
