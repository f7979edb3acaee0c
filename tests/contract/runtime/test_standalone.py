"""The real runtime: a person's door, the repository, the thin environment, and the end of everything.

Covers: one-time codes, hosts, kernels, pip, push, tags, kept folders, an absent spawner, killed agents.
Leaves out: several people on one machine (`test_separation.py`), the cache of environments (its unit tests).
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spawner.agent import memory, processes
from spawner.names import CommitSha, SessionName
from spawner.ports import Health, RefKind, Resources, State
from spawner.runtimes.routes import PortRoutes
from spawner.runtimes.standalone import StandaloneRuntime, create
from tests.contract.runtime.conftest import Bench
from tests.contract.runtime.door import Kernel, ask, hidden_fields, program_headers
from tests.contract.runtime.looking import until
from tests.contract.runtime.places import Place, git
from tests.contract.runtime.wheels import make_wheel


@pytest.fixture(scope="module")
def opened(
    standalone: StandaloneRuntime, place: Place, repository: tuple[Path, list[CommitSha]]
) -> Iterator[tuple[Bench, State]]:
    """Keep one running session for the tests that do not end it."""
    bench = Bench(runtime=standalone, place=place, commits=repository[1])
    state = bench.run(bench.workload("shared", session=SessionName("alice-shared-1")))
    bench.until(state, Health.READY)
    yield bench, state
    standalone.stop(state, grace_seconds=0)
    bench.until(state, Health.GONE, within_seconds=20)


def test_the_address_has_a_name_of_its_own(opened: tuple[Bench, State]) -> None:
    """People get the session's own origin, programs loopback, both at the port of the state."""
    _, state = opened
    address = PortRoutes().address(SessionName("alice-shared-1"), state)

    assert address is not None
    assert address.people_url == f"http://alice-shared-1.localhost:{state['port']}/"
    assert address.programs_url == f"http://127.0.0.1:{state['port']}/"
    assert PortRoutes().address(SessionName("alice-shared-1"), {**state, "port": None}) is None


def test_a_person_enters_by_post_only(opened: tuple[Bench, State]) -> None:
    """The page sets no session cookie; its form, sent with the page's state, does, and leads to the default page."""
    bench, state = opened
    bench.place.codes["code-1"] = "alice"
    page = ask(state, "/slipway/open?code=code-1")
    sent = {"Cookie": page.cookies[0].partition(";")[0], "Origin": f"http://{state['public_host']}:{state['port']}"}
    entered = ask(state, "/slipway/open", method="POST", form=hidden_fields(page.text), headers=sent)

    assert page.status == 200
    assert [cookie.partition("=")[0].startswith("slipway-state-") for cookie in page.cookies] == [True]
    assert (entered.status, entered.headers["Location"]) == (303, "/lab")
    cookie = next(each for each in entered.cookies if each.startswith("slipway-session-"))
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    inside = ask(state, "/api/me", headers={"Cookie": cookie.partition(";")[0]})
    assert (inside.status, inside.json["identity"]["username"]) == (200, "alice")
    again = ask(state, "/slipway/open", method="POST", form=hidden_fields(page.text), headers=sent)
    assert again.status == 403


def test_a_browser_at_loopback_is_sent_to_the_own_origin(opened: tuple[Bench, State]) -> None:
    """A one-time address of loopback leads a browser to the session's own origin; no cookie is set on the way."""
    _, state = opened
    loopback = {"Host": f"127.0.0.1:{state['port']}"}
    answer = ask(state, f"/slipway/open?code=code-3&host={state['public_host']}", headers=loopback)
    stranger = ask(state, "/slipway/open?code=code-3", headers=loopback)

    own = f"http://{state['public_host']}:{state['port']}/slipway/open?code=code-3"
    assert (answer.status, answer.headers["Location"], answer.cookies) == (302, own, [])
    assert (stranger.status, stranger.cookies) == (403, []), "who does not know the session's name learns it nowhere"
    assert state["public_host"] not in stranger.text + str(stranger.headers)


