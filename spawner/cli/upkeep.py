"""Looking after an installation: `migrate` and `gc`.

Promises: `migrate` is idempotent; `gc` lists what the runtime holds and the database does not know, and touches
nothing unless it is told to, and never a workspace.
Must not know: how either is stored.
"""

import click

from spawner import config
from spawner.cli.printing import document, json_option, prose
from spawner.store import migrations
from spawner.wiring import wire


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
