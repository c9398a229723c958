"""Note which files share the caption of an image beside them; the view shows no content of others as theirs."""

import importlib

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BEFORE = importlib.import_module("migrations.versions.0006_where_models_look")
_VIEW = _BEFORE._VIEW
for _name in ("sha256", "width", "height"):
    _VIEW = _VIEW.replace(f"       i.{_name},", f"       CASE WHEN f.partner IS NULL THEN i.{_name} END AS {_name},")


def upgrade() -> None:
    op.add_column("files", sa.Column("partner", sa.LargeBinary(), nullable=True))
    _BEFORE._replace_view(_VIEW)


def downgrade() -> None:
    _BEFORE._replace_view(_BEFORE._VIEW)
    op.execute("UPDATE files SET image_id = NULL WHERE partner IS NOT NULL")  # its content was never read
    op.execute("ALTER TABLE files DROP COLUMN partner")
