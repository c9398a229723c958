"""Index files by path, and let PostgreSQL record the result of an item without touching an index."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _index_failed("reason IS NOT NULL")
    op.create_index("ix_files_path", "files", ["root_id", sa.text("substr(path, 1, 250)")])
    _fill_pages_of_items(60)


def downgrade() -> None:
    _fill_pages_of_items(100)
    op.drop_index("ix_files_path", table_name="files")
    _index_failed("state = 'failed'")


def _index_failed(condition: str) -> None:
    where = sa.text(condition)
    op.drop_index("ix_items_failed", table_name="items")
    op.create_index("ix_items_failed", "items", ["job_id", "reason"], sqlite_where=where, postgresql_where=where)


def _fill_pages_of_items(percent: int) -> None:
    """Leave room in a page for the second version of its items, each of which is updated once (PostgreSQL only)."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE items SET (fillfactor = {percent})")
