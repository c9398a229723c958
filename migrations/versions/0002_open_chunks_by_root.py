"""Open chunks are found by their root too, and workers count the messages that were no bells."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OPEN = sa.text("state <> 'done'")


def upgrade() -> None:
    op.create_index("ix_chunks_open_root", "chunks", ["root_id", "job_id"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.add_column("workers", sa.Column("dropped", sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.drop_column("workers", "dropped")
    op.drop_index("ix_chunks_open_root", "chunks")
