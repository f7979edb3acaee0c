"""What GitLab's hooks delivered lately.

Safe with the previous release running: a table more.
"""

import sqlalchemy as sa
from alembic import op

from spawner.store.types import Name, UTCDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "deliveries",
        sa.Column("id", Name(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(op.f("ix_deliveries_seen_at"), "deliveries", ["seen_at"], unique=False)


def downgrade() -> None:
    """Drop it."""
    op.drop_index(op.f("ix_deliveries_seen_at"), table_name="deliveries")
    op.drop_table("deliveries")
