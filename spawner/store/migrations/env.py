"""What Alembic runs: the migrations, on the connection that `migrate` opened and will commit."""

from alembic import context

from spawner.store import tables


def run() -> None:
    """Run the wanted migrations within the caller's transaction."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=tables.metadata)
    with context.begin_transaction():
        context.run_migrations()


run()
