"""A session's container, as the Docker API wants it, and the files that are laid into it.

For: the runtime.
Promises: pure; no secret in an argument, a variable or a label: the plan is a file in the workspace, the session's
user's alone, which the agent removes before anything of the session runs; restricted as a pod would be: an ordinary
user, no capability, no new privilege, limits on memory, processors and processes, a network that leads to no other
session, a port on loopback and nowhere else.
Must not know: the daemon, settings.
Source: Docker Engine API 1.41, `POST /containers/create`.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spawner.agent.plan import Plan
from spawner.ports import Resources, State, Workload
from spawner.runtimes.docker import tools
from spawner.runtimes.docker.facts import ImageFacts

INSTANCE_LABEL = "io.slipway.instance"
_STATE_LABEL = "io.slipway.state"
_ANNOTATIONS_LABEL = "io.slipway.annotations"
_STOP_FILE = "stop.json"
WORKSPACE = PurePosixPath("/workspace")
GIT_CONFIGURATION = "/etc/gitconfig"
_TOOLS = PurePosixPath("/slipway/tools")
_SPAWNER = PurePosixPath("/slipway/spawner")
SPAWNER_SOCKET = "web.sock"
SPAWNER_PORT = 7878  # of the container's own loopback: any number that no server of a session is likely to use
RUN = PurePosixPath("/tmp/slipway")  # noqa: S108 - in a memory of the container's own; short, as paths of sockets must be
LISTEN_HOST = "0.0.0.0"  # noqa: S104 - of the container; it is published on the machine's loopback alone
_TEMPORARY = "rw,nosuid,nodev,exec,mode=1777,size=256m"  # for sockets; temporary files go to the workspace
_NANOS = 1_000_000_000
_LOG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}  # as `spawner.agent.output` bounds it


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where containers of one runtime stand: folders of this machine, and limits of every session.

    `tools` is the folder of all releases' tools.
    """

    instance: str
    tools: Path
    spawner: Path
    network: str
    processes_limit: int


def spawner_socket() -> str:
    """Return where a container finds the spawner's socket."""
    return str(_SPAWNER / SPAWNER_SOCKET)


def record_path(workload: str) -> PurePosixPath:
    """Return the folder of a workload's plan, in its container."""
    return WORKSPACE / ".slipway" / workload


def volume_name(workspace: str) -> str:
    """Return the name of a workspace's volume."""
    return f"slipway-{workspace}"


def body(workload: Workload, state: State, image: ImageFacts, place: Place, *, tools_folder: Path) -> dict[str, Any]:
    """Return the container of a workload, on the tools of this release."""
    assert workload.image is not None  # noqa: S101 - the runtime refuses others before
    port = f"{state['port']}/tcp"
    return {
        "Image": workload.image.reference,
        "Entrypoint": tools.command(_TOOLS, record_path(workload.name) / "plan.json"),
        "Cmd": [],
        "User": image.user,
        "WorkingDir": "/",
        "Env": ["LD_PRELOAD="],  # the agent's own; the session's programs get the image's
        "Labels": labels(workload, state, place.instance),
        "ExposedPorts": {port: {}},
        "Healthcheck": {"Test": ["NONE"]},  # an image's own would start programs beside the agent
        "HostConfig": {
            "Mounts": [
                _bound(tools_folder, _TOOLS),
                _bound(place.spawner, _SPAWNER),
                {"Type": "volume", "Source": volume_name(workload.workspace), "Target": str(WORKSPACE)},
            ],
            "Tmpfs": {"/tmp": _TEMPORARY},  # noqa: S108 - the container's own
            "NetworkMode": place.network,
            "PortBindings": {port: [{"HostIp": "127.0.0.1", "HostPort": str(state["port"])}]},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": place.processes_limit,
            "IpcMode": "private",
            "LogConfig": _LOG,
            "RestartPolicy": {"Name": "no"},
            **_limits(workload.resources),
        },
    }


def _bound(source: Path, target: PurePosixPath) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": str(target), "ReadOnly": True}


def _limits(resources: Resources) -> dict[str, int]:
    limits: dict[str, int] = {}
    if resources.memory_bytes:  # the same with swap: none besides
        limits |= {"Memory": resources.memory_bytes, "MemorySwap": resources.memory_bytes}
    if resources.cpu_cores:
        limits["NanoCpus"] = round(resources.cpu_cores * _NANOS)
    return limits


def labels(workload: Workload, state: State, instance: str) -> dict[str, str]:
    """Return what says whose a container is, and all that `observe` and `inventory` need."""
    return {
        "app.kubernetes.io/name": "slipway-session",
        INSTANCE_LABEL: instance,
        _STATE_LABEL: json.dumps(dict(state), sort_keys=True),
        _ANNOTATIONS_LABEL: json.dumps(dict(workload.annotations), sort_keys=True),
    }


def state_of(labels: Mapping[str, str]) -> State:
    """Return the state that a container was made with."""
    found: State = json.loads(labels[_STATE_LABEL])
    return found


def annotations_of(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return the annotations that a container was made with."""
    found: Mapping[str, str] = json.loads(labels[_ANNOTATIONS_LABEL])
    return found


# ---------------------------------------------------------------- files


def plan_files(plan: Plan, image: ImageFacts, *, git_configuration: bytes) -> bytes:
    """Return an archive of the workspace's own folders and the plan, all the session's user's alone.

    With it comes Git's configuration of the whole system: the image's own, and the include of the session's.
    """
    system = git_configuration.rstrip() + f"\n[include]\n\tpath = {plan.private}/gitconfig\n".encode()
    return _archive(plan.workload, {"plan.json": plan.dump()}, image, system=system.lstrip())


def stop_files(workload: str, *, grace_seconds: float, image: ImageFacts) -> bytes:
    """Return an archive of the wish to stop, which the agent reads when it is signalled."""
    return _archive(workload, {_STOP_FILE: json.dumps({"grace_seconds": grace_seconds})}, image)


def _archive(workload: str, files: Mapping[str, str], image: ImageFacts, *, system: bytes = b"") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        record = record_path(workload)
        for folder in (WORKSPACE, record.parent, record):
            archive.addfile(_member(folder, image, mode=0o700, kind=tarfile.DIRTYPE))
        for name, text in files.items():
            content = text.encode()
            member = _member(record / name, image, mode=0o600, kind=tarfile.REGTYPE)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if system:  # root's, readable by all
            member = tarfile.TarInfo(GIT_CONFIGURATION.lstrip("/"))
            member.size = len(system)
            archive.addfile(member, io.BytesIO(system))
    return target.getvalue()


def _member(path: PurePosixPath, image: ImageFacts, *, mode: int, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(str(path).lstrip("/"))
    member.type, member.mode, member.uid, member.gid = kind, mode, image.uid, image.gid
    return member


def names(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a listed container's names, without the slash that Docker puts before them."""
    for name in found.get("Names") or ():
        yield str(name).lstrip("/")
