"""Find a session by what it is of, and by its workspace.

Safe with the previous release running: two indexes more.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes."""
    op.create_index(
        op.f("ix_sessions_user_id_project_id_sha"), "sessions", ["user_id", "project_id", "sha"], unique=False
    )
    op.create_index(op.f("ix_sessions_workspace"), "sessions", ["workspace"], unique=False)


def downgrade() -> None:
    """Drop the indexes."""
    op.drop_index(op.f("ix_sessions_workspace"), table_name="sessions")
    op.drop_index(op.f("ix_sessions_user_id_project_id_sha"), table_name="sessions")
