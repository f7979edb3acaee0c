"""The pure parts of the docker runtime: the container, its user, the pull in words, an agent's output.

Covers: whole objects, tables, files. Leaves out: a daemon (tests/contract/runtime), a whole launch (tests/functional).
"""

import io
import json
import os
import stat
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from spawner.agent.plan import CheckoutPlan, ImagePlan, Plan, load
from spawner.errors import LaunchRefused, Misconfigured, RuntimeUnavailable
from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName
from spawner.ports import Checkout, ImageKind, RefKind, Registry, Resources, Workload, WorkloadImage
from spawner.runtimes import factory, names
from spawner.runtimes.docker import containers, create, images, records, spawner_socket, usage
from spawner.runtimes.docker.facts import ImageFacts, facts_of, user
from spawner.runtimes.docker.records import Records, printed

_CREDENTIAL = "session-credential-canary"
_PLACE = containers.Place(
    instance="tests", tools=Path("/data/tools"), spawner=Path("/data/spawner"), network="slipway-tests",
    processes_limit=512,
)  # fmt: skip
_STATE = {"workload": "sample-0123456-abc", "port": 41234}
_FACTS = ImageFacts(user="1000:100", entrypoint=("tini", "--"), variables={"PATH": "/opt/conda/bin"})


def _workload(**changes: object) -> Workload:
    fields: dict[str, object] = {
        "name": WorkloadName("sample-0123456-abc"),
        "generation": 1,
        "session": SessionName("alice-sample-1"),
        "user_id": UserId("7"),
        "username": "alice",
        "workspace": "sample-0123456-def",
        "image": WorkloadImage(
            reference="registry.example.org/group/sample@sha256:1", digest="sha256:1", kind=ImageKind.CONTAINER
        ),
        "checkout": Checkout(
            relay_url="https://slipway.example.org/git/alice-sample-1/group/sample.git",
            replaces=("https://gitlab.example.org/group/sample",), project=ProjectPath("group/sample"), branch="main",
            ref_kind=RefKind.BRANCH, sha=CommitSha("0" * 40), author_name="Alice", author_email="alice@example.org",
        ),
        "credential": _CREDENTIAL,
        "report_url": "https://slipway.example.org/api/slipway/v1/agent",
        "default_url": "/lab",
        "environment": {"GREETING": "hello"},
        "resources": Resources(cpu_cores=1.5, memory_bytes=2_000_000_000, storage_bytes=0),
        "annotations": {"project": "group/sample"},
        **changes,
    }  # fmt: skip
    return Workload(**fields)  # type: ignore[arg-type] # the fields' types are Workload's own


def test_the_runtime_is_found_by_its_name() -> None:
    """The entry point leads to `create`."""
    assert "docker" in names()
    assert factory("docker") is create


def test_a_container_is_restricted_and_names_no_secret() -> None:
    """The whole container: an ordinary user, no capability, no new privilege, limits, loopback, nothing secret."""
    body = containers.body(_workload(), _STATE, _FACTS, _PLACE, tools_folder=Path("/data/tools/release"))

    assert _CREDENTIAL not in json.dumps(body)
    assert body == {
        "Image": "registry.example.org/group/sample@sha256:1",
        "Entrypoint": [
            "/slipway/tools/lib/loader", "--library-path", "/slipway/tools/lib", "/slipway/tools/bin/python",
            "-I", "-S", "-B", "-m", "spawner.agent", "/workspace/.slipway/sample-0123456-abc/plan.json",
        ],
        "Cmd": [],
        "User": "1000:100",
        "WorkingDir": "/",
        "Env": ["LD_PRELOAD="],
        "Labels": {
            "app.kubernetes.io/name": "slipway-session",
            "io.slipway.instance": "tests",
            "io.slipway.state": '{"port": 41234, "workload": "sample-0123456-abc"}',
            "io.slipway.annotations": '{"project": "group/sample"}',
        },
        "ExposedPorts": {"41234/tcp": {}},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Mounts": [
                {"Type": "bind", "Source": "/data/tools/release", "Target": "/slipway/tools", "ReadOnly": True},
                {"Type": "bind", "Source": "/data/spawner", "Target": "/slipway/spawner", "ReadOnly": True},
                {"Type": "volume", "Source": "slipway-sample-0123456-def", "Target": "/workspace"},
            ],
            "Tmpfs": {"/tmp": "rw,nosuid,nodev,exec,mode=1777,size=256m"},
            "NetworkMode": "slipway-tests",
            "PortBindings": {"41234/tcp": [{"HostIp": "127.0.0.1", "HostPort": "41234"}]},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": 512,
            "IpcMode": "private",
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
            "RestartPolicy": {"Name": "no"},
            "Memory": 2_000_000_000,
            "MemorySwap": 2_000_000_000,
            "NanoCpus": 1_500_000_000,
        },
    }  # fmt: skip


