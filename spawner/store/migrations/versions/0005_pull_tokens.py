"""Tokens of projects that read their images.

Safe with the previous release running: one table more.
"""

import sqlalchemy as sa
from alembic import op

from spawner.store.types import CleanText, Name, UTCDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is new."""
    op.create_table(
        "pull_tokens",
        sa.Column("forge", Name(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("token_id", sa.BigInteger(), nullable=False),
        sa.Column("username", CleanText(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("forge", "project_id", name=op.f("pk_pull_tokens")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("pull_tokens")
