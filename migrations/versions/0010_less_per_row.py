"""Index captions by confidence and time; let PostgreSQL keep rows by triggers that cost nothing when others refer to them.

A foreign key costs 4 us for each row that refers to another one, and workers that refer to the same one at the same
time wait for each other. So keys to rows that are never removed, or that the writer has locked, become triggers on
the tables that they refer to. SQLite checks a key in a tenth of that time, and keeps all.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_KEYS = (
    ("captions", "model_id", "models"),
    ("features", "encoder_id", "encoders"),
    ("features", "image_id", "images"),
    ("files", "root_id", "roots"),
    ("files", "mount_id", "mounts"),
    ("items", "job_id", "jobs"),
)
_NEVER_REMOVED = ("models", "encoders", "roots", "mounts")
_REMOVED_LAST = {"images": ("features", "image_id"), "jobs": ("items", "job_id")}

_KEEP_TABLE = """
CREATE FUNCTION captionmill_keep_rows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never removed, because others refer to them', TG_TABLE_NAME
        USING ERRCODE = 'foreign_key_violation';
END $$
"""
_KEEP_REFERENCED = """
CREATE FUNCTION captionmill_keep_{parent}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM {child} WHERE {column} = OLD.id) THEN
        RAISE EXCEPTION 'row % of {parent} has {child}', OLD.id USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$
"""


def upgrade() -> None:
    op.create_index("ix_captions_confidence_id", "captions", ["confidence", "id"])
    op.create_index("ix_captions_created_at_id", "captions", ["created_at", "id"])
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(_KEEP_TABLE)
    for table in _NEVER_REMOVED:
        events = "BEFORE DELETE OR TRUNCATE OR UPDATE OF id"
        op.execute(f"CREATE TRIGGER keep_rows {events} ON {table} EXECUTE FUNCTION captionmill_keep_rows()")
    for parent, (child, column) in _REMOVED_LAST.items():
        op.execute(_KEEP_REFERENCED.format(parent=parent, child=child, column=column))
        events = "BEFORE DELETE OR UPDATE OF id"
        op.execute(
            f"CREATE TRIGGER keep_rows {events} ON {parent} FOR EACH ROW EXECUTE FUNCTION captionmill_keep_{parent}()"
        )
    for child, column, _parent in _KEYS:
        op.drop_constraint(f"fk_{child}_{column}", child, type_="foreignkey")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for child, column, parent in _KEYS:
            op.create_foreign_key(f"fk_{child}_{column}", child, parent, [column], ["id"])
        for table in (*_NEVER_REMOVED, *_REMOVED_LAST):
            op.execute(f"DROP TRIGGER keep_rows ON {table}")
        for function in ("rows", *_REMOVED_LAST):
            op.execute(f"DROP FUNCTION captionmill_keep_{function}()")
    op.drop_index("ix_captions_created_at_id", table_name="captions")
    op.drop_index("ix_captions_confidence_id", table_name="captions")