def test_what_is_not_limited_is_not_named() -> None:
    """Resources of zero are no limit."""
    unlimited = _workload(resources=Resources(cpu_cores=0, memory_bytes=0, storage_bytes=0))
    host = containers.body(unlimited, _STATE, _FACTS, _PLACE, tools_folder=Path("/data/tools/release"))["HostConfig"]

    assert {"Memory", "MemorySwap", "NanoCpus"}.isdisjoint(host)


def test_labels_give_back_what_was_put_in() -> None:
    """A spawner that knows nothing reads state and annotations from the container."""
    labels = containers.labels(_workload(), _STATE, "tests")

    assert containers.state_of(labels) == _STATE
    assert containers.annotations_of(labels) == {"project": "group/sample"}


def test_the_plan_is_the_sessions_user_s_alone() -> None:
    """The archive that is unpacked in the workspace: folders and plan belong to the image's user, closed to others."""
    plan = _plan()
    files = containers.plan_files(plan, _FACTS, git_configuration=b'[filter "lfs"]\n\trequired = true\n')
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        found = {each.name: (stat.filemode(each.mode), each.isdir(), each.uid, each.gid) for each in archive}
        member = archive.extractfile(f"workspace/.slipway/{plan.workload}/plan.json")
        assert member is not None
        text = member.read().decode()
        system = archive.extractfile("etc/gitconfig")
        assert system is not None
        configuration = system.read().decode()

    folder = ("?rwx------", True, 1000, 100)
    assert found == {
        "workspace": folder, "workspace/.slipway": folder, f"workspace/.slipway/{plan.workload}": folder,
        f"workspace/.slipway/{plan.workload}/plan.json": ("?rw-------", False, 1000, 100),
        "etc/gitconfig": ("?rw-r--r--", False, 0, 0),
    }  # fmt: skip
    assert load(text) == plan
    include = "[include]\n\tpath = /workspace/.slipway/gitconfig\n"
    assert configuration == f'[filter "lfs"]\n\trequired = true\n{include}'


@pytest.mark.parametrize(
    ("named", "label", "expected"),
    [
        ("1000", "", "1000"),
        ("1000:100", "", "1000:100"),
        ("1234:users", "", "1234"),
        ("1234:0", "", "1234"),
        ("jovyan", "", "1000"),
        ("jovyan", "1500", "1500"),
        ("", "", "1000"),
        ("0", "", "1000"),
        ("0:0", "1500", "1500"),
        ("root", "0", "1000"),
        ("root", "root", "1000"),
        ("99999999999", "", "1000"),
        ("١٢", "", "1000"),
    ],
)
def test_a_session_is_never_root(named: str, label: str, expected: str) -> None:
    """The image's number, else its label's, else 1000; whatever an image says, never root."""
    assert user(named, label=label) == expected


def test_what_an_image_says() -> None:
    """User, entrypoint and variables of a description; an image that says nothing is fine."""
    described = {
        "Config": {
            "User": "jovyan", "Labels": {"io.slipway.uid": "1001"}, "Entrypoint": ["tini", "-g", "--"],
            "Env": ["PATH=/opt/conda/bin:/bin", "EMPTY=", "EQUATION=a=b"],
        }
    }  # fmt: skip

    assert facts_of(described) == ImageFacts(
        user="1001", entrypoint=("tini", "-g", "--"),
        variables={"PATH": "/opt/conda/bin:/bin", "EMPTY": "", "EQUATION": "a=b"},
    )  # fmt: skip
    assert facts_of({"Config": None}) == ImageFacts(user="1000", entrypoint=(), variables={})
    assert (facts_of(described).uid, ImageFacts(user="5:6", entrypoint=(), variables={}).gid) == (1001, 6)
    with pytest.raises(LaunchRefused):
        facts_of({"Config": {"Entrypoint": "tini --"}})


