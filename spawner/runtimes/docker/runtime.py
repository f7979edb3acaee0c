"""The docker runtime: a session is a container of this machine, of its commit's own image, with the agent inside.

For: one server with Docker, for any number of people: containers keep them apart.
Promises: the ports `Runtime`, `KeepsWorkspaces` and `PreparesImages`; `start` pulls the image, makes the container and
returns: cloning, starting and probing are the agent's; a container is found by its name, and what it is stands in its
labels, so a spawner that restarts finds everything. Its state: {"runtime", "instance", "workload", "generation",
"session", "workspace", "image", "listen_host", "public_host", "port" (None until chosen)}.
Must not know: settings, HTTP of the spawner, the database.
"""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from spawner.agent import probe
from spawner.agent.plan import ImagePlan, Plan
from spawner.errors import LaunchRefused, Misconfigured, RuntimeUnavailable
from spawner.names import WorkloadName
from spawner.ports import (
    Health,
    ImageKind,
    LogLine,
    Observation,
    Owned,
    Progress,
    Registry,
    State,
    Workload,
    WorkloadImage,
)
from spawner.runtimes.docker import containers, images, tools
from spawner.runtimes.docker.containers import Place
from spawner.runtimes.docker.daemon import Daemon, Taken
from spawner.runtimes.docker.facts import ImageFacts, facts_of
from spawner.runtimes.docker.records import CONTAINERS, KEPT_LINES, Printed, Record, Records, printed
from spawner.runtimes.docker.usage import Usage
from spawner.runtimes.planning import checkout_plan, folder_name, is_name