@pytest.mark.parametrize(
    ("state_sent", "origin"),
    [("", None), ("another", None), ("own", "http://evil.localhost:1")],
    ids=["no state", "another state", "another origin"],
)
def test_a_forged_form_burns_no_code(opened: tuple[Bench, State], state_sent: str, origin: str | None) -> None:
    """A form that our page did not make is refused, and its code is still good."""
    bench, state = opened
    bench.place.codes["code-2"] = "alice"
    page = ask(state, "/slipway/open?code=code-2")
    form = hidden_fields(page.text)
    form["state"] = form["state"] if state_sent == "own" else state_sent
    headers = {"Cookie": page.cookies[0].partition(";")[0]} | ({"Origin": origin} if origin else {})
    answer = ask(state, "/slipway/open", method="POST", form=form, headers=headers)

    assert (answer.status, answer.cookies) == (403, [])
    assert bench.place.codes.pop("code-2") == "alice"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/contents", {}, 403),
        ("/lab", {}, 302),
        ("/api/contents?token={token}", {}, 403),
        ("/api/contents", {"Authorization": "token wrong"}, 403),
        ("/api/contents", {"Authorization": "token {token}"}, 200),
        ("/api/contents", {"Authorization": "token {token}", "Host": "evil.example"}, 403),
        ("/api/contents", {"Authorization": "token {token}", "Host": "bob-other-1.localhost"}, 403),
        ("/login", {}, 403),
        ("/slipway/open?code=unknown", {"Accept": "application/json"}, 403),
    ],
)
def test_who_gets_in(opened: tuple[Bench, State], path: str, headers: dict[str, str], status: int) -> None:
    """The session's token in a header lets in, under the session's own name or loopback; nothing else does."""
    bench, state = opened
    token = program_headers(bench.place, state)["Authorization"].removeprefix("token ")
    sent = {name: value.format(token=token) for name, value in headers.items()}

    assert ask(state, path.format(token=token), headers=sent).status == status


def test_a_kernel_runs_in_the_repository(opened: tuple[Bench, State]) -> None:
    """A cell runs on the session's own Python, in the checkout, at the commit, with the packages of the environment."""
    bench, state = opened
    code = """import json, os, subprocess, sys, numpy
print(json.dumps({
    "folder": os.path.basename(os.getcwd()), "own": sys.prefix.endswith("/environment"),
    "greeting": os.environ["GREETING"],
    "head": subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip(),
    "status": subprocess.check_output(["git", "status", "-sb", "--porcelain"], text=True).strip(),
    "author": subprocess.check_output(["git", "config", "user.email"], text=True).strip(),
    "remote": subprocess.check_output(["git", "remote", "get-url", "origin"], text=True).strip(),
}))"""
    with Kernel(state=state, headers=program_headers(bench.place, state)) as kernel:
        seen = json.loads(kernel.run(code))

    assert seen == {
        "folder": "sample",
        "own": True,
        "greeting": "hello",
        "head": bench.commits[0],
        "status": "## main...origin/main",
        "author": "alice@example.org",
        "remote": f"{bench.place.relay_url.removesuffix('.git')}.git",
    }


def test_no_secret_in_arguments_and_variables(opened: tuple[Bench, State]) -> None:
    """Neither the credential nor the token stands in an argument or a variable of any process of the session."""
    bench, state = opened
    token = program_headers(bench.place, state)["Authorization"].removeprefix("token ")
    pids = {int(state["pid"]), *processes.descendants(int(state["pid"]))}
    shown = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in ("cmdline", "environ"))

    assert len(pids) > 1
    assert bench.place.credential.encode() not in shown
    assert token.encode() not in shown


def test_pip_installs_for_one_session(opened: tuple[Bench, State], shared_root: Path) -> None:
    """`pip install` works in a session, and what it installs is nowhere but in that session."""
    bench, state = opened
    wheel = make_wheel(shared_root / "wheels", "slipsample", "1.0")
    code = f"""import subprocess, sys
print(subprocess.run(["pip", "install", "--no-index", "--no-deps", {str(wheel)!r}], capture_output=True, text=True))
import importlib; importlib.invalidate_caches(); import slipsample; print("FILE", slipsample.__file__)"""
    with Kernel(state=state, headers=program_headers(bench.place, state)) as kernel:
        printed = kernel.run(code)

    workspace = f"/workspaces/{state['workspace']}/environment/lib/"
    assert workspace in printed.partition("FILE ")[2], printed


