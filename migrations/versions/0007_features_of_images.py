"""Keep features of images, to find near-duplicates, and mark captions that near-duplicates share."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "encoders",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_encoders")),
        sa.UniqueConstraint("key", name=op.f("uq_encoders_key")),
    )
    op.create_table(
        "features",
        sa.Column("image_id", _BIG, nullable=False),
        sa.Column("encoder_id", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("thumbnail", sa.LargeBinary(), nullable=False),
        sa.Column("sketch", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "encoder_id", name=op.f("pk_features")),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_features_image_id")),
        sa.ForeignKeyConstraint(["encoder_id"], ["encoders.id"], name=op.f("fk_features_encoder_id")),
    )
    op.create_index("ix_features_sketch", "features", ["sketch"])
    op.add_column("jobs", sa.Column("skip_near_duplicates", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("captions", sa.Column("shared_from", sa.Text(), nullable=True))


def downgrade() -> None:
    op.execute("ALTER TABLE captions DROP COLUMN shared_from")
    op.execute("ALTER TABLE jobs DROP COLUMN skip_near_duplicates")
    op.drop_table("features")
    op.drop_table("encoders")
