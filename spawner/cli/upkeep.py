"""Looking after an installation: `migrate` and `gc`.

Promises: `migrate` is idempotent; `gc` lists what the runtimes hold and the database does not know, ends its compute
only when told to, only when it is older than a day, and never a workspace.
Must not know: how either is stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import click

from spawner import config
from spawner.cli.exits import CommandFailed
from spawner.cli.printing import document, json_option, prose, table
from spawner.config import Settings
from spawner.ports import Owned
from spawner.store import migrations
from spawner.store.workloads import WorkloadRows
from spawner.wiring import SystemClock, build_runtimes, wire

_STOP_GRACE_SECONDS = 10.0
_REPORTED_ONLY = timedelta(hours=24)  # the time somebody has to notice a restored or wrong database
_FEW = 5  # more than this, and over a tenth of all, is no leftover but a wrong database
_TENTH = 10


@click.command("migrate")
@json_option
def migrate_command(*, as_json: bool) -> None:
    """Bring the database to this release."""
    wired = wire(config.load())
    try:
        before = migrations.current_revision(wired.engine)
        migrations.migrate(wired.engine)
        after = migrations.current_revision(wired.engine)
    finally:
        wired.engine.dispose()
    if as_json:
        document({"before": before, "after": after})
    else:
        prose("The database is current." if before == after else f"Migrated from {before or 'nothing'} to {after}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that runs and that no row knows."""

    runtime: str
    owned: Owned

    @property
    def is_old(self) -> bool:
        """Say whether it has been there long enough to be ended; unknown age counts as young."""
        at = self.owned.created_at
        return at is not None and datetime.now(UTC) - at > _REPORTED_ONLY


@click.command("gc")
@click.option("--end", "ends", is_flag=True, help="End the compute of those that are older than a day.")
@json_option
def gc_command(*, ends: bool, as_json: bool) -> None:
    """List what the runtimes hold and the database does not know; workspaces are never touched."""
    settings = config.load()
    found, total = _leftovers(settings)
    old = [each for each in found if each.is_old]
    if ends:
        if len(old) > _FEW and len(old) * _TENTH > total:
            raise CommandFailed(
                f"{len(old)} of {total} workloads are unknown to the database: that is no leftover.",
                remedy="Is this the right database, or one restored from a backup? Nothing was ended.",
            )
        _end(settings, old)
    if as_json:
        rows = [{"runtime": each.runtime, "workload": each.owned.workload, "is_old": each.is_old} for each in found]
        document({"leftovers": rows, "ended": [each.owned.workload for each in old] if ends else []})
        return
    shown = [[each.runtime, each.owned.workload, str(each.owned.created_at or "unknown")] for each in found]
    table(("RUNTIME", "WORKLOAD", "SINCE"), shown, empty="The database knows everything that runs.")
    if ends:
        prose(f"Ended {len(old)} of {len(found)}; what is younger than a day is only listed.")


def _leftovers(settings: Settings) -> tuple[list[Leftover], int]:
    engine = wire(settings).engine
    try:
        known = {row.name for row in WorkloadRows(engine, SystemClock()).workloads()}
    finally:
        engine.dispose()
    held = list(_held(settings))
    return [each for each in held if each.owned.workload not in known], len(held)


def _held(settings: Settings) -> Iterator[Leftover]:
    for name, runtime in build_runtimes(settings).items():
        for owned in runtime.inventory():
            yield Leftover(runtime=name, owned=owned)


def _end(settings: Settings, leftovers: list[Leftover]) -> None:
    started = build_runtimes(settings)
    for each in leftovers:
        started[each.runtime].stop(each.owned.state, grace_seconds=_STOP_GRACE_SECONDS)