def test_a_pull_is_told_in_layers_and_megabytes() -> None:
    """Events become a sentence that changes as they come."""
    layers: dict[str, tuple[int, int]] = {}
    done: set[str] = set()
    said = []
    for layer, status, current, total in (
        ("latest", "Pulling from group/sample", 0, 0), ("a", "Pulling fs layer", 0, 0), ("b", "Already exists", 0, 0),
        ("a", "Downloading", 20_000_000, 80_000_000), ("a", "Downloading", 21_000_000, 80_000_000),
        ("a", "Downloading", 70_000_000, 80_000_000),
        ("a", "Extracting", 1, 2), ("a", "Pull complete", 0, 0),
    ):  # fmt: skip
        event = {"id": layer, "status": status, "progressDetail": {"current": current, "total": total}}
        images.count(event, layers, done)
        said.append(images.words(layers, done))

    assert list(dict.fromkeys(said)) == [
        "Pulling the image",
        "Pulling the image: 0 of 1 layers",
        "Pulling the image: 1 of 2 layers",
        "Pulling the image: 1 of 2 layers, 20 of 80 MB",
        "Pulling the image: 1 of 2 layers, 68 of 80 MB",
        "Pulling the image: 2 of 2 layers, 80 of 80 MB",
    ]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("pull access denied for group/sample, repository does not exist or may require 'docker login'", "refused"),
        ("unauthorized: authentication required", "refused"),
        ('Head "https://…": no basic auth credentials', "refused"),
        ("manifest for registry.example.org/a@sha256:1 not found: manifest unknown: manifest unknown", "gone"),
        ('Get "https://registry.example.org/v2/": dial tcp: connection refused', "away"),
        ("write /var/lib/docker/tmp/x: no space left on device", "away"),
    ],
)
def test_a_failed_pull_keeps_its_meaning(said: str, kind: str) -> None:
    """A refusal, an absence and an outage are told apart by the daemon's words."""
    error = images.told("registry.example.org/a@sha256:1", said)

    kinds = {"RegistryRefused": "refused", "ImageUnavailable": "gone", "RegistryUnavailable": "away"}
    assert kinds[type(error).__name__] == kind
    assert error.remedy


def test_usage_is_what_the_kernel_counts() -> None:
    """Memory without droppable pages in the words of both control groups; processors from the second look on."""
    newer: dict[str, Any] = {"memory_stats": {"usage": 900, "stats": {"inactive_file": 100}}}
    older: dict[str, Any] = {"memory_stats": {"usage": 900, "stats": {"total_inactive_file": 200, "cache": 500}}}
    nothing: list[dict[str, Any]] = [{}, {"memory_stats": {}}]
    assert [usage.memory_bytes(told) for told in (newer, older, *nothing)] == [800, 700, None, None]

    seen = usage.Usage()
    assert "one" not in seen
    seen.begin("one")
    first = seen.look("one", newer)
    time.sleep(0.05)
    second = seen.look("one", {**newer, "cpu_stats": {"cpu_usage": {"total_usage": 50_000_000}}})
    assert (first.cpu_cores, "one" in seen) == (None, True)
    assert second.cpu_cores is not None
    assert 0 < second.cpu_cores <= 1
    seen.end("one")
    assert "one" not in seen


def test_an_agents_output_is_read_back() -> None:
    """Lines go to the log they name, strange ones to the server's; the last word is kept apart and bounded."""
    output = b"git-clone\tChecked out.\njupyter-server\tA tab\there\nstrange\n" + b'last\t{"message": "%s"}\n' % (
        b"x" * 999
    )
    found = printed(output)

    assert found.lines == {"git-clone": ("Checked out.",), "jupyter-server": ("A tab\there", "strange")}
    assert len(str(found.last_word["message"])) == 256
    assert printed(b"last\tnot json\n").last_word == {}
    assert printed(b"last\t[1]\n").last_word == {}


