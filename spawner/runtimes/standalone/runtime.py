"""The standalone runtime: sessions as processes of this machine, each under an agent of its own.

For: a laptop, a demo, a server without containers; several people only where it runs as root.
Promises: the ports `Runtime`, `KeepsWorkspaces`, `PreparesImages`, `SetsVariables` and `AdmitsPeople`; `start` installs
what must be installed, makes the agent and returns: cloning, starting and probing are the agent's; a spawner that
restarts finds everything in records. Its state: {"runtime", "instance", "workload", "generation", "session",
"workspace", "environment", "listen_host", "public_host", "port" (None until bound), "pid" (None until made)}.
Must not know: settings, HTTP, the database.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spawner.agent import memory, processes
from spawner.agent.output import last_lines
from spawner.agent.plan import MARKER, EnvironmentPlan, Plan
from spawner.agent.prepare import OWN_VARIABLES
from spawner.errors import LaunchRefused, RuntimeUnavailable
from spawner.names import UserId, WorkloadName
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
from spawner.runtimes.planning import checkout_plan, folder_name, is_name
from spawner.runtimes.standalone import images, launching, locks
from spawner.runtimes.standalone.environments import Environments, Installed
from spawner.runtimes.standalone.people import People
from spawner.runtimes.standalone.records import Record, Records

NAME = "standalone"
CONTAINERS = ("git-clone", "environment", "jupyter-server")  # in the order they speak
_OVERDUE_SECONDS = 15.0  # after a stop's grace, the agent itself is killed
_ADOPT_SECONDS = 10.0
_REMNANTS_SECONDS = 1.0  # killing takes milliseconds; a look at many workloads must not wait for one
_LOOK_AGAIN_SECONDS = 0.01
_TRUST = (
    "Sessions run on this machine's own account, beside everything else of it: launch only code you trust as yourself."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneRuntime:
    """Processes of this machine; built by `create`."""

    instance: str
    root: Path
    registry: Registry
    listen_host: str
    public_host_suffix: str
    environments: Environments
    records: Records
    people: People
    uv: Path
    variables: Mapping[str, str]
    start_budget_seconds: float

    @property
    def name(self) -> str:
        """The runtime's name in the settings."""
        return NAME

    @property
    def image_kinds(self) -> frozenset[ImageKind]:
        """Environments only."""
        return frozenset({ImageKind.ENVIRONMENT})

    @property
    def own_variables(self) -> frozenset[str]:
        """What the agent sets."""
        return OWN_VARIABLES

    # ------------------------------------------------------------ start

    def start(self, workload: Workload) -> Iterator[Progress]:
        """Submit the workload step by step; adopts its own existing process."""
        with _mapped(workload):
            yield from self._start_or_adopt(workload)

    def _start_or_adopt(self, workload: Workload) -> Iterator[Progress]:
        record = self._record_of(workload)
        lock = locks.take(record.folder / "lock")
        if lock is None or record.process is not None:
            if lock is not None:
                os.close(lock)
            yield self._adopted(workload, record)
            return
        try:
            yield from self._start(workload, record, lock)
        finally:
            os.close(lock)

    def _start(self, workload: Workload, record: Record, lock: int) -> Iterator[Progress]:
        digest = images.digest_of(workload.image)
        state = self._state(workload, digest)
        record.note("record", self._noted(workload, state))
        # Again: since the launch was accepted they may have been released. From here on they are not (`_is_held`).
        self.people.admit(workload.user_id, workload.username)
        began_at = time.monotonic()
        message = "Found the environment" if self.environments.has(digest) else "Installing the environment"
        yield Progress(message=message, state=state)
        for _ in self.environments.ensure(
            digest, images.unpacker(workload.image, self.registry), within_seconds=self.start_budget_seconds
        ):
            yield Progress(message=message, state=state)
        installed = self.environments.hold(digest)
        try:
            port = launching.open_port(self.listen_host)
            with port.listening:
                state = {**state, "port": port.number}
                record.note("record", self._noted(workload, state))
                yield Progress(message=f"The environment is there ({time.monotonic() - began_at:.1f} s)", state=state)
                plan = self._plan(workload, record, installed, port, lock)
                record.note("record", {**self._noted(workload, state), "run": plan.run_path})
                descriptors = (port.listening.fileno(), installed.lock_descriptor, lock)
                pid = launching.launch(plan, descriptors, self.variables)
            made = processes.identity(pid)
            if made is not None:  # the agent notes the same as soon as it runs; a stop may come before
                record.note("process", asdict(made))
            state = {**state, "pid": pid}
            record.note("record", {**self._noted(workload, state), "run": plan.run_path})
            yield Progress(message="Started the session's agent", state=state)
        finally:
            os.close(installed.lock_descriptor)

    def _adopted(self, workload: Workload, record: Record) -> Progress:
        """Return the state of a process that is there, or was: the same name is the same workload."""
        deadline = time.monotonic() + _ADOPT_SECONDS
        while time.monotonic() < deadline:
            noted = record.start
            if noted is not None and record.process is not None:
                return Progress(message="Found the session as it was", state=noted["state"])
            time.sleep(0.05)
        raise RuntimeUnavailable(f"Another process is still starting {workload.name}.")

    def _record_of(self, workload: Workload) -> Record:
        if not is_name(workload.workspace) or not is_name(workload.session):
            raise LaunchRefused(f"'{workload.workspace}' cannot name a folder.", remedy="This is a defect; report it.")
        record = self.records.of(workload.name)
        record.folder.mkdir(mode=0o700, exist_ok=True)
        return record

    def _state(self, workload: Workload, digest: str) -> dict[str, Any]:
        return {
            "runtime": NAME,
            "instance": self.instance,
            "workload": workload.name,
            "generation": workload.generation,
            "session": workload.session,
            "workspace": workload.workspace,
            "environment": digest,
            "listen_host": self.listen_host,
            "public_host": f"{workload.session}.{self.public_host_suffix}",
            "port": None,
            "pid": None,
        }

    def _noted(self, workload: Workload, state: State) -> dict[str, Any]:
        person = self.people.person(workload.user_id)
        return {
            "instance": self.instance,
            "uid": None if person is None else person.uid,
            "state": dict(state),
            "annotations": dict(workload.annotations),
            "created_at": datetime.now(UTC).isoformat(),
        }

    def _plan(self, workload: Workload, record: Record, installed: Installed, port: launching.Port, lock: int) -> Plan:
        person = self.people.person(workload.user_id)
        workspace = self.root / "workspaces" / workload.workspace
        workspace.mkdir(mode=0o700, exist_ok=True)
        if person is not None:
            os.chown(workspace, person.uid, person.gid, follow_symlinks=False)
        return Plan(
            instance=self.instance,
            workload=workload.name,
            generation=workload.generation,
            session=workload.session,
            record_path=str(record.folder),
            workspace_path=str(workspace),
            run_path=str(launching.run_folder(self.root)),
            checkout_name=folder_name(workload.checkout.project),
            person=person,
            listen_host=self.listen_host,
            port=port.number,
            listen_descriptor=port.listening.fileno(),
            lock_descriptors=(installed.lock_descriptor, lock),
            public_host=f"{workload.session}.{self.public_host_suffix}",
            default_url=workload.default_url,
            environment=EnvironmentPlan(
                path=str(installed.path),
                python=installed.python,
                version=installed.version,
                site_packages=installed.site_packages,
                uv=str(self.uv),
                project=installed.project,
            ),
            checkout=checkout_plan(workload.checkout, budget_seconds=self.start_budget_seconds),
            variables={**launching.inherited(self.variables), **workload.environment},
            report_url=workload.report_url,
            credential=workload.credential,
            memory_bytes=workload.resources.memory_bytes,
            start_budget_seconds=self.start_budget_seconds,
        )

    def prepare(self, image: WorkloadImage) -> None:
        """Install an image's environment, at the lowest priority, unless it is there or being installed."""
        try:
            self.environments.prepare(images.digest_of(image), images.unpacker(image, self.registry))
        except OSError as exc:
            raise RuntimeUnavailable(f"No environment can be installed here: {exc.strerror}.") from exc

    # ------------------------------------------------------------ observe

    def observe(self, states: Sequence[State]) -> Sequence[Observation]:
        """Look at many workloads at once; same order and length."""
        return [self._observe(self.records.of(str(state["workload"]))) for state in states]

    def _observe(self, record: Record) -> Observation:
        process = record.process
        is_alive = process is not None and processes.is_alive(process)
        last = record.last
        if process is None and last is None:
            return self._unmade(record)
        if is_alive and last is None:
            status = record.status
            if status.get("health") != "ready":
                return Observation(health=Health.STARTING, message=str(status.get("message", "")))
            return Observation(
                health=Health.READY, memory_bytes=status.get("memory_bytes"), cpu_cores=status.get("cpu_cores")
            )
        if last is None:
            last = self._bury(record)
        health = Health.EXITED if record.stop is None else Health.GONE
        return Observation(
            health=health,
            message=str(last.get("message", "")),
            exit_code=last.get("exit_code"),
            is_out_of_memory=bool(last.get("is_out_of_memory")),
        )

    @staticmethod
    def _unmade(record: Record) -> Observation:
        """Tell a launch that is under way from one that never came to a process."""
        if not record.folder.is_dir():
            return Observation(health=Health.GONE)
        lock = locks.take(record.folder / "lock")
        if lock is None:
            return Observation(health=Health.STARTING)
        os.close(lock)
        return Observation(health=Health.GONE)

    def _bury(self, record: Record) -> dict[str, Any]:
        """End what an agent that was killed has left behind, and write the last word in its place."""
        self._kill_remnants(record)
        run = (record.start or {}).get("run")
        if isinstance(run, str):
            shutil.rmtree(run, ignore_errors=True)
        last = record.last  # it may have been written just now
        if last is None:
            last = {"message": "The session was ended from outside.", "exit_code": 137, "is_out_of_memory": False}
            record.note("last", last)
        return last

    def _kill_remnants(self, record: Record) -> None:
        """Kill what the agent would have killed, until nothing is found: what is started meanwhile is found too."""
        deadline = time.monotonic() + _REMNANTS_SECONDS
        while (found := self._remnants(record)) and time.monotonic() < deadline:
            for process in found:
                processes.send(process, signal.SIGKILL)
            time.sleep(_LOOK_AGAIN_SECONDS)
        memory.forget(record.folder.name)

    def _remnants(self, record: Record) -> Sequence[processes.ProcessIdentity]:
        """Return what is left of a workload: by its mark, its control group, and its person where they have no other.

        A daemon that cleared its environment is only found by the last two.
        """
        workload = record.folder.name
        found = processes.marked(f"{MARKER}={workload}") | memory.members(workload)
        uid = (record.start or {}).get("uid")
        if uid is not None and not any(_is_of(other, uid) and _is_held(other) for _, other in self.records.all()):
            found |= processes.owned_by(uid)
        return [each for each in map(processes.identity, found) if each is not None]

    # ------------------------------------------------------------ stop

    def stop(self, state: State, *, grace_seconds: float) -> None:
        """Begin ending a workload; a no-op when already gone; never waits for the grace."""
        record = self.records.of(str(state["workload"]))
        if not record.folder.is_dir():
            return
        asked = record.stop
        if asked is None:
            asked = {"grace_seconds": grace_seconds, "at_seconds": time.time()}
            record.note("stop", asked)
        process = record.process
        if process is None:
            return
        is_overdue = time.time() > asked["at_seconds"] + asked["grace_seconds"] + _OVERDUE_SECONDS
        if not processes.send(process, signal.SIGKILL if is_overdue else signal.SIGTERM) and record.last is None:
            self._bury(record)

    # ------------------------------------------------------------ logs, inventory, workspaces, people

    def logs(self, state: State, *, max_lines: int) -> Iterator[LogLine]:
        """Yield the last lines of each container, oldest first, also of a workload that has ended."""
        record = self.records.of(str(state["workload"]))
        for container in CONTAINERS:
            for line in last_lines(record.log(container), max_lines=max_lines):
                yield LogLine(container=container, text=line)

    def inventory(self) -> Iterator[Owned]:
        """Yield every workload of this instance whose process lives."""
        self.records.remove_old()
        for name, record in self.records.all():
            process, noted = record.process, record.start
            if process is None or noted is None or noted["state"].get("instance") != self.instance:
                continue
            if not processes.is_alive(process):
                continue
            yield Owned(
                workload=WorkloadName(name),
                state=noted["state"],
                created_at=datetime.fromisoformat(noted["created_at"]),
                annotations=noted["annotations"],
            )

    def remove_workspace(self, workspace: str) -> None:
        """Delete a workspace whose retention has ended; a no-op when it is gone.

        It leaves its place in one step: whatever becomes of the deletion, nobody starts on half a folder.
        """
        if not is_name(workspace):
            return
        folder = self.root / "workspaces" / workspace
        doomed = folder.with_name(f".{workspace}")
        _remove(doomed)  # what a crash or a failure left of an earlier one
        if folder.is_dir() and not folder.is_symlink():
            folder.rename(doomed)
            _remove(doomed)

    def admit(self, user_id: UserId, username: str) -> tuple[str, ...]:
        """Return warnings to show before a launch; raises SecondPerson when this person cannot be admitted."""
        self.people.admit(user_id, username)
        return () if self.people.separates else (_TRUST,)

    @property
    def admitted(self) -> Sequence[UserId]:
        """Who is admitted; nobody where everybody is."""
        return self.people.admitted

    def release(self, user_id: UserId) -> None:
        """Say that this person has no session left; a no-op while one starts or runs."""
        self.people.release(user_id, is_needed=lambda: any(_is_held(record) for _, record in self.records.all()))