NAME = "docker"
_HOST = "127.0.0.1"
_OVERDUE_SECONDS = 15.0  # after a stop's grace, the container is killed
_PROBE_SECONDS = 2.0
_PROBES = 16
_PORT_TRIES = 3
_KILLED = 137  # 128 and SIGKILL, as shells say it
_OUT_OF_MEMORY = "The session needed more memory than it may have."
SEPARATE = {"com.docker.network.bridge.enable_icc": "false"}
_GONE = Observation(health=Health.GONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerRuntime:
    """Containers of this machine; built by `create`."""

    place: Place
    daemon: Daemon
    registry: Registry
    records: Records
    start_budget_seconds: float
    _usage: Usage = field(default_factory=Usage)

    @property
    def name(self) -> str:
        """The runtime's name in the settings."""
        return NAME

    @property
    def image_kinds(self) -> frozenset[ImageKind]:
        """Container images only."""
        return frozenset({ImageKind.CONTAINER})

    # ------------------------------------------------------------ start

    def start(self, workload: Workload) -> Iterator[Progress]:
        """Submit the workload step by step; adopts its own existing container."""
        image = self._image_of(workload)
        state = self._state(workload, image)
        found = self.daemon.container(workload.name)
        own = None if found is None else self._own(found)
        if found is not None and found["State"]["Status"] == "created":  # a start that broke off: it never ran
            self.daemon.remove(workload.name)
        elif own is not None:
            yield Progress(message="Found the session as it was", state=own)
            return
        if self.records.of(workload.name).stop is not None:
            yield Progress(message="Found the session as it was", state=state)
            return
        began_at = time.monotonic()
        yield Progress(message="Looking for the image", state=state)
        for message in self._pulled(image):
            yield Progress(message=message, state=state)
        yield Progress(message=f"The image is there ({time.monotonic() - began_at:.1f} s)", state=state)
        for _ in range(_PORT_TRIES):
            state = {**state, "port": _free_port()}
            yield Progress(message="Making the session's container and workspace", state=state)
            if self._made(workload, image, state):
                yield Progress(message="The container runs; the repository is next", state=state)
                return
        raise RuntimeUnavailable("Every port that was free was taken by somebody else at once.")

    def _image_of(self, workload: Workload) -> WorkloadImage:
        if not is_name(workload.workspace) or not is_name(workload.session):
            raise LaunchRefused(f"'{workload.workspace}' cannot name a volume.", remedy="This is a defect; report it.")
        if workload.image is None or workload.image.kind is not ImageKind.CONTAINER:
            raise LaunchRefused(
                "This runtime starts container images, and this launch has none.",
                remedy="Have the project build one, or set SPAWNER_IMAGES__DEFAULT_CONTAINER.",
            )
        return workload.image

    def _pulled(self, image: WorkloadImage) -> Iterator[str]:
        if self.daemon.image(image.reference) is None:
            login = self.registry.login(image.reference, image.pull_credential)
            yield from images.pull(self.daemon, image, login, within_seconds=self.start_budget_seconds)

    def _made(self, workload: Workload, image: WorkloadImage, state: State) -> bool:
        """Make and start the container; False when its port was taken meanwhile."""
        described = self.daemon.image(image.reference)
        if described is None:
            raise RuntimeUnavailable(f"The image {image.reference} was removed from this machine meanwhile.")
        facts = facts_of(described)
        self._ensure_network()
        self.daemon.create_volume(
            containers.volume_name(workload.workspace), labels={containers.INSTANCE_LABEL: self.place.instance}
        )
        try:
            body = containers.body(workload, state, facts, self.place, tools_folder=tools.ensure(self.place.tools))
            self.daemon.create_container(workload.name, body)
        except Taken as exc:
            raise RuntimeUnavailable(f"Another process is still starting {workload.name}.") from exc
        try:
            own = self.daemon.file(workload.name, containers.GIT_CONFIGURATION) or b""
            plan = self._plan(workload, state, facts)
            self.daemon.put_files(workload.name, containers.plan_files(plan, facts, git_configuration=own))
            self.daemon.start(workload.name)
        except Taken:
            self.daemon.remove(workload.name)
            return False
        return True

    def _ensure_network(self) -> None:
        found = self.daemon.network(self.place.network)
        if found is None:
            try:
                self.daemon.create_network(
                    self.place.network, options=SEPARATE, labels={containers.INSTANCE_LABEL: self.place.instance}
                )
            except Taken:
                found = self.daemon.network(self.place.network)
        if found is not None and not SEPARATE.items() <= (found.get("Options") or {}).items():
            raise Misconfigured(
                f"The network {self.place.network} lets sessions reach each other.",
                remedy="Remove it, and it is made anew; or name another in SPAWNER_DOCKER__NETWORK.",
            )

    def _state(self, workload: Workload, image: WorkloadImage) -> dict[str, Any]:
        return {
            "runtime": NAME,
            "instance": self.place.instance,
            "workload": workload.name,
            "generation": workload.generation,
            "session": workload.session,
            "workspace": workload.workspace,
            "image": image.reference,
            "listen_host": _HOST,
            "public_host": f"{workload.session}.localhost",
            "port": None,
        }

    def _own(self, found: Mapping[str, Any]) -> State:
        """Return the state of a container; raises LaunchRefused when it is not ours."""
        labels = found["Config"].get("Labels") or {}
        if labels.get(containers.INSTANCE_LABEL) != self.place.instance:
            raise LaunchRefused(
                f"A container {found['Name'].lstrip('/')} is there and not of this service.",
                remedy="Rename or remove it, and launch again.",
            )
        return containers.state_of(labels)

    def _plan(self, workload: Workload, state: State, image: ImageFacts) -> Plan:
        checkout = replace(workload.checkout, relay_url=_inside(workload.checkout.relay_url))
        return Plan(
            instance=self.place.instance,
            workload=workload.name,
            generation=workload.generation,
            session=workload.session,
            record_path=str(containers.record_path(workload.name)),
            workspace_path=str(containers.WORKSPACE),
            run_path=str(containers.RUN),
            checkout_name=folder_name(workload.checkout.project),
            person=None,
            listen_host=containers.LISTEN_HOST,
            port=int(state["port"]),
            listen_descriptor=None,
            lock_descriptors=(),
            public_host=str(state["public_host"]),
            default_url=workload.default_url,
            environment=None,
            image=ImagePlan(
                entrypoint=image.entrypoint,
                spawner_socket=containers.spawner_socket(),
                spawner_port=containers.SPAWNER_PORT,
            ),
            checkout=checkout_plan(checkout, budget_seconds=self.start_budget_seconds),
            variables={**image.variables, **workload.environment},
            report_url=_inside(workload.report_url),
            credential=workload.credential,
            memory_bytes=0,  # the container's limit is the daemon's to keep
            start_budget_seconds=self.start_budget_seconds,
        )

    def prepare(self, image: WorkloadImage) -> None:
        """Pull an image unless it is there, and make the tools that every session gets."""
        tools.ensure(self.place.tools)
        for _ in self._pulled(image):
            pass

    # ------------------------------------------------------------ observe

    def observe(self, states: Sequence[State]) -> Sequence[Observation]:
        """Look at many workloads with one call to the daemon; same order and length."""
        if not states:
            return []
        listed = self._listed()
        found = [listed.get(str(state["workload"])) for state in states]
        with ThreadPoolExecutor(min(_PROBES, len(states))) as threads:
            return list(threads.map(self._observe, states, found))

    def _listed(self) -> dict[str, Mapping[str, Any]]:
        label = f"{containers.INSTANCE_LABEL}={self.place.instance}"
        return {name: each for each in self.daemon.containers(label) for name in containers.names(each)}

    def _observe(self, state: State, found: Mapping[str, Any] | None) -> Observation:
        if found is None:
            return _GONE
        match found["State"]:
            case "running":
                return self._running(str(found["Id"]), containers.state_of(found["Labels"]))
            case "created":
                return Observation(health=Health.STARTING)
            case "exited" | "dead":
                return self._ended(str(state["workload"]))
            case "removing":
                return _GONE
            case other:
                return Observation(health=Health.UNKNOWN, message=f"Docker says that the container is {other}.")

    def _running(self, identity: str, state: State) -> Observation:
        record = self.records.of(str(state["workload"]))
        self._kill_overdue(record)
        if identity not in self._usage:
            answered = probe.is_answered(
                _HOST, int(state["port"]), public_host=str(state["public_host"]), within_seconds=_PROBE_SECONDS
            )
            if not answered:
                return Observation(health=Health.STARTING)
            self._usage.begin(identity)
        used = self._usage.look(identity, self.daemon.usage(record.folder.name))
        return Observation(health=Health.READY, memory_bytes=used.memory_bytes, cpu_cores=used.cpu_cores)

    def _ended(self, workload: str) -> Observation:
        record = self.records.of(workload)
        described = self.daemon.container(workload)
        if described is None:
            return _GONE
        self._usage.end(str(described["Id"]))
        said = self._printed(workload)
        if record.stop is not None:
            self._bury(record, said)
        return _last(described["State"], said, Health.EXITED if record.stop is None else Health.GONE)

    def _printed(self, workload: str) -> Printed:
        return printed(self.daemon.output(workload, max_lines=KEPT_LINES) or b"")

    def _bury(self, record: Record, said: Printed) -> None:
        """Remove a container that has ended and was to; its log is kept."""
        record.keep(said.lines)
        self.daemon.remove(record.folder.name)

    # ------------------------------------------------------------ stop

    def stop(self, state: State, *, grace_seconds: float) -> None:
        """Begin ending a container; a no-op when already gone; never waits for the grace."""
        workload = str(state["workload"])
        described = self.daemon.container(workload)
        if described is None:
            return
        self._own(described)
        record = self.records.of(workload)
        is_first = record.stop is None
        record.ask_to_stop(grace_seconds=grace_seconds)
        if described["State"]["Status"] not in {"running", "restarting", "paused"}:
            self._bury(record, self._printed(workload))
        elif is_first:
            facts = ImageFacts(user=str(described["Config"]["User"]), entrypoint=(), variables={})
            self.daemon.put_files(workload, containers.stop_files(workload, grace_seconds=grace_seconds, image=facts))
            self.daemon.signal(workload, "SIGTERM")
        else:
            self.daemon.signal(workload, "SIGTERM")
            self._kill_overdue(record)

    def _kill_overdue(self, record: Record) -> None:
        asked = record.stop
        if asked is not None and time.time() > asked["at_seconds"] + asked["grace_seconds"] + _OVERDUE_SECONDS:
            self.daemon.signal(record.folder.name, "SIGKILL")

    # ------------------------------------------------------------ logs, inventory, workspaces

    def logs(self, state: State, *, max_lines: int) -> Iterator[LogLine]:
        """Yield the last lines of each container, oldest first, also of a workload that has ended."""
        workload = str(state["workload"])
        output = self.daemon.output(workload, max_lines=KEPT_LINES)
        record = self.records.of(workload)
        for name in CONTAINERS:
            if output is None:
                lines = record.kept(name, max_lines=max_lines)
            else:
                lines = list(printed(output).lines[name][-max_lines:])
            for line in lines:
                yield LogLine(container=name, text=line)

    def inventory(self) -> Iterator[Owned]:
        """Yield every container of this instance that was not asked to stop and ended."""
        self.records.remove_old()
        for name, found in self._listed().items():
            if found["State"] in {"exited", "dead"} and self.records.of(name).stop is not None:
                self._bury(self.records.of(name), self._printed(name))
                continue
            yield Owned(
                workload=WorkloadName(name),
                state=containers.state_of(found["Labels"]),
                created_at=datetime.fromtimestamp(int(found["Created"]), UTC),
                annotations=containers.annotations_of(found["Labels"]),
            )

    def remove_workspace(self, workspace: str) -> None:
        """Delete a workspace whose retention has ended; a no-op when it is gone."""
        if not is_name(workspace):
            return
        try:
            self.daemon.remove_volume(containers.volume_name(workspace))
        except Taken as exc:
            raise RuntimeUnavailable(f"The workspace {workspace} is still in use.") from exc


def _last(status: Mapping[str, Any], said: Printed, health: Health) -> Observation:
    """Say how a container ended: in its agent's last word, else in what the daemon knows."""
    code = int(status.get("ExitCode") or 0)
    is_killed_for_memory = bool(status.get("OOMKilled")) and code == _KILLED
    is_out_of_memory = is_killed_for_memory or bool(said.last_word.get("is_out_of_memory"))
    if is_out_of_memory:
        message = _OUT_OF_MEMORY
    elif said.last_word:
        message = str(said.last_word["message"])
    elif code == _KILLED:
        message = "The session was ended from outside."
    else:
        message = f"The session's agent ended with code {code}."
    return Observation(health=health, message=message, exit_code=code, is_out_of_memory=is_out_of_memory)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind((_HOST, 0))
        return int(listening.getsockname()[1])


def _inside(url: str) -> str:
    """Return an address of the spawner as a session reaches it: through the agent's passage."""
    return urlsplit(url)._replace(scheme="http", netloc=f"127.0.0.1:{containers.SPAWNER_PORT}").geturl()
