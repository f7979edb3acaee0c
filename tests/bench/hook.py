"""The bench `hook`: from a build job's success to the runtime being asked to start.

For: `scripts/bench hook`. Promises: the clock begins before the stand-in is told of the success and ends at the time
of the first STARTING event; the image is in the registry before; without a hook the limit is the poll that was due.
Must not know: how the spawner learns of it.
"""

import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spawner.images.service import POLL_SECONDS
from spawner.store.builds import BuildRows
from spawner.store.engine import open_engine
from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.bench import memory_runtime, stage
from tests.bench.ci import PIPELINE, HandRunner, push_image
from tests.bench.figures import Report, Row
from tests.installation import Client, Installation, wait_for

NAME = "hook"
JOB = "from a build job's success to the runtime being asked to start"
HOOK_MILLISECONDS = 150.0
SETTLE_SECONDS = 0.7  # so that no look of an earlier change is still under way


def measure(place: Path, runs: int) -> Report:
    """Measure with a hook and without, in turn."""
    with (
        StandIn.start(data=place / "gitlab", runner=False) as stand_in,
        stage.installed(
            place, stand_in, runtime=memory_runtime.NAME, settings={"SESSIONS__OBSERVE_SECONDS": "600"}
        ) as installation,
    ):
        alice = stand_in.add_user("alice")
        hooked = stand_in.add_project("alice/hooked", owner=alice)
        silent = stand_in.add_project("alice/silent", owner=alice)
        stage.add_hook(stand_in, hooked, installation)
        bench = _Bench(stand_in, installation, installation.client(alice))
        try:
            bench.once(hooked, "warm-up")
            told, polled, limits = [], [], []
            for number in range(runs):
                told.append(bench.once(hooked, f"run {number}")[0])
                took, limit = bench.once(silent, f"run {number}")
                polled.append(took)
                limits.append(limit)
        finally:
            bench.close()
    with_hook = Row(
        name="success to STARTING, with a hook",
        unit="ms",
        ours=tuple(told),
        target=f"< {HOOK_MILLISECONDS:.0f} ms",
        met=statistics.median(told) < HOOK_MILLISECONDS,
    )
    without = Row(
        name="success to STARTING, without a hook",
        unit="ms",
        ours=tuple(polled),
        beside=tuple(limits),
        beside_what="one poll, as it was due",
        target="≤ one poll",
        met=statistics.median(polled) <= statistics.median(limits),
    )
    notes = (
        "The clock begins before the runner's report of success leaves, so the stand-in's own work on it counts.",
        f"Polls come after {', '.join(f'{each:g}' for each in POLL_SECONDS)} s without a change, ± 10 %.",
    )
    return Report(name=NAME, job=JOB, rows=(with_hook, without), notes=notes)


class _Bench:
    def __init__(self, stand_in: StandIn, installation: Installation, client: Client) -> None:
        self._stand_in, self._client = stand_in, client
        self._runner = HandRunner(stand_in)
        self._engine = open_engine(installation.environment["SPAWNER_DATABASE__URL"])
        self._builds = BuildRows(self._engine)

    def close(self) -> None:
        self._runner.close()
        self._engine.dispose()

    def once(self, project: ProjectHandle, what: str) -> tuple[float, float]:
        """Launch a commit, let its job run and succeed; return milliseconds, and those of the poll that was due."""
        sha = self._stand_in.commit(project, {".gitlab-ci.yml": PIPELINE, "README.md": f"{what}\n"})
        self._stand_in.wait_for_pipeline(project, sha)
        name = self._client.launch(project, sha)["name"]
        self._client.reaches(name, "WAITING", seconds=30)
        job = self._runner.take()
        self._runner.say(job, "Building.\n")
        wait_for(lambda: self._build_status(name) == "running" or None, seconds=30, what="the job seen running")
        push_image(self._stand_in, project, sha)
        time.sleep(SETTLE_SECONDS)
        build = self._builds.get(f"default/{project.id}/{sha}")
        assert build is not None
        assert build.due_at is not None
        at = self._runner.succeed(job)
        due = max(build.due_at - (build.checked_at or build.due_at), timedelta())
        events = self._client.events(name, until="ready", seconds=60)
        started = next(event for event in events if event["phase"] == "STARTING")
        took = datetime.fromisoformat(started["at"]).astimezone(UTC) - at
        self._client.stop(name)
        return took.total_seconds() * 1000, due.total_seconds() * 1000

    def _build_status(self, name: str) -> str:
        server = self._client.get(name) or {}
        return str((server.get("slipway", {}).get("build") or {}).get("status"))
