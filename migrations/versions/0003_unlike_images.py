"""Keep with each caption whether its image is unlike those that the model learned from."""

import importlib

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BEFORE = importlib.import_module("migrations.versions.0002_present_state_of_files")
_VIEW = _BEFORE._VIEW.replace(
    "       {captioned_at} AS captioned_at\n", "       {captioned_at} AS captioned_at,\n       c.unlike\n"
)


def upgrade() -> None:
    op.add_column("captions", sa.Column("unlike", sa.Boolean(), nullable=True))
    _BEFORE._replace_view(_VIEW)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP VIEW caption_export")  # a view cannot be replaced by one with fewer columns
    _BEFORE._replace_view(_BEFORE._VIEW)
    op.execute("ALTER TABLE captions DROP COLUMN unlike")
