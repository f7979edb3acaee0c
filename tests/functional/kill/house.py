"""A whole spawner whose killed parts come back, as an init system brings them back, and the view of its processes.

For: the kill matrix. Promises: a part that is killed starts again on the same port, data and settings, and never is
anything else done for it; `Watch` counts the servers and agents of each workspace all the time.
Must not know: cells and what is expected of them.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sqlalchemy import func, select

from spawner.names import SessionName
from spawner.sessions.model import Event, Session
from spawner.store import tables
from spawner.store.engine import Engine, open_engine, reading
from spawner.store.sessions import SessionRows
from spawner.testing.gitlab.standin import StandIn
from spawner.wiring import SystemClock
from tests.installation import Installation
from tests.servers import RedisServer

PARTS = {"sqlite-inprocess": ("web",), "postgresql-celery": ("web", "worker", "beat", "redis")}
OTHERS = ("agent", "session", "runner", "stand-in")
_LOOK_SECONDS = 0.2
_KEEP_SECONDS = 0.05


@dataclass(slots=True, kw_only=True)
class Watch:
    """How many servers each workspace has, and had at most at any one time."""

    most: Counter[str] = field(default_factory=Counter)
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(30)

    def _look(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            for workspace, count in servers().items():
                self.most[workspace] = max(self.most[workspace], count)


def servers() -> Counter[str]:
    """Return how many servers run in each workspace; a server's own child, before it becomes a program, is none."""
    found: dict[int, str] = {}
    for pid, command, _ in _processes():
        for word in command.split("\0"):
            if word.endswith("/.slipway/jupyter-lab"):
                found[pid] = Path(word).parents[1].name
    return Counter(workspace for pid, workspace in found.items() if _parent(pid) not in found)


def _parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text[text.rindex(")") + 2 :].split()[1])


def of_workspace(workspace: str, workloads: frozenset[str]) -> set[int]:
    """Return every process that a session of this workspace has anywhere, agents included."""
    marks = {f"SLIPWAY_WORKLOAD={name}".encode() for name in workloads}
    found = set()
    for pid, command, variables in _processes():
        is_agent = any(f"/workloads/{name}/" in command for name in workloads)
        if is_agent or f"/workspaces/{workspace}/" in command or marks & set(variables.split(b"\0")):
            found.add(pid)
    return found


def _processes() -> Iterator[tuple[int, str, bytes]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
                if command:
                    yield int(folder.name), command, (folder / "environ").read_bytes()


@dataclass(slots=True, kw_only=True)
class House:
    """One installation, its stand-in and its Redis, with somebody who starts what has fallen."""

    way: str
    installation: Installation
    stand_in: StandIn
    folder: Path
    redis: RedisServer | None
    watch: Watch = field(default_factory=Watch)
    _engine: Engine | None = None
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    restarts: Counter[str] = field(default_factory=Counter)

    @property
    def victims(self) -> tuple[str, ...]:
        """What there is to kill."""
        return (*PARTS[self.way], *OTHERS)

    @property
    def root(self) -> Path:
        """Where the sessions' records and workspaces are."""
        return Path(self.installation.environment["SPAWNER_STANDALONE__ROOT"])

    @property
    def engine(self) -> Engine:
        """The database, as the spawner has it."""
        if self._engine is None:
            self._engine = open_engine(self.installation.environment["SPAWNER_DATABASE__URL"])
        return self._engine

    @property
    def sessions(self) -> SessionRows:
        """The sessions as the database has them."""
        return SessionRows(self.engine, SystemClock())

    def __enter__(self) -> Self:
        for name in ("steps", "armed", "fired", "pids"):
            (self.folder / name).mkdir(parents=True)
        self.installation.start()
        self._note()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()
        self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join(60)
        self.watch.stop()
        self.installation.stop()
        if self._engine is not None:
            self._engine.dispose()

    def _note(self) -> None:
        groups = {part: process.pid for part, process in self.installation.processes.items()}
        groups["stand-in"] = self.stand_in.process.pid
        if self.redis is not None and self.redis.process is not None:
            groups["redis"] = self.redis.process.pid
        for part, pid in groups.items():
            draft = self.folder / "pids" / f".{part}"
            draft.write_text(str(pid))
            draft.rename(self.folder / "pids" / part)

    def _keep(self) -> None:
        """Start again what has ended, until told to stop."""
        while not self._done.wait(_KEEP_SECONDS):
            for part in self._fallen():
                self.restarts[part] += 1
                match part:
                    case "redis" if self.redis is not None:
                        self.redis.start()
                    case "stand-in":
                        self.stand_in.restart()
                    case _:
                        self.installation.spawn(part)
                self._note()

    def _fallen(self) -> list[str]:
        fallen = [part for part, process in self.installation.processes.items() if process.poll() is not None]
        if self.stand_in.process.poll() is not None:
            fallen.append("stand-in")
        if self.redis is not None and self.redis.process is not None and self.redis.process.poll() is not None:
            fallen.append("redis")
        return fallen

    # ------------------------------------------------------------ what the harness asks and arms

    def arm(self, sha: str, *, victim: str, kills: Mapping[str, str]) -> None:
        """Have a victim killed right after a commit's first write of each name; the values tell the kills apart."""
        draft = self.folder / "armed" / f".{sha}"
        draft.write_text(json.dumps({"victim": victim, "kills": dict(kills)}))
        draft.rename(self.folder / "armed" / f"{sha}.json")

    def fired(self, identity: str) -> str | None:
        """Return "killed" or "absent", or None while the step has not come."""
        try:
            return (self.folder / "fired" / identity).read_text() or None
        except FileNotFoundError:
            return None

    def steps(self, sha: str) -> list[str]:
        """Return the names of a commit's writes so far, in order."""
        try:
            lines = (self.folder / "steps" / sha).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line)["step"] for line in lines]

    def row(self, name: str) -> Session | None:
        """Return a session's row."""
        return self.sessions.get(SessionName(name))

    def events(self, name: str) -> list[Event]:
        """Return a session's whole log."""
        return list(self.sessions.events(SessionName(name), after=0, limit=10_000))

    def holds_credential(self, name: str) -> bool:
        """Say whether the database still has a person's token kept with a session."""
        statement = select(func.count()).select_from(tables.grants).where(tables.grants.c.session == name)
        with reading(self.engine) as connection:
            return connection.execute(statement).scalar_one() > 0

    def workloads(self, sha: str) -> frozenset[str]:
        """Return the names of all workloads that a commit ever had."""
        found = set()
        for record in (self.root / "workloads").glob("*/record.json"):
            with suppress(OSError, ValueError):
                if json.loads(record.read_text())["annotations"]["commit"] == sha:
                    found.add(record.parent.name)
        return frozenset(found)

    def left_over(self, sha: str, workspace: str, *, within_seconds: float) -> int:
        """Return how many processes a commit's sessions still have, once the time is up or none is left."""
        ends = time.monotonic() + within_seconds
        while True:
            found = of_workspace(workspace, self.workloads(sha))
            if not found or time.monotonic() > ends:
                return len(found)
            time.sleep(0.1)
