"""Schema migrations, with Alembic configured in code: there is no alembic.ini.

For: `spawner migrate`, and every process that starts embedded.
Promises: `migrate` is idempotent and safe to run from several processes at once; it runs in one transaction,
so that a migration that fails leaves the schema as it was. A migration works with the previous release running:
columns are added with a default or as nullable, and dropped one release after the last that reads them.
Must not know: settings.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from spawner.store.engine import reading, writing

_LOCK = 0x511B_A4A1  # any number that no other program uses as its advisory lock in this database


def configuration() -> Config:
    """Return Alembic's configuration; a caller puts a connection into `attributes`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision; a no-op when it is there; raises StoreUnavailable."""
    if is_current(engine):
        return
    config = configuration()
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def newest_revision() -> str | None:
    """Return the revision that this release wants."""
    return ScriptDirectory.from_config(configuration()).get_current_head()


def current_revision(engine: Engine) -> str | None:
    """Return the revision that the database has; None for an empty one; raises StoreUnavailable."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def is_current(engine: Engine) -> bool:
    """Say whether the database has the schema of this release; raises StoreUnavailable."""
    return current_revision(engine) == newest_revision()
