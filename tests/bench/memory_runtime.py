"""A runtime without processes, for benches that measure the way to a start and not the start.

For: an installation whose `PYTHONPATH` holds `entry_point`'s folder; then `SESSIONS__RUNTIME=memory` names it.
Promises: the spawner itself is as shipped, its runtime comes by the entry point that packages of others use.
Must not know: anything of the spawner but that entry point's contract.
"""

from pathlib import Path
from typing import Any

from spawner.testing.runtime import Behaviour, FakeRuntime

NAME = "memory"


def create(**_given: Any) -> FakeRuntime:
    """Return a runtime whose workloads are ready at the first look."""
    return FakeRuntime(name=NAME, behaviour=Behaviour(ready_at_look=1))


def entry_point(folder: Path) -> Path:
    """Write the metadata by which the runtime is found into a folder; return the folder, for `PYTHONPATH`."""
    metadata = folder / "memory_runtime-1.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-runtime\nVersion: 1\n", encoding="utf-8")
    entry = f"[spawner.runtimes]\n{NAME} = tests.bench.memory_runtime:create\n"
    (metadata / "entry_points.txt").write_text(entry, encoding="utf-8")
    return folder
