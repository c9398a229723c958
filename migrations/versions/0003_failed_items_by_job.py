"""The few items that failed are found without reading all the others."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_FAILED = sa.text("state = 'failed'")


def upgrade() -> None:
    op.create_index("ix_items_failed", "items", ["job_id", "reason"], sqlite_where=_FAILED, postgresql_where=_FAILED)


def downgrade() -> None:
    op.drop_index("ix_items_failed", "items")
