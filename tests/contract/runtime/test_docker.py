"""The docker runtime on a real daemon: what a session sees of itself, of others, and how everything ends in words.

Covers: restrictions, secrets, networks, images of any kind, refusals of a registry, ends from outside and for want of
memory, a spawner that was away, starts that broke off.
Leaves out: what every runtime promises (`test_contract.py`), a launch over HTTP (functional).
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spawner.errors import ImageUnavailable, LaunchRefused, Misconfigured, RegistryRefused
from spawner.names import CommitSha, SessionName
from spawner.ports import Health, ImageKind, Registry, Resources, State, Workload, WorkloadImage
from spawner.runtimes.docker import checking, create, spawner_socket
from spawner.runtimes.docker.runtime import DockerRuntime
from tests.containers.daemon import Daemon
from tests.containers.layout import Image
from tests.containers.registry import Guarded
from tests.contract.runtime.apart import daemon_apart
from tests.contract.runtime.conftest import Bench
from tests.contract.runtime.door import Kernel, program_headers
from tests.contract.runtime.places import Place

Repository = tuple[Path, list[CommitSha]]
_LOOK = """import json, os, resource
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
def writable(path):
    return os.access(path, os.W_OK)
print(json.dumps({
    "uid": os.getuid(), "capabilities": int(status["CapBnd"], 16), "privileges": int(status["NoNewPrivs"]),
    "filter": int(status["Seccomp"]), "greeting": os.environ["GREETING"], "preload": "LD_PRELOAD" in os.environ,
    "written": [path for path in ("/slipway/tools", "/slipway/spawner", "/usr", "/etc") if writable(path)],
    "home": os.environ["HOME"], "temporary": os.environ["TMPDIR"], "folder": os.getcwd(),
    "disks": sorted(os.listdir("/dev/disk")) if os.path.isdir("/dev/disk") else [],
}))"""


@pytest.fixture
def docked(
    docker: DockerRuntime, place: Place, repository: Repository, container_image: WorkloadImage
) -> Iterator[Bench]:
    """Yield the docker runtime, and end what a test left running."""
    bench = Bench(runtime=docker, place=place, commits=repository[1], image=container_image)
    before = {owned.workload for owned in docker.inventory()}
    yield bench
    for owned in [each for each in docker.inventory() if each.workload not in before]:
        docker.stop(owned.state, grace_seconds=0)
        bench.until(owned.state, Health.GONE, within_seconds=60)


@pytest.fixture(scope="module")
def opened(
    docker: DockerRuntime, place: Place, repository: Repository, container_image: WorkloadImage
) -> Iterator[tuple[Bench, Workload, State]]:
    """Keep one running session for the tests that do not end it."""
    bench = Bench(runtime=docker, place=place, commits=repository[1], image=container_image)
    workload = bench.workload("shared", session=SessionName("alice-shared-2"))
    state = bench.run(workload)
    bench.until(state, Health.READY)
    yield bench, workload, state
    docker.stop(state, grace_seconds=0)
    bench.until(state, Health.GONE, within_seconds=60)


def _loaded(daemon: Daemon, image: Image, folder: Path) -> WorkloadImage:
    """Load an image into a daemon without any registry; it is named by its own digest there."""
    image.archive(folder / "image.tar", "slipway/loaded:1")
    daemon.run("load", "--input", str(folder / "image.tar"))
    identity = daemon.run("image", "inspect", "--format", "{{.Id}}", "slipway/loaded:1")
    return WorkloadImage(reference=identity, digest=identity, kind=ImageKind.CONTAINER)


# ---------------------------------------------------------------- what a session sees


def test_a_session_has_no_powers_and_shows_no_secret(
    opened: tuple[Bench, Workload, State], docker_daemon: Daemon
) -> None:
    """An ordinary user without capabilities, behind the system's filter; nothing Docker tells has the credential."""
    bench, workload, state = opened
    with Kernel(state=state, headers=program_headers(bench.place, state)) as kernel:
        seen = json.loads(kernel.run(_LOOK))
    told = docker_daemon.run("inspect", workload.name) + docker_daemon.run("logs", workload.name)

    assert seen == {
        "uid": 1000, "capabilities": 0, "privileges": 1, "filter": 2, "greeting": "hello", "preload": False,
        "written": [], "home": "/home/jovyan", "temporary": "/workspace/.slipway/tmp",
        "folder": "/workspace/work/sample", "disks": [],
    }  # fmt: skip
    assert workload.credential not in told
    assert "hello" not in json.dumps(json.loads(docker_daemon.run("inspect", workload.name))[0]["Config"]["Env"])


def test_any_image_can_hold_the_agent(docked: Bench, docker_daemon: Daemon, tiny_image: Image, tmp_path: Path) -> None:
    """The agent runs where there is no Python and no C library, and says what the image lacks."""
    state = docked.run(docked.workload("tiny", image=_loaded(docker_daemon, tiny_image, tmp_path)))
    seen = docked.until(state, Health.EXITED, within_seconds=60)

    assert (seen.exit_code, seen.message) == (
        1,
        "Git could not check out " + docked.commits[0][:7] + ": there is no Git here.",
    )


