"""Why chunks wait: what was in the way when one was given back, how often in a row, and when its lease was given."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chunks", sa.Column("leased_at", sa.Double))
    op.add_column("chunks", sa.Column("waits", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("chunks", sa.Column("trouble", sa.Text))


def downgrade() -> None:
    with op.batch_alter_table("chunks") as chunks:
        for name in ("trouble", "waits", "leased_at"):
            chunks.drop_column(name)
