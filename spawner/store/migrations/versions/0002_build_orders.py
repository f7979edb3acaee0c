"""When a launch last had a commit built.

Safe with the previous release running: the column may be empty, and who does not know it leaves it so.
"""

import sqlalchemy as sa
from alembic import op

from spawner.store.types import UTCDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("builds", sa.Column("ordered_at", UTCDateTime(), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("builds", "ordered_at")