def test_sessions_do_not_reach_each_other(
    shared_root: Path, repository: Repository, python_image: Image, tmp_path: Path
) -> None:
    """Two sessions of one service: neither reaches the other's port, by no address; each reaches its own."""
    serving = replace(python_image, config={
        **python_image.config, "Entrypoint": ["/bin/sh", "-c", "exec python3 -m http.server 9000"],
    })  # fmt: skip
    root = shared_root / "apart"
    registry: Registry = None  # type: ignore[assignment] # the image is there
    with daemon_apart() as daemon, Place(credential="apart", served=repository[0].parents[1]) as place:
        place.listen_at(spawner_socket(root))
        runtime = create(root=root, instance="apart", registry=registry, host=daemon.address)
        bench = Bench(runtime=runtime, place=place, commits=repository[1], image=_loaded(daemon, serving, tmp_path))
        states = [bench.run(bench.workload(name)) for name in ("one", "other")]
        addresses = [_address(daemon, state) for state in states]
        one, other = states
        own = [
            _reaches(daemon, each, address, 9000, tries=300) for each, address in zip(states, addresses, strict=True)
        ]
        reached = [_reaches(daemon, one, addresses[1], 9000), _reaches(daemon, other, addresses[0], 9000)]
        gateway = addresses[0].rpartition(".")[0] + ".1"
        published = _reaches(daemon, one, gateway, int(other["port"]))
        looks = list(checking.check(host=daemon.address, network="slipway-apart"))
        daemon.run("rm", "--force", *(str(state["workload"]) for state in states))

    assert (own, reached, published) == ([True, True], [False, False], False)
    assert all(look.is_right for look in looks if "free" not in look.message)


def _address(daemon: Daemon, state: State) -> str:
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return daemon.run("inspect", "--format", template, str(state["workload"]))


def _reaches(daemon: Daemon, state: State, address: str, port: int, *, tries: int = 1) -> bool:
    """Try from inside a session, so often while nothing listens there yet."""
    code = f"""import socket, time
for _ in range({tries}):
    try:
        socket.create_connection(({address!r}, {port}), 1).close(); print("reached"); break
    except ConnectionRefusedError:
        time.sleep(0.2)
    except OSError:
        break"""
    return daemon.run("exec", str(state["workload"]), "python3", "-c", code) == "reached"


def test_a_network_that_joins_sessions_is_refused(docked: Bench, docker_daemon: Daemon, shared_root: Path) -> None:
    """A network of that name that lets containers talk is not used, and the doctor says so."""
    docker_daemon.run("network", "create", "joined")
    try:
        runtime = create(
            root=shared_root / "docker", instance="tests", registry=_registry(docked), host=docker_daemon.address,
            network="joined",
        )  # fmt: skip
        with pytest.raises(Misconfigured, match="reach each other"):
            list(runtime.start(docked.workload("joined")))
        looks = list(checking.check(host=docker_daemon.address, network="joined"))
    finally:
        docker_daemon.run("network", "rm", "joined")

    assert [look.message for look in looks if not look.is_right and "network" in look.message] == [
        "the network joined lets sessions reach each other"
    ]


# ---------------------------------------------------------------- images


def test_a_pull_is_told_in_layers(docked: Bench, tiny_image: Image, container_registry: Guarded) -> None:
    """An image that is not here is pulled, and its steps count layers; a second start has it already."""
    client = container_registry.client()
    unlike = replace(tiny_image, config={**tiny_image.config, "Labels": {"like": "none that is here"}})
    digest = unlike.push(client, "bases/pulled", "1")
    client.close()
    assert docked.image is not None
    reference = f"{container_registry.address}/bases/pulled@{digest}"
    image = replace(docked.image, reference=reference, digest=digest)
    told = [step.message for step in docked.runtime.start(docked.workload("pulled", image=image))]
    again = [step.message for step in docked.runtime.start(docked.workload("again", image=image))]

    assert any(message.startswith("Pulling the image: 1 of 1 layers") for message in told), told
    assert not any(message.startswith("Pulling") for message in again)


def test_a_registry_refuses_in_its_own_words(docked: Bench, container_registry: Guarded) -> None:
    """Without a person's right the pull is refused, as such; an image that is not there is gone."""
    absent = f"{container_registry.address}/bases/notebook@sha256:{'1' * 64}"
    assert docked.image is not None
    refused = replace(docked.image, reference=absent, digest=f"sha256:{'1' * 64}", pull_credential=None)

    with pytest.raises(RegistryRefused, match="does not let"):
        list(docked.runtime.start(docked.workload("refused", image=refused)))
    gone = replace(refused, pull_credential=docked.image.pull_credential)
    with pytest.raises(ImageUnavailable, match="is gone"):
        list(docked.runtime.start(docked.workload("gone", image=gone)))


