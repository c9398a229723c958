"""Create the tables, the export view and the search index."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# One row per file that is not missing. The preferred caption of an image is the newest human one, else the newest
# imported one, else the default model's, else the newest machine one. `captioning.store.captions.preferred_caption_id`
# is the same rule; a test compares the two.
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
       CASE WHEN c.id IS NOT NULL THEN 'captioned' WHEN t.state = 'failed' THEN 'failed' ELSE 'pending' END AS status,
       CASE WHEN c.id IS NULL AND t.state = 'failed' THEN t.reason || coalesce(': ' || t.detail, '') END AS error,
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
LEFT JOIN items t ON t.id = (SELECT max(id) FROM items WHERE file_id = f.id)
WHERE f.missing_since IS NULL
"""
_SQLITE = {"captioned_at": "strftime('%Y-%m-%dT%H:%M:%SZ', c.created_at, 'unixepoch')"}
_POSTGRESQL = {
    "captioned_at": """to_char(to_timestamp(c.created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
}

_SQLITE_SEARCH = (
    "CREATE VIRTUAL TABLE captions_fts USING fts5("
    "text, content='captions', content_rowid='id', tokenize='porter unicode61')",
    "CREATE TRIGGER captions_fts_insert AFTER INSERT ON captions BEGIN"
    " INSERT INTO captions_fts(rowid, text) VALUES (new.id, new.text); END",
    "CREATE TRIGGER captions_fts_delete AFTER DELETE ON captions BEGIN"
    " INSERT INTO captions_fts(captions_fts, rowid, text) VALUES ('delete', old.id, old.text); END",
    "CREATE TRIGGER captions_fts_update AFTER UPDATE OF text ON captions BEGIN"
    " INSERT INTO captions_fts(captions_fts, rowid, text) VALUES ('delete', old.id, old.text);"
    " INSERT INTO captions_fts(rowid, text) VALUES (new.id, new.text); END",
)
_SQLITE_SEARCH_DOWN = ("DROP TABLE captions_fts",)

# English, but with stop words, like FTS5: "on the beach" is three words on both databases.
_POSTGRESQL_SEARCH = (
    "CREATE TEXT SEARCH DICTIONARY captionmill_stem (TEMPLATE = snowball, LANGUAGE = english)",
    "CREATE TEXT SEARCH CONFIGURATION captionmill (COPY = english)",
    "ALTER TEXT SEARCH CONFIGURATION captionmill ALTER MAPPING FOR"
    " asciiword, asciihword, hword_asciipart, word, hword, hword_part WITH captionmill_stem",
    "CREATE INDEX captions_fts ON captions USING gin (to_tsvector('captionmill', text))",
)
_POSTGRESQL_SEARCH_DOWN = (
    "DROP INDEX captions_fts",
    "DROP TEXT SEARCH CONFIGURATION captionmill",
    "DROP TEXT SEARCH DICTIONARY captionmill_stem",
)


def upgrade() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("sha256", name=op.f("uq_images_sha256")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("digest", name=op.f("uq_models_digest")),
    )
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_models_name"), ["name"], unique=False)

    op.create_table(
        "roots",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("path_bytes", sa.LargeBinary(), nullable=False),
        sa.Column("path_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_roots")),
        sa.UniqueConstraint("name", name=op.f("uq_roots_name")),
        sa.UniqueConstraint("path_hash", name=op.f("uq_roots_path_hash")),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("heartbeat_at", sa.Double(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("roots", sa.JSON(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("dropped_messages", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "captions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("image_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=True),
        sa.Column("options_digest", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("log_probability", sa.Double(), nullable=True),
        sa.Column("weakest_word", sa.Text(), nullable=True),
        sa.Column("word_log_probabilities", sa.JSON(), nullable=True),
        sa.Column("alternatives", sa.JSON(), nullable=True),
        sa.Column("runtime", sa.Text(), nullable=True),
        sa.Column("precision", sa.Text(), nullable=True),
        sa.Column("software", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_captions_image_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_captions_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_captions")),
    )
    with op.batch_alter_table("captions", schema=None) as batch_op:
        batch_op.create_index("ix_captions_image_id", ["image_id"], unique=False)
        batch_op.create_index(
            "uq_captions_machine",
            ["image_id", "model_id", "options_digest"],
            unique=True,
            sqlite_where=sa.text("source = 'machine'"),
            postgresql_where=sa.text("source = 'machine'"),
        )

    op.create_table(
        "files",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("root_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("path_bytes", sa.LargeBinary(), nullable=False),
        sa.Column("path_hash", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("missing_since", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_files_image_id")),
        sa.ForeignKeyConstraint(["root_id"], ["roots.id"], name=op.f("fk_files_root_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
        sa.UniqueConstraint("root_id", "path_hash", name=op.f("uq_files_root_id_path_hash")),
    )
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_files_image_id"), ["image_id"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("options_digest", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("force", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("registered", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("known", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("skipped", sa.JSON(), nullable=False),
        sa.Column("last_claimed_at", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_jobs_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index("ix_jobs_key_state", ["key", "state"], unique=False)

    op.create_table(
        "chunks",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("root_id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("deferrals", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("leased_at", sa.Double(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("captioned", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reused", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("model_runs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_chunks_job_id")),
        sa.ForeignKeyConstraint(["root_id"], ["roots.id"], name=op.f("fk_chunks_root_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunks")),
        sa.UniqueConstraint("job_id", "seq", name=op.f("uq_chunks_job_id_seq")),
    )
    with op.batch_alter_table("chunks", schema=None) as batch_op:
        batch_op.create_index(
            "ix_chunks_open",
            ["job_id", "seq"],
            unique=False,
            sqlite_where=sa.text("state <> 'done'"),
            postgresql_where=sa.text("state <> 'done'"),
        )
        batch_op.create_index(
            "ix_chunks_open_root",
            ["root_id", "job_id"],
            unique=False,
            sqlite_where=sa.text("state <> 'done'"),
            postgresql_where=sa.text("state <> 'done'"),
        )

    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("file_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("chunk_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["chunk_id"], ["chunks.id"], name=op.f("fk_items_chunk_id")),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_items_file_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_items_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.UniqueConstraint("job_id", "file_id", name=op.f("uq_items_job_id_file_id")),
    )
    with op.batch_alter_table("items", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_items_chunk_id"), ["chunk_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_items_file_id"), ["file_id"], unique=False)
        batch_op.create_index(
            "ix_items_failed",
            ["job_id", "reason"],
            unique=False,
            sqlite_where=sa.text("state = 'failed'"),
            postgresql_where=sa.text("state = 'failed'"),
        )
    op.bulk_insert(sa.table("sweeps", sa.column("id"), sa.column("next_at")), [{"id": 1, "next_at": 0}])
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(_VIEW.format(**(_SQLITE if sqlite else _POSTGRESQL)))
    for statement in _SQLITE_SEARCH if sqlite else _POSTGRESQL_SEARCH:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP VIEW caption_export")
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _SQLITE_SEARCH_DOWN if sqlite else _POSTGRESQL_SEARCH_DOWN:
        op.execute(statement)
    for table in ("items", "chunks", "jobs", "files", "captions", "workers", "sweeps", "roots", "models", "images"):
        op.drop_table(table)
