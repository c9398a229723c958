"""Remember which image a sidecar is of, and the time of what a person had there."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sidecars", sa.Column("image_bytes", sa.LargeBinary(), nullable=True))
    op.add_column("sidecars", sa.Column("mtime_ns", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for column in ("mtime_ns", "image_bytes"):
        op.execute(f"ALTER TABLE sidecars DROP COLUMN {column}")
