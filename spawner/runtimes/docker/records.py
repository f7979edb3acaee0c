"""What is known of workloads in files of the spawner's own: that a stop was asked for, and the log of what is gone.

For: the runtime; containers themselves say all else, by their labels.
Promises: small private files written whole; no container sees them; a record that ended long ago is removed.
Must not know: Docker.

    stop.json              a stop was asked for, its grace and its time
    logs/<container>.log   what a removed container had said
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spawner.agent.files import read_json, write_json, write_whole
from spawner.agent.output import LAST_WORD, last_lines
from spawner.errors import LaunchRefused, foreign
from spawner.runtimes.planning import is_name

CONTAINERS = ("git-clone", "jupyter-server")  # in the order they speak
KEPT_SECONDS = 8 * 24 * 3600.0  # a day longer than a stopped session's workspace
KEPT_LINES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """What a container printed: its lines by log, and its last word."""

    lines: Mapping[str, tuple[str, ...]]
    last_word: Mapping[str, Any]


def printed(output: bytes) -> Printed:
    """Read an agent's output: `<log>`, a tab, the line; a line of no log is the server's."""
    lines: dict[str, list[str]] = {name: [] for name in CONTAINERS}
    last_word: dict[str, Any] = {}
    for line in output.decode("utf-8", errors="replace").splitlines():
        name, _, text = line.partition("\t")
        if name == LAST_WORD:
            last_word = _word(text)
        elif name in lines:
            lines[name].append(text)
        else:
            lines["jupyter-server"].append(line)
    return Printed(lines={name: tuple(each) for name, each in lines.items()}, last_word=last_word)


def _word(text: str) -> dict[str, Any]:
    """Read a last word, which a session may have written itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    return {"message": foreign(value.get("message", "")), "is_out_of_memory": value.get("is_out_of_memory") is True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One workload's folder; it is made when there is something to keep."""

    folder: Path

    @property
    def stop(self) -> dict[str, Any] | None:
        """The stop that was asked for."""
        return read_json(self.folder / "stop.json")

    def ask_to_stop(self, *, grace_seconds: float) -> dict[str, Any]:
        """Note a stop, unless one was asked for already; return the first."""
        asked = self.stop
        if asked is None:
            asked = {"grace_seconds": grace_seconds, "at_seconds": time.time()}
            self.folder.mkdir(mode=0o700, exist_ok=True)
            write_json(self.folder / "stop.json", asked)
        return asked

    def keep(self, lines: Mapping[str, Iterable[str]]) -> None:
        """Keep what a container had said, before it is removed."""
        (self.folder / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, each in lines.items():
            write_whole(self.folder / "logs" / f"{name}.log", "".join(f"{line}\n" for line in each))

    def kept(self, name: str, *, max_lines: int) -> list[str]:
        """Return the last lines that were kept of a log."""
        return last_lines(self.folder / "logs" / f"{name}.log", max_lines=max_lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Every workload's folder."""

    folder: Path

    def of(self, workload: str) -> Record:
        """Return a workload's record, whether it is there or not; raises LaunchRefused for what is no name."""
        if not is_name(workload):
            raise LaunchRefused(f"'{workload}' is not a workload's name.", remedy="This is a defect; report it.")
        return Record(folder=self.folder / workload)

    def remove_old(self) -> None:
        """Remove the records of workloads that ended long ago."""
        for folder in self.folder.iterdir():
            stop = folder / "stop.json"
            if stop.is_file() and time.time() - stop.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