# ---------------------------------------------------------------- ends


def test_a_container_killed_from_outside_is_said_so(docked: Bench, docker_daemon: Daemon) -> None:
    """Its log can be read while it lies there; a stop removes it and keeps the log."""
    state = docked.run(docked.workload("killed"))
    docked.until(state, Health.READY)
    docker_daemon.run("kill", str(state["workload"]))
    seen = docked.until(state, Health.EXITED, within_seconds=60)
    lines = list(docked.runtime.logs(state, max_lines=50))
    docked.runtime.stop(state, grace_seconds=1)
    docked.until(state, Health.GONE, within_seconds=60)

    assert (seen.exit_code, seen.message) == (137, "The session was ended from outside.")
    assert any("Checked out" in line.text for line in lines if line.container == "git-clone")
    assert [*docked.runtime.logs(state, max_lines=50)] == lines
    assert docker_daemon.run("ps", "--all", "--quiet", "--filter", f"name={state['workload']}") == ""


def test_a_container_that_was_removed_is_gone(docked: Bench, docker_daemon: Daemon) -> None:
    """Whoever removes a container ends its session; nothing is asked of what is not there."""
    state = docked.run(docked.workload("removed"))
    docker_daemon.run("rm", "--force", str(state["workload"]))

    assert docked.runtime.observe([state])[0].health is Health.GONE
    docked.runtime.stop(state, grace_seconds=1)
    assert list(docked.runtime.logs(state, max_lines=5)) == []


def test_want_of_memory_is_said_so(docked: Bench) -> None:
    """A server that is killed because its session took too much memory ends it, with that sentence."""
    limit = 400 << 20
    state = docked.run(docked.workload("memory", resources=Resources(cpu_cores=1, memory_bytes=limit, storage_bytes=0)))
    docked.until(state, Health.READY)
    code = """import os
for name in os.listdir("/proc"):
    if name.isdigit() and b"jupyter-lab" in open(f"/proc/{name}/cmdline", "rb").read():
        open(f"/proc/{name}/oom_score_adj", "w").write("1000")
keep = []
os.posix_spawn("/usr/bin/python3", ["python3", "-c", "x = []\\nwhile True: x.append(bytearray(1 << 20))"], os.environ)
print("begun")"""
    with Kernel(state=state, headers=program_headers(docked.place, state)) as kernel:
        assert kernel.run(code) == "begun"
    seen = docked.until(state, Health.EXITED, within_seconds=60)

    assert (seen.is_out_of_memory, seen.message) == (True, "The session needed more memory than it may have.")


# ---------------------------------------------------------------- spawners that come and go


def test_a_spawner_that_was_away_finds_everything(
    opened: tuple[Bench, Workload, State], docker_daemon: Daemon, shared_root: Path
) -> None:
    """A runtime made anew sees a running session, adopts it, and tells what it uses."""
    bench, workload, state = opened
    anew = create(root=shared_root / "docker", instance="tests", registry=_registry(bench), host=docker_daemon.address)

    assert anew.observe([state])[0].health is Health.READY
    assert [step.state for step in anew.start(workload)] == [state]
    seen = anew.observe([state])[0]
    assert seen.memory_bytes is not None
    assert seen.memory_bytes > 10_000_000
    assert seen.cpu_cores is not None


def test_a_container_that_never_ran_is_made_anew(docked: Bench, docker_daemon: Daemon) -> None:
    """A start whose process died between making and starting the container is completed by the next one."""
    workload = docked.workload("half")
    steps = docked.runtime.start(workload)
    state = next(step.state for step in steps if step.state["port"] is not None)
    docker_daemon.run("create", "--name", workload.name, "--label", "io.slipway.instance=tests",
                      "--label", f"io.slipway.state={json.dumps(dict(state))}", "--label", "io.slipway.annotations={}",
                      docked.image.reference if docked.image else "")  # fmt: skip
    assert docked.runtime.observe([state])[0].health is Health.STARTING

    docked.until(docked.run(workload), Health.READY)


def test_somebody_elses_container_is_left_alone(docked: Bench, docker_daemon: Daemon) -> None:
    """A container of our name that is not ours is neither used nor ended; the launch says what to do."""
    workload = docked.workload("foreign")
    docker_daemon.run("run", "--detach", "--name", workload.name, "--entrypoint", "sleep",
                      docked.image.reference if docked.image else "", "1000")  # fmt: skip
    try:
        with pytest.raises(LaunchRefused, match="not of this service"):
            list(docked.runtime.start(workload))
        assert docker_daemon.run("inspect", "--format", "{{.State.Running}}", workload.name) == "true"
    finally:
        docker_daemon.run("rm", "--force", workload.name)


def _registry(bench: Bench) -> Registry:
    assert isinstance(bench.runtime, DockerRuntime)
    return bench.runtime.registry
