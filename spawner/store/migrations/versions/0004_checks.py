"""When access was last asked about, and since when a stray is seen.

Safe with the previous release running: a table and an index more, and columns that may be empty.
"""

import sqlalchemy as sa
from alembic import op

from spawner.store.types import Name, UTCDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is new."""
    op.add_column("sessions", sa.Column("access_checked_at", UTCDateTime(), nullable=True))
    op.add_column("sessions", sa.Column("access_unknown_since", UTCDateTime(), nullable=True))
    op.create_index(
        op.f("ix_sessions_phase_access_checked_at"), "sessions", ["phase", "access_checked_at"], unique=False
    )
    op.create_table(
        "strays",
        sa.Column("site", Name(), nullable=False),
        sa.Column("workload", Name(), nullable=False),
        sa.Column("first_seen_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("site", "workload", name=op.f("pk_strays")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("strays")
    op.drop_index(op.f("ix_sessions_phase_access_checked_at"), table_name="sessions")
    op.drop_column("sessions", "access_unknown_since")
    op.drop_column("sessions", "access_checked_at")
