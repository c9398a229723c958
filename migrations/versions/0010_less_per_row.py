"""Index captions by confidence and time, and files by size; let PostgreSQL check fewer foreign keys.

A foreign key costs 4 us for each row that refers to another one, where registering a file takes 30 us. So the keys of
registered files, to rows that are never removed or that the writer has locked, become triggers on the other tables.
What is written for a caption keeps all its keys. SQLite checks a key in a tenth of that time, and keeps all.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_KEYS = (
    ("files", "root_id", "roots"),
    ("files", "mount_id", "mounts"),
    ("items", "job_id", "jobs"),
    ("items", "chunk_id", "chunks"),
)
_KEEP = """
CREATE FUNCTION captionmill_keep_{parent}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {is_used} THEN
        RAISE EXCEPTION 'other rows refer to row % of {parent}', OLD.id USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$
"""
_TRIGGER = """
CREATE TRIGGER keep_rows BEFORE DELETE OR UPDATE OF id ON {parent}
FOR EACH ROW EXECUTE FUNCTION captionmill_keep_{parent}()
"""


def upgrade() -> None:
    op.create_index("ix_captions_confidence_id", "captions", ["confidence", "id"])
    op.create_index("ix_captions_created_at_id", "captions", ["created_at", "id"])
    op.create_index("ix_files_size", "files", ["size"])
    if op.get_bind().dialect.name != "postgresql":
        return
    for parent in _parents():
        uses = (f"EXISTS (SELECT FROM {child} WHERE {column} = OLD.id)" for child, column, of in _KEYS if of == parent)
        op.execute(_KEEP.format(parent=parent, is_used=" OR ".join(uses)))
        op.execute(_TRIGGER.format(parent=parent))
    for child, column, _parent in _KEYS:
        op.drop_constraint(f"fk_{child}_{column}", child, type_="foreignkey")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for child, column, parent in _KEYS:
            op.create_foreign_key(f"fk_{child}_{column}", child, parent, [column], ["id"])
        for parent in _parents():
            op.execute(f"DROP TRIGGER keep_rows ON {parent}")
            op.execute(f"DROP FUNCTION captionmill_keep_{parent}()")
    op.drop_index("ix_files_size", table_name="files")
    op.drop_index("ix_captions_created_at_id", table_name="captions")
    op.drop_index("ix_captions_confidence_id", table_name="captions")


def _parents() -> list[str]:
    return sorted({parent for _, _, parent in _KEYS})
