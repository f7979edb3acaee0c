"""What an agent writes and says: private files, bounded logs, the plan, Git's configuration, reports.

Covers: the agent's own small parts with real files and a real HTTP server. Leaves out: whole sessions.
"""

import json
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spawner.agent import plan as plans
from spawner.agent.checkout import git_configuration
from spawner.agent.files import read_json, write_json
from spawner.agent.memory import MemoryLimit
from spawner.agent.output import PART_BYTES, BoundedLog, last_lines
from spawner.agent.plan import CheckoutPlan, EnvironmentPlan, Plan
from spawner.agent.prepare import OWN_VARIABLES, prepare, variables
from spawner.agent.report import Reporter


def make_plan(folder: Path) -> Plan:
    """Make a plan below a folder."""
    return Plan(
        instance="i", workload="w-1", generation=2, session="alice-1", record_path=str(folder / "record"),
        workspace_path=str(folder / "workspace"), run_path=str(folder / "run"), checkout_name="sample", person=None,
        listen_host="127.0.0.1", port=4321, listen_descriptor=3, lock_descriptors=(4, 5),
        public_host="alice-1.localhost", default_url="/lab",
        environment=EnvironmentPlan(
            path=str(folder / "shared"), python="/usr/bin/python3", version="3.11.2",
            site_packages=str(folder / "shared" / "site"), uv=None, project=None,
        ),
        checkout=CheckoutPlan(
            origin_url="https://gitlab.example/g/p.git", relay_prefix="https://relay.example/git/alice-1/",
            rewrites=(("https://relay.example/git/alice-1/g/p", "https://gitlab.example/g/p"),), branch="main",
            is_tag=False, sha="a" * 40, author_name='Al "the" ice\\', author_email="a@example.org", fetch_lfs=False,
            budget_seconds=60.0,
        ),
        variables={"PATH": "/evil", "GREETING": "hello"}, report_url="http://127.0.0.1:9", credential="canary-secret",
        memory_bytes=0, start_budget_seconds=60.0,
    )  # fmt: skip


def test_a_plan_is_what_was_written(tmp_path: Path) -> None:
    """A plan read back is the plan that was written, and shows its credential to nobody."""
    plan = make_plan(tmp_path)

    assert plans.load(plan.dump()) == plan
    assert "canary-secret" not in repr(plan)


