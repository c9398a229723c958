"""Keep where a model looked for each word; the view tells rejected captions from pending ones."""

import importlib

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_FIRST = importlib.import_module("migrations.versions.0002_present_state_of_files")
_BEFORE = importlib.import_module("migrations.versions.0004_edits_by_people")
_VIEW = _BEFORE._VIEW.replace(
    "            WHEN f.failed_reason IS NOT NULL THEN 'failed'",
    "            WHEN EXISTS (SELECT 1 FROM captions x WHERE x.image_id = f.image_id AND x.source = 'machine'\n"
    "                         AND x.withdrawn_at IS NOT NULL) THEN 'rejected'\n"
    "            WHEN f.failed_reason IS NOT NULL THEN 'failed'",
)
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "attention",
        sa.Column("caption_id", _BIG, autoincrement=False, nullable=False),
        sa.Column("weights", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("caption_id", name=op.f("pk_attention")),
        sa.ForeignKeyConstraint(["caption_id"], ["captions.id"], name=op.f("fk_attention_caption_id")),
    )
    _replace_view(_VIEW)


def downgrade() -> None:
    _replace_view(_BEFORE._VIEW)
    op.drop_table("attention")


def _replace_view(view: str) -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    _FIRST._replace_view(view.replace("{written_at}", _BEFORE._ISO if is_sqlite else "to_timestamp(c.created_at)"))