def _is_of(record: Record, uid: int) -> bool:
    """Say whether a workload's processes run under a user id."""
    return (record.start or {}).get("uid") == uid


def _is_held(record: Record) -> bool:
    """Say whether a workload is being started, or its agent lives and has not said its last word."""
    if record.last is not None:
        return False
    lock = locks.take(record.folder / "lock")
    if lock is None:
        return True
    os.close(lock)
    return False


@contextmanager
def _mapped(workload: Workload) -> Iterator[None]:
    """Say in words what this machine could not do: a full disk, no more processes, a folder that cannot be written."""
    try:
        yield
    except OSError as exc:
        raise RuntimeUnavailable(
            f"This machine could not start {workload.name}: {exc.strerror or type(exc).__name__}.",
            remedy="Look at its free disk space, memory and processes.",
        ) from exc


def _remove(folder: Path) -> None:
    """Remove a person's folder, parts that they closed to writers included; a no-op when it is gone."""
    if folder.is_symlink() or not folder.is_dir():
        return
    if os.geteuid() != 0:  # root needs no leave, and must follow no link that a session makes meanwhile
        folder.chmod(0o700)
        for path, names, _ in os.walk(folder):
            for each in (Path(path) / name for name in names):
                if not each.is_symlink():
                    each.chmod(0o700)
    shutil.rmtree(folder)
