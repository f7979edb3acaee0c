"""Two people on one machine: what root's runtime keeps apart, and what an ordinary account says instead.

Covers: user ids, folders, processes and their variables, arguments, ports, the spawner's own files, admission.
Leaves out: what the pages and the API hide (functional suites).
"""

import functools
import json
import os
from collections.abc import Callable
from typing import ParamSpec

import pytest

from spawner.errors import SecondPerson
from spawner.names import SessionName, UserId
from spawner.ports import Health, State
from spawner.runtimes.standalone import StandaloneRuntime
from tests.contract.runtime.conftest import Bench
from tests.contract.runtime.door import Kernel, ask, program_headers

P = ParamSpec("P")
_LOOK = """import glob, json, os, subprocess
def read(path):
    try:
        return open(path, "rb").read().decode(errors="replace")
    except OSError:
        return ""
pids = [name for name in os.listdir("/proc") if name.isdigit()]
seen = "".join(read(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ", "maps", "mountinfo"))
for root, folders, files in os.walk(ROOT):
    if "/environments" in root or "/interpreters" in root:
        continue
    seen += root + " ".join(files) + "".join(read(os.path.join(root, name)) for name in files)
seen += subprocess.run(["ps", "auxwwe"], capture_output=True, text=True).stdout
for path in PATHS:
    seen += read(path) + " ".join(glob.glob(path + "/*"))
print(json.dumps({"uid": os.getuid(), "groups": os.getgroups(), "seen": [word for word in WORDS if word in seen]}))
"""