def test_git_reads_its_configuration(tmp_path: Path) -> None:
    """Git itself reads the credential for the relay only, the rewriting, and a name with quotes in it."""
    file = tmp_path / "gitconfig"
    file.write_text(git_configuration(make_plan(tmp_path).checkout, "canary-secret"))

    def git(*arguments: str) -> str:
        command = ["git", "config", "--file", str(file), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()

    header = "Authorization: Bearer canary-secret"
    assert git("--get-urlmatch", "http.extraHeader", "https://relay.example/git/alice-1/g/p.git") == header
    assert git("--get-urlmatch", "http.extraHeader", "https://relay.example/git/alice-2/g/p.git") == ""
    assert git("--get-urlmatch", "http.extraHeader", "https://gitlab.example/g/p.git") == ""
    assert git("url.https://relay.example/git/alice-1/g/p.insteadOf") == "https://gitlab.example/g/p"
    assert git("user.name") == 'Al "the" ice\\'


def test_private_files_are_private(tmp_path: Path) -> None:
    """Preparing writes private files of mode 0600; nothing secret is in a variable; ours beat the request's."""
    plan = make_plan(tmp_path)
    prepare(plan)
    prepare(plan)
    given = variables(plan)

    files = [path for path in plan.private.iterdir() if path.is_file()]
    assert {path.name for path in files} == {"gitconfig", "jupyter-lab", "session.json", "settings.py"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert "canary-secret" not in json.dumps(given)
    assert given["PATH"].startswith(f"{plan.own_environment}/bin:{tmp_path}/shared/bin:")
    assert (given["GREETING"], given["SLIPWAY_WORKLOAD"]) == ("hello", "w-1")


def test_some_variables_are_the_session_s_own(tmp_path: Path) -> None:
    """What is said to be the session's own is exactly what a launch cannot change."""
    plan = make_plan(tmp_path)
    asked_for = dict.fromkeys(variables(plan), "asked for")
    given = variables(replace(plan, variables=asked_for))

    assert {name for name, value in given.items() if value != "asked for"} == OWN_VARIABLES


def test_a_thin_environment_of_another_python_is_put_aside(tmp_path: Path) -> None:
    """A workspace reopened on another Python gets a new thin environment, and keeps the old one beside it."""
    plan = make_plan(tmp_path)
    assert prepare(plan) is False
    (plan.own_environment / "mine").touch()
    assert plan.environment is not None
    other = replace(plan, environment=replace(plan.environment, version="3.12.1"))

    assert prepare(other) is True
    assert prepare(other) is False
    assert not (plan.own_environment / "mine").exists()
    assert [path.name for path in plan.own_environment.parent.glob("environment-*/mine")] == ["mine"]


def test_files_are_written_whole(tmp_path: Path) -> None:
    """A private file is replaced in one step; what is no object reads as nothing."""
    path = tmp_path / "last.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    (tmp_path / "broken.json").write_text("[1")

    assert (read_json(path), stat.S_IMODE(path.stat().st_mode)) == ({"a": 2}, 0o600)
    assert read_json(tmp_path / "broken.json") is None
    assert read_json(tmp_path / "absent.json") is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["broken.json", "last.json"]


def test_a_log_is_bounded_and_keeps_its_end(tmp_path: Path) -> None:
    """A log of any length takes two parts on the disk, and its last lines are the last that were written."""
    log = BoundedLog(tmp_path / "logs" / "server.log")
    for number in range(40_000):
        log.say(f"{number:06d} {'x' * 93}")
    log.close()

    assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) <= 2 * PART_BYTES + 200
    assert [line[:6] for line in last_lines(tmp_path / "logs" / "server.log", max_lines=3)] == [
        "039997", "039998", "039999",
    ]  # fmt: skip


def test_no_limit_limits_nothing() -> None:
    """Where no limit was asked for nothing is watched."""
    limit = MemoryLimit("none", 0)

    assert (limit.must_be_watched, limit.was_exceeded()) == (False, False)
    limit.close()


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str], list[int]]]:
    """Listen to reports; yields the address, the events that came, and the statuses to answer with, in turn."""
    events: list[str] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_ours = self.headers["Authorization"] == "Bearer secret"
            events.append(body["event"] if is_ours else "?")
            self.send_response(statuses.pop(0) if statuses else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", events, statuses
    server.shutdown()
    server.server_close()
    thread.join(30)


@pytest.mark.parametrize(
    ("answers", "came"),
    [
        ([], ["step", "ready", "exited"]),
        ([503, 500, 204], ["step", "step", "step", "ready", "exited"]),
        ([429, 204], ["step", "step", "ready", "exited"]),
        ([401, 204, 404], ["step", "ready", "exited"]),
    ],
    ids=["at once", "busy", "asked for patience", "refused"],
)
def test_reports_come_in_order_until_they_arrive(
    listener: tuple[str, list[str], list[int]], answers: list[int], came: list[str]
) -> None:
    """Events arrive in their order; one that failed is told again, one that was refused is not."""
    url, events, statuses = listener
    statuses.extend(answers)
    reporter = Reporter(report_url=url, credential="secret", common={"workload": "w"})
    for event in ("step", "ready", "exited"):
        reporter.tell(event)
    reporter.close(within_seconds=5)

    assert events == came


def test_a_spawner_that_is_away_delays_no_end() -> None:
    """Closing gives up after its time, whoever does not listen."""
    reporter = Reporter(report_url="http://127.0.0.1:9", credential="secret", common={})
    body = reporter.tell("exited", "Stopped.", exit_code=0)
    reporter.close(within_seconds=0.3)

    assert (body["event"], body["message"], body["exit_code"], body["is_out_of_memory"]) == (
        "exited", "Stopped.", 0, False,
    )  # fmt: skip