def test_a_record_keeps_what_is_gone(tmp_path: Path) -> None:
    """The first stop counts; a log that was kept can be read; what ended long ago is removed; no name leads away."""
    everything = Records(folder=tmp_path)
    record = everything.of("workload")
    first = record.ask_to_stop(grace_seconds=5)
    assert record.ask_to_stop(grace_seconds=99) == first
    record.keep({"jupyter-server": ("one", "two")})
    assert record.kept("jupyter-server", max_lines=1) == ["two"]
    assert record.kept("git-clone", max_lines=1) == []
    everything.remove_old()
    assert record.folder.is_dir()
    old = time.time() - records.KEPT_SECONDS - 1
    os.utime(record.folder / "stop.json", (old, old))
    everything.remove_old()
    assert not record.folder.exists()
    with pytest.raises(LaunchRefused):
        everything.of("../elsewhere")


def test_an_absent_daemon_is_an_error_in_words(tmp_path: Path) -> None:
    """Where no Docker answers, every question ends in a sentence with a remedy, and is asked again later."""
    registry: Registry = None  # type: ignore[assignment] # nobody comes so far
    runtime = create(root=tmp_path, instance="tests", registry=registry, host=f"unix://{tmp_path}/none.sock")

    with pytest.raises(RuntimeUnavailable, match=r"none\.sock") as caught:
        runtime.observe([_STATE])
    assert "Start Docker" in caught.value.remedy
    with pytest.raises(RuntimeUnavailable):
        list(runtime.start(_workload()))
    with pytest.raises(RuntimeUnavailable):
        runtime.stop(_STATE, grace_seconds=1)
    assert runtime.observe([]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"image": None},
        {"image": WorkloadImage(reference="a@sha256:1", digest="sha256:1", kind=ImageKind.ENVIRONMENT)},
        {"workspace": "../elsewhere"},
        {"session": SessionName("a/b")},
    ],
    ids=["no image", "an environment", "a workspace elsewhere", "a session elsewhere"],
)
def test_what_can_never_start_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    """A launch that this runtime will never start is refused before Docker is asked."""
    registry: Registry = None  # type: ignore[assignment] # nobody comes so far
    runtime = create(root=tmp_path, instance="tests", registry=registry, host=f"unix://{tmp_path}/none.sock")

    with pytest.raises(LaunchRefused):
        list(runtime.start(_workload(**changes)))


def test_folders_are_closed_but_for_what_sessions_read(tmp_path: Path) -> None:
    """Sessions' users pass through to tools and socket; logs are the spawner's alone; a long path is refused."""
    spawner_socket(tmp_path)

    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("tools", "spawner", "workloads")}
    assert modes == {"tools": 0o755, "spawner": 0o711, "workloads": 0o700}
    with pytest.raises(Misconfigured, match="too long"):
        spawner_socket(tmp_path / ("x" * 100))


def _plan() -> Plan:
    return Plan(
        instance="tests", workload="sample-0123456-abc", generation=1, session="alice-sample-1",
        record_path="/workspace/.slipway/sample-0123456-abc", workspace_path="/workspace", run_path="/tmp/slipway",
        checkout_name="sample", person=None, listen_host=containers.LISTEN_HOST, port=41234, listen_descriptor=None,
        lock_descriptors=(), public_host="alice-sample-1.localhost", default_url="/lab", environment=None,
        image=ImagePlan(entrypoint=("tini", "--"), spawner_socket="/slipway/spawner/web.sock", spawner_port=7878),
        checkout=CheckoutPlan(
            origin_url="https://gitlab.example.org/group/sample.git", relay_prefix="http://127.0.0.1:7878/git/a/",
            rewrites=(("http://127.0.0.1:7878/git/a/group/sample", "https://gitlab.example.org/group/sample"),),
            branch="main", is_tag=False, sha="0" * 40, author_name="Alice", author_email="alice@example.org",
            fetch_lfs=False, budget_seconds=10,
        ),
        variables={}, report_url="http://127.0.0.1:7878/agent", credential=_CREDENTIAL, memory_bytes=0,
        start_budget_seconds=10,
    )  # fmt: skip