def test_a_commit_is_pushed_from_the_session(
    opened: tuple[Bench, State], repository: tuple[Path, list[CommitSha]]
) -> None:
    """A commit made in the session is pushed through the relay by the session's credential, without a prompt."""
    bench, state = opened
    code = """import subprocess
open("new.txt", "w").write("new")
for command in ("git checkout -q -b work", "git add new.txt", "git commit -q -m New", "git push -q -u origin work"):
    subprocess.run(command.split(), check=True, capture_output=True)
print(subprocess.check_output(["git", "rev-parse", "HEAD"], text=True))
subprocess.run("git checkout -q main".split(), check=True)"""
    with Kernel(state=state, headers=program_headers(bench.place, state)) as kernel:
        sha = kernel.run(code)

    assert git(repository[0], "rev-parse", "work") == sha


def test_a_session_on_every_address_answers_to_its_own_name(
    real: Bench, make_standalone: Callable[..., StandaloneRuntime]
) -> None:
    """Beyond loopback a session has the name that it is given; another one does not let in, loopback does."""
    runtime = make_standalone(public_host_suffix="sessions.example.org", listen_host="0.0.0.0")  # noqa: S104 - the case
    bench = Bench(runtime=runtime, place=real.place, commits=real.commits)
    state = bench.run(bench.workload("wide", session=SessionName("alice-wide-1")))
    bench.until(state, Health.READY)
    headers = program_headers(bench.place, state)
    hosts = ("alice-wide-1.sessions.example.org", "127.0.0.1", "evil.example", "alice-wide-1.localhost")
    statuses = [ask(state, "/api/contents", headers={**headers, "Host": host}).status for host in hosts]
    runtime.stop(state, grace_seconds=0)

    assert statuses == [200, 200, 403, 403]
    bench.until(state, Health.GONE, within_seconds=20)


def test_a_tag_is_checked_out_detached(real: Bench) -> None:
    """A tag's session stands on its commit without a branch, and its log says so."""
    checkout = real.checkout(branch="v1", ref_kind=RefKind.TAG)
    workload = real.workload("tag", checkout=checkout)
    state = real.run(workload)
    real.until(state, Health.READY)

    folder = real_root(real) / "workspaces" / workload.workspace / "work" / "sample"
    assert git(folder, "-c", "safe.directory=*", "rev-parse", "HEAD", "v1") == f"{real.commits[0]}\n{real.commits[0]}"
    assert (folder / ".git" / "HEAD").read_text().strip() == real.commits[0]
    assert any("detached" in line.text for line in real.runtime.logs(state, max_lines=50))


def test_a_kept_folder_is_left_as_it_was(real: Bench) -> None:
    """The next generation on the same workspace finds every change, and nothing is fetched or reset."""
    first = real.workload("kept")
    state = real.run(first)
    real.until(state, Health.READY)
    with Kernel(state=state, headers=program_headers(real.place, state)) as kernel:
        kernel.run("open('README.md', 'w').write('changed'); open('mine.txt', 'w').write('mine')")
    real.runtime.stop(state, grace_seconds=5)
    real.until(state, Health.GONE)
    before = len(real.place.git_requests)
    second = replace(first, name=real.workload("kept").name, generation=2)
    state = real.run(second)
    real.until(state, Health.READY)

    folder = real_root(real) / "workspaces" / first.workspace / "work" / "sample"
    assert [(folder / name).read_text() for name in ("README.md", "mine.txt")] == ["changed", "mine"]
    assert len(real.place.git_requests) == before
    assert "Reopened" in " ".join(line.text for line in real.runtime.logs(state, max_lines=50))


def test_a_busy_relay_is_asked_again(real: Bench) -> None:
    """A relay that answers 503 for a moment delays a start, and ends nothing."""
    real.place.refusals_left = 2
    state = real.run(real.workload("busy"))

    real.until(state, Health.READY)
    assert real.place.refusals_left == 0


def test_a_commit_that_is_not_there_ends_in_words(real: Bench) -> None:
    """A commit that the relay does not have ends the session at once, with Git's sentence."""
    state = real.run(real.workload("absent", checkout=real.checkout(sha=CommitSha("0" * 40))))
    seen = real.until(state, Health.EXITED, within_seconds=20)

    assert seen.exit_code == 1
    assert "could not check out 0000000" in seen.message


def test_ready_and_exited_are_reported(real: Bench) -> None:
    """The agent reports its steps, ready and exited, each once, with the generation and the port."""
    workload = real.workload("reports")
    state = real.run(workload)
    ready = real.place.wait_for("ready", workload.name)
    real.runtime.stop(state, grace_seconds=5)
    real.place.wait_for("exited", workload.name)

    events = [report["event"] for report in real.place.reports if report["workload"] == workload.name]
    assert [event for event in events if event != "step"] == ["ready", "exited"]
    assert events.index("step") < events.index("ready")
    assert (ready["generation"], ready["port"]) == (1, state["port"])


