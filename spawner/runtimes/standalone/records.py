"""Records: what is known of each workload in files, so that a spawner that was away knows it too.

For: the runtime; a record is written before its process is made, and stays after it for its log.
Promises: small private files written whole; one folder per workload name; a record that ended long ago is removed.
Must not know: how a process is started or ended.

    record.json    by the runtime, before anything runs: instance, state, annotations
    plan.json      by the runtime, for the agent, which removes it at once
    process.json   by the agent: pid, start time, boot
    status.json    by the agent: starting with a step, or ready
    stop.json      by the runtime: a stop was asked for, and its grace
    last.json      by the agent: its last word
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spawner.agent.files import read_json, write_json
from spawner.agent.processes import ProcessIdentity
from spawner.errors import LaunchRefused
from spawner.runtimes.planning import is_name

KEPT_SECONDS = 8 * 24 * 3600.0  # a day longer than a stopped session's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One workload's folder."""

    folder: Path

    @property
    def process(self) -> ProcessIdentity | None:
        """The agent's process, as it was noted; None before it was made."""
        value = read_json(self.folder / "process.json")
        return None if value is None else ProcessIdentity(**value)

    @property
    def status(self) -> dict[str, Any]:
        """The agent's last status; empty before the first."""
        return read_json(self.folder / "status.json") or {}

    @property
    def last(self) -> dict[str, Any] | None:
        """The agent's last word."""
        return read_json(self.folder / "last.json")

    @property
    def start(self) -> dict[str, Any] | None:
        """What was noted before the process was made."""
        return read_json(self.folder / "record.json")

    @property
    def stop(self) -> dict[str, Any] | None:
        """The stop that was asked for."""
        return read_json(self.folder / "stop.json")

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Write one of the files above (`record`, `stop`, …)."""
        write_json(self.folder / f"{name}.json", value)

    def log(self, container: str) -> Path:
        """Return where a container's log is."""
        return self.folder / "logs" / f"{container}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Every workload's folder."""

    folder: Path

    def of(self, workload: str) -> Record:
        """Return a workload's record, whether it is there or not; raises LaunchRefused for what is no name."""
        if not is_name(workload):
            raise LaunchRefused(f"'{workload}' is not a workload's name.", remedy="This is a defect; report it.")
        return Record(folder=self.folder / workload)

    def all(self) -> Iterator[tuple[str, Record]]:
        """Yield every record that is there, by name."""
        for folder in sorted(self.folder.iterdir()):
            if (folder / "record.json").is_file():
                yield folder.name, Record(folder=folder)

    def remove_old(self) -> None:
        """Remove the records of workloads that ended long ago."""
        for _, record in self.all():
            last = record.folder / "last.json"
            if last.is_file() and time.time() - last.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(record.folder, ignore_errors=True)
