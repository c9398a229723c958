"""Captions that people write follow their file; what people change is kept and can be undone."""

import importlib

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BEFORE = importlib.import_module("migrations.versions.0003_unlike_images")
_FIRST = importlib.import_module("migrations.versions.0002_present_state_of_files")
_ISO = "strftime('%Y-%m-%dT%H:%M:%SZ', c.created_at, 'unixepoch')"

# The rule of captioning.store.preferred: the caption that a person wrote for this file, otherwise that of its content.
_VIEW = """
CREATE VIEW caption_export AS
SELECT rtrim(r.path, '/') || '/' || f.path AS path,
       r.name AS root,
       i.sha256,
       c.text AS caption,
       c.confidence,
       m.name AS model,
       c.source,
       i.width,
       i.height,
       CASE WHEN c.id IS NOT NULL THEN 'captioned'
            WHEN f.failed_reason IS NOT NULL THEN 'failed' ELSE 'pending' END AS status,
       CASE WHEN c.id IS NULL THEN f.failed_reason || coalesce(': ' || f.failed_detail, '') END AS error,
       {captioned_at} AS captioned_at,
       c.unlike,
       c.original IS NOT NULL AS edited,
       coalesce(c.file_id = f.id AND (f.image_id IS NULL OR c.image_id <> f.image_id AND
           coalesce(i.pixels <> (SELECT o.pixels FROM images o WHERE o.id = c.image_id), true)), false)
           AS image_changed,
       (SELECT max(t.job_id) FROM items t WHERE t.file_id = f.id) AS job,
       {written_at} AS written_at
FROM files f
JOIN roots r ON r.id = f.root_id
LEFT JOIN images i ON i.id = f.image_id
LEFT JOIN captions c ON c.id = coalesce((
    SELECT a.id FROM captions a WHERE a.file_id = f.id AND a.withdrawn_at IS NULL
    ORDER BY a.created_at DESC, a.id DESC LIMIT 1), (
    SELECT b.id FROM captions b LEFT JOIN models d ON d.id = b.model_id
    WHERE b.image_id = f.image_id AND b.withdrawn_at IS NULL
    ORDER BY CASE WHEN b.source = 'human' THEN 0 WHEN b.source = 'imported' THEN 1 WHEN d.is_default THEN 2 ELSE 3 END,
             b.created_at DESC, b.id DESC
    LIMIT 1))
LEFT JOIN models m ON m.id = c.model_id
WHERE f.missing_since IS NULL
"""

# On PostgreSQL only: SQLite has one JSON, and adds no CHECK to a table that exists. Rows that somebody
# has written by hand do not stop an upgrade; new rows are checked in any case.
_JSONB = (
    ("models", "card"), ("jobs", "options"), ("jobs", "skipped"), ("captions", "word_log_probabilities"),
    ("captions", "alternatives"), ("workers", "models"), ("workers", "roots"),
)  # fmt: skip
_CHECKS = (
    ("captions", "confidence", "confidence BETWEEN 0 AND 1"),
    ("captions", "source", "source IN ('machine', 'human', 'imported')"),
    ("captions", "model", "(source = 'machine') = (model_id IS NOT NULL)"),
    ("images", "size", "width > 0 AND height > 0 AND bytes >= 0"),
    ("files", "size", "size >= 0"),
)
_CHECK = """
DO $$ BEGIN
    ALTER TABLE {table} ADD CONSTRAINT ck_{table}_{name} CHECK ({condition}) NOT VALID;
    BEGIN
        ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{name};
    EXCEPTION WHEN check_violation THEN NULL;
    END;
END $$
"""
# A role belongs to the whole server: others may have made it, and who upgrades need not be allowed to.
_READER = """
DO $$ BEGIN
    BEGIN
        CREATE ROLE captionmill_reader NOLOGIN;
    EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
    END;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'captionmill_reader') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO captionmill_reader', current_schema());
        GRANT SELECT ON caption_export TO captionmill_reader;
    END IF;
END $$
"""
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    # Alembic cannot add a foreign key to a table of SQLite; both databases accept this form
    key = "INTEGER" if is_sqlite else "BIGINT"
    op.execute(f"ALTER TABLE captions ADD COLUMN file_id {key} CONSTRAINT fk_captions_file_id REFERENCES files (id)")
    op.add_column("captions", sa.Column("original", sa.Text(), nullable=True))
    op.add_column("captions", sa.Column("withdrawn_at", sa.Double(), nullable=True))
    op.add_column("images", sa.Column("pixels", sa.Text(), nullable=True))
    own = sa.text("file_id IS NOT NULL")
    op.create_index("ix_captions_file_id", "captions", ["file_id"], sqlite_where=own, postgresql_where=own)
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("detail", _JSON, nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("undone_by", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_changes")),
        sa.ForeignKeyConstraint(["undone_by"], ["changes.id"], name=op.f("fk_changes_undone_by")),
    )
    op.create_table(
        "edits",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("change_id", sa.Integer(), nullable=False),
        sa.Column("caption_id", _BIG, nullable=False),
        sa.Column("file_id", _BIG, nullable=True),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_edits")),
        sa.ForeignKeyConstraint(["change_id"], ["changes.id"], name=op.f("fk_edits_change_id")),
        sa.ForeignKeyConstraint(["caption_id"], ["captions.id"], name=op.f("fk_edits_caption_id")),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_edits_file_id")),
    )
    for column in ("change_id", "caption_id", "file_id"):
        op.create_index(f"ix_edits_{column}", "edits", [column])
    op.create_table(
        "sidecars",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("path_bytes", sa.LargeBinary(), nullable=False),
        sa.Column("path_hash", sa.LargeBinary(), nullable=False),
        sa.Column("change_id", sa.Integer(), nullable=False),
        sa.Column("how", sa.Text(), nullable=False),
        sa.Column("before", sa.LargeBinary(), nullable=True),
        sa.Column("replaced", sa.Text(), nullable=True),
        sa.Column("written", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sidecars")),
        sa.UniqueConstraint("path_hash", name=op.f("uq_sidecars_path_hash")),
        sa.ForeignKeyConstraint(["change_id"], ["changes.id"], name=op.f("fk_sidecars_change_id")),
    )
    op.create_index("ix_sidecars_change_id", "sidecars", ["change_id"])
    written_at = _ISO if is_sqlite else "to_timestamp(c.created_at)"
    if not is_sqlite:
        for table, column in _JSONB:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE jsonb USING {column}::jsonb")
        for table, name, condition in _CHECKS:
            op.execute(_CHECK.format(table=table, name=name, condition=condition))
    _FIRST._replace_view(_VIEW.replace("{written_at}", written_at))
    if not is_sqlite:
        op.execute(_READER)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP VIEW caption_export")  # a view cannot be replaced by one with fewer columns
        for table, name, _ in _CHECKS:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{name}")
        for table, column in _JSONB:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE json USING {column}::json")
    _FIRST._replace_view(_BEFORE._VIEW)
    for table in ("sidecars", "edits", "changes"):
        op.drop_table(table)
    # what people wrote stays, but as in 0003 it belongs to the content; what an undo took back goes
    op.execute("DELETE FROM captions WHERE withdrawn_at IS NOT NULL")
    op.execute("UPDATE captions SET text = original WHERE original IS NOT NULL AND source = 'machine'")
    op.drop_index("ix_captions_file_id", "captions")
    for table, column in (("images", "pixels"), ("captions", "withdrawn_at"), ("captions", "original")):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    op.execute("ALTER TABLE captions DROP COLUMN file_id")