def test_a_spawner_that_was_away_finds_everything(real: Bench, standalone: StandaloneRuntime) -> None:
    """A runtime made anew sees a running session as ready, and the last word of one that ended while it was away."""
    nowhere = replace(real.workload("away"), report_url="http://127.0.0.1:9")
    state = real.run(nowhere)
    anew = create(root=standalone.root, instance="tests", registry=standalone.registry)
    until(lambda: anew.observe([state])[0].health is Health.READY or None, what="ready", within_seconds=30)
    kill_server(state)

    seen = until(
        lambda: next((o for o in anew.observe([state]) if o.health is Health.EXITED), None),
        what="exited",
        within_seconds=20,
    )
    assert (seen.exit_code, seen.message) == (137, "JupyterLab ended by signal 9.")


def test_a_stop_ends_daemons_too(real: Bench) -> None:
    """What a notebook started and detached, with a session of its own and no variables, ends with the session."""
    state = real.run(real.workload("daemon"))
    real.until(state, Health.READY)
    with Kernel(state=state, headers=program_headers(real.place, state)) as kernel:
        kernel.run("import subprocess; subprocess.run('env -i setsid -f sleep 1000', shell=True)")
    agent = int(state["pid"])
    daemons = processes.descendants(agent)
    assert any(b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in daemons)

    real.runtime.stop(state, grace_seconds=5)
    real.until(state, Health.GONE, within_seconds=20)
    assert {pid for pid in daemons if processes.identity(pid) is not None} == set()


@pytest.mark.parametrize("way", ["alone", "beside another"])
def test_a_killed_agent_takes_its_session_with_it(real: Bench, way: str) -> None:
    """When the agent is killed its server dies at once, and with it all that it started, whatever that has hidden.

    A daemon without variables is known by its person where they have no other session, else by its control group,
    where one could be made; an ordinary account has neither.
    """
    other = real.run(real.workload("other")) if way == "beside another" else None
    state = real.run(real.workload("killed", resources=Resources(cpu_cores=1, memory_bytes=2 << 30, storage_bytes=0)))
    for each in filter(None, (other, state)):
        real.until(each, Health.READY)
    is_known = os.geteuid() == 0 and (way == "alone" or memory.members(str(state["workload"])))
    hidden = "env -i setsid -f sleep 1000; " if is_known else ""
    with Kernel(state=state, headers=program_headers(real.place, state)) as kernel:
        kernel.run(f"import subprocess; subprocess.run('{hidden}setsid -f sleep 1000', shell=True)")
    agent = int(state["pid"])
    below = processes.descendants(agent)
    os.kill(agent, signal.SIGKILL)

    seen = real.until(state, Health.EXITED)
    assert "outside" in seen.message
    until(
        lambda: True if not any(processes.identity(pid) for pid in below) else None,
        what="everything ended",
        within_seconds=30,
    )
    real.runtime.stop(state, grace_seconds=0)
    real.until(state, Health.GONE)
    if other is not None:
        assert real.runtime.observe([other])[0].health is Health.READY


def test_a_session_gets_no_more_memory_than_its_class(real: Bench) -> None:
    """A cell that takes more than the session may have fails or dies with its kernel; the server stays."""
    limit = 600 << 20
    state = real.run(real.workload("memory", resources=Resources(cpu_cores=1, memory_bytes=limit, storage_bytes=0)))
    real.until(state, Health.READY)
    code = """import os
child = os.fork()
if child == 0:
    try:
        greedy = b"x" * (1 << 30)
        os._exit(7)
    except BaseException:
        os._exit(1)
print(os.waitpid(child, 0)[1])"""
    with Kernel(state=state, headers=program_headers(real.place, state)) as kernel:
        status = kernel.run(code)

    assert status != str(7 << 8), "a gigabyte was had"
    assert real.runtime.observe([state])[0].health is Health.READY


def kill_server(state: State) -> None:
    """Kill a session's server, and nothing else."""
    agent = int(state["pid"])
    server = next(
        pid for pid in processes.descendants(agent) if b"jupyter-lab" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(server, signal.SIGKILL)


def real_root(bench: Bench) -> Path:
    """Return where the real runtime keeps everything."""
    assert isinstance(bench.runtime, StandaloneRuntime)
    return bench.runtime.root