def kept_apart(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test of separation as root; as an ordinary account, where people cannot be separated, prove the refusal."""

    @functools.wraps(test)
    def run(*arguments: P.args, **fixtures: P.kwargs) -> None:
        if os.geteuid() == 0:
            test(*arguments, **fixtures)
            return
        runtime = next(each for each in fixtures.values() if isinstance(each, StandaloneRuntime | Bench))
        doorkeeper = runtime.runtime if isinstance(runtime, Bench) else runtime
        assert isinstance(doorkeeper, StandaloneRuntime)
        doorkeeper.admit(UserId("7"), "alice")
        with pytest.raises(SecondPerson):
            doorkeeper.admit(UserId("8"), "bob")
        doorkeeper.release(UserId("7"))

    return run


def _two(real: Bench) -> tuple[State, State]:
    alice = real.workload("alice", session=SessionName("alice-secret-1"))
    bob = real.workload("bob", session=SessionName("bob-other-1"), user_id=UserId("8"), username="bob")
    states = (real.run(alice), real.run(bob))
    for state in states:
        real.until(state, Health.READY)
    return states


@kept_apart
def test_another_person_sees_nothing(real: Bench) -> None:
    """A notebook of one person finds nothing of another's session: no file, variable, argument, process or folder."""
    alice, bob = _two(real)
    assert isinstance(real.runtime, StandaloneRuntime)
    root = real.runtime.root
    words = [alice["workload"], alice["workspace"], alice["session"], "alice-canary"]
    folder = root / "workspaces" / alice["workspace"]
    (folder / "work" / "sample" / "canary.txt").write_text("alice-canary")
    paths = [str(folder), str(folder / ".slipway" / "session.json"), str(folder / "work" / "sample" / "canary.txt")]
    paths += [str(root), str(root / "workloads" / alice["workload"] / "record.json"), str(root / "people.json")]
    code = f"ROOT, PATHS, WORDS = {str(root)!r}, {paths!r}, {words!r}\n{_LOOK}"
    with Kernel(state=bob, headers=program_headers(real.place, bob)) as kernel:
        seen = json.loads(kernel.run(code))
    with Kernel(state=alice, headers=program_headers(real.place, alice)) as kernel:
        own = json.loads(kernel.run(code))

    assert seen["seen"] == []
    assert own["seen"], "the look itself must be able to find the words"
    assert seen["uid"] >= 200_000
    assert seen["uid"] != own["uid"]
    assert set(seen["groups"]) <= {seen["uid"]}


@kept_apart
def test_another_person_is_not_let_in(real: Bench) -> None:
    """One session's token and code are refused by another, and its port answers nobody without its own."""
    alice, bob = _two(real)
    bobs = program_headers(real.place, bob)

    assert ask(alice, "/api/contents", headers=bobs).status == 403
    assert ask(alice, "/api/contents").status == 403
    assert ask(bob, "/api/contents", headers=bobs).status == 200


@kept_apart
def test_another_person_cannot_hear_a_kernel(real: Bench) -> None:
    """What a kernel prints travels over sockets in a private folder, not over ports that anyone may subscribe to."""
    alice, _ = _two(real)
    with Kernel(state=alice, headers=program_headers(real.place, alice)) as kernel:
        files = kernel.run("import ipykernel; print(open(ipykernel.get_connection_file()).read())")

    assert json.loads(files)["transport"] == "ipc"


@kept_apart
def test_a_person_keeps_their_user_id(standalone: StandaloneRuntime) -> None:
    """The same person gets the same id each time, another person another one."""
    first, other = standalone.people.person(UserId("7")), standalone.people.person(UserId("8"))

    assert standalone.people.person(UserId("7")) == first
    assert first != other


@kept_apart
def test_the_shared_environment_cannot_be_changed(real: Bench) -> None:
    """A session cannot write into the environment that it shares with others."""
    state = real.run(real.workload("readonly"))
    real.until(state, Health.READY)
    code = """import os, numpy
folder = os.path.dirname(numpy.__file__)
print([os.access(path, os.W_OK) for path in (folder, folder + "/__init__.py", os.path.dirname(folder))])"""
    with Kernel(state=state, headers=program_headers(real.place, state)) as kernel:
        assert kernel.run(code) == "[False, False, False]"


def test_an_ordinary_account_admits_one_person(make_standalone: Callable[..., StandaloneRuntime]) -> None:
    """Where people cannot be kept apart a second one is refused until the first has left, and warnings are given."""
    runtime = make_standalone("ordinary", separates_people=False)
    warnings = runtime.admit(UserId("7"), "alice")

    assert any("trust as yourself" in warning for warning in warnings)
    with pytest.raises(SecondPerson):
        runtime.admit(UserId("8"), "bob")
    runtime.release(UserId("8"))
    with pytest.raises(SecondPerson):
        runtime.admit(UserId("8"), "bob")
    runtime.release(UserId("7"))
    assert runtime.admit(UserId("8"), "bob") == warnings
    runtime.release(UserId("8"))


def test_a_start_admits_again(make_standalone: Callable[..., StandaloneRuntime], real: Bench) -> None:
    """A person released between launch and start gets no session beside the one who came in between."""
    runtime = make_standalone("admits-again", separates_people=False)
    runtime.admit(UserId("7"), "alice")
    runtime.release(UserId("7"))
    runtime.admit(UserId("8"), "bob")

    with pytest.raises(SecondPerson):
        next(runtime.start(real.workload("late", user_id=UserId("7"))))
    assert runtime.admitted == (UserId("8"),)


def test_nobody_is_released_while_they_start(make_standalone: Callable[..., StandaloneRuntime], real: Bench) -> None:
    """Of two sessions the end of one does not let another person in while the other one starts."""
    runtime = make_standalone("starting", separates_people=False)
    starting = runtime.start(real.workload("starting", user_id=UserId("7")))
    next(starting)
    runtime.release(UserId("7"))

    with pytest.raises(SecondPerson):
        runtime.admit(UserId("8"), "bob")
    starting.close()  # type: ignore[attr-defined] # it is a generator
    runtime.release(UserId("7"))
    runtime.admit(UserId("8"), "bob")
    assert runtime.admitted == (UserId("8"),)


@kept_apart
def test_root_admits_everybody(standalone: StandaloneRuntime) -> None:
    """Where people are kept apart everybody is admitted, without a warning."""
    runtime = standalone

    assert (runtime.admit(UserId("7"), "alice"), runtime.admit(UserId("8"), "bob")) == ((), ())


def test_admission_survives_the_spawner(make_standalone: Callable[..., StandaloneRuntime]) -> None:
    """Who is admitted is kept in a file: a spawner that restarts refuses the second person as well."""
    make_standalone("again", separates_people=False).admit(UserId("7"), "alice")

    with pytest.raises(SecondPerson):
        make_standalone("again", separates_people=False).admit(UserId("8"), "bob")
