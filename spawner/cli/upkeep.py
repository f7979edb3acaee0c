"""Looking after an installation: `migrate`, `gc` and `reseal`.

Promises: `migrate` is idempotent; `gc` lists what the runtimes hold and the database does not know, ends its compute
only when told to, only when it is older than a day, and never a workspace; `reseal` may run beside everything else.
Must not know: how either is stored.
"""

import click

from spawner import config
from spawner.cli.printing import document, json_option, prose, table
from spawner.errors import Misconfigured
from spawner.store import migrations
from spawner.store.users import UserRows
from spawner.wiring import SystemClock, wire


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


@click.command("gc")
@click.option("--end", "ends", is_flag=True, help="End the compute of those that are older than a day.")
@json_option
def gc_command(*, ends: bool, as_json: bool) -> None:
    """List what runs although no session is served by it; workspaces are never touched."""
    settings = config.load()
    wired = wire(settings)
    try:
        inventory = wired.services.sessions.inventory
        strays = inventory.strays()
        ended = inventory.end_old(grace_seconds=settings.sessions.stop_grace_seconds) if ends else ()
    finally:
        wired.engine.dispose()
    gone = [stray.owned.workload for stray in ended]
    if as_json:
        rows = [
            {"runtime": each.runtime, "workload": each.owned.workload, "is_known": each.is_known} for each in strays
        ]
        document({"leftovers": rows, "ended": gone})
        return
    shown = [[each.runtime, each.owned.workload, str(each.owned.created_at or "unknown")] for each in strays]
    table(("RUNTIME", "WORKLOAD", "SINCE"), shown, empty="Everything that runs serves a session.")
    if ends:
        prose(f"Ended {len(gone)} of {len(strays)}; what is younger than a day, or too much at once, is only listed.")


@click.command("reseal")
@json_option
def reseal_command(*, as_json: bool) -> None:
    """Encrypt every stored token of GitLab's anew with the first key, so that older keys can leave the key file."""
    settings = config.load()
    if settings.secrets.key_file is None:
        raise Misconfigured("No key file is set.", remedy="Set SPAWNER_SECRETS__KEY_FILE.")
    wired = wire(settings)
    try:
        count = UserRows(wired.engine, SystemClock(), config.read_keys(settings.secrets.key_file)).reseal()
    finally:
        wired.engine.dispose()
    if as_json:
        document({"resealed": count})
    else:
        prose(f"Encrypted {count} anew. What older keys signed ends with them: people's own tokens, running sessions.")
