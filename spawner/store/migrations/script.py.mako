"""${message}.

Safe with the previous release running, because …
"""

import sqlalchemy as sa
from alembic import op

from spawner.store.types import CleanText, Name, UTCDateTime

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go one revision on."""
    ${upgrades if upgrades else "pass"}
