"""Keep with each file its mount, its ctime and why it failed; with each job and worker what follows from that."""

import importlib

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# One row per file that is not missing, as in 0001; the state is that of the file now, not that of its last job.
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
       {captioned_at} AS captioned_at
FROM files f
JOIN roots r ON r.id = f.root_id
LEFT JOIN images i ON i.id = f.image_id
LEFT JOIN captions c ON c.id = (
    SELECT b.id FROM captions b LEFT JOIN models d ON d.id = b.model_id
    WHERE b.image_id = f.image_id
    ORDER BY CASE WHEN b.source = 'human' THEN 0 WHEN b.source = 'imported' THEN 1 WHEN d.is_default THEN 2 ELSE 3 END,
             b.created_at DESC, b.id DESC
    LIMIT 1)
LEFT JOIN models m ON m.id = c.model_id
WHERE f.missing_since IS NULL
"""

# Alembic cannot add a foreign key to a table of SQLite; both databases accept this form.
_COLUMNS = (
    "ALTER TABLE files ADD COLUMN ctime_ns BIGINT",
    "ALTER TABLE files ADD COLUMN mount_id INTEGER CONSTRAINT fk_files_mount_id REFERENCES mounts (id)",
    "ALTER TABLE files ADD COLUMN failed_reason TEXT",
    "ALTER TABLE files ADD COLUMN failed_detail TEXT",
    "ALTER TABLE files ADD COLUMN failed_capability_id INTEGER"
    " CONSTRAINT fk_files_failed_capability_id REFERENCES capabilities (id)",
    "ALTER TABLE jobs ADD COLUMN failed_before BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE workers ADD COLUMN capability TEXT",
)
_FAILURES = """
UPDATE files SET
    failed_reason = (SELECT i.reason FROM items i WHERE i.id = (SELECT max(id) FROM items WHERE file_id = files.id)),
    failed_detail = (SELECT i.detail FROM items i WHERE i.id = (SELECT max(id) FROM items WHERE file_id = files.id))
WHERE image_id IS NULL AND id IN (SELECT file_id FROM items WHERE state = 'failed')
"""  # an item that has not failed has no reason


def upgrade() -> None:
    for table, column in (("mounts", "identity"), ("capabilities", "text")):
        op.create_table(
            table,
            sa.Column("id", sa.Integer(), nullable=False),
            sa.Column(column, sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
            sa.UniqueConstraint(column, name=op.f(f"uq_{table}_{column}")),
        )
    op.create_table(
        "forgotten_jobs",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_forgotten_jobs")),
    )
    for statement in _COLUMNS:
        op.execute(statement)
    failed = "failed_reason IS NOT NULL"
    op.create_index("ix_files_failed", "files", ["id"], sqlite_where=sa.text(failed), postgresql_where=sa.text(failed))
    op.execute(_FAILURES)
    _replace_view(_VIEW)


def downgrade() -> None:
    _replace_view(importlib.import_module("migrations.versions.0001_initial_schema")._VIEW)
    op.drop_index("ix_files_failed", "files")
    for table, column in (
        ("workers", "capability"),
        ("jobs", "failed_before"),
        ("files", "failed_capability_id"),
        ("files", "failed_detail"),
        ("files", "failed_reason"),
        ("files", "mount_id"),
        ("files", "ctime_ns"),
    ):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    op.drop_table("forgotten_jobs")
    op.drop_table("capabilities")
    op.drop_table("mounts")


def _replace_view(view: str) -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    captioned_at = (
        "strftime('%Y-%m-%dT%H:%M:%SZ', c.created_at, 'unixepoch')"
        if is_sqlite
        else """to_char(to_timestamp(c.created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
    )
    statement = view.format(captioned_at=captioned_at)
    if is_sqlite:
        op.execute("DROP VIEW caption_export")
    else:  # keeps the rights that people have on it, and their views that use it
        statement = statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1)
    op.execute(statement)
