"""Comments on tables, columns and the view, for those who look at the database with its own tools.

They are those of `captioning.store.schema`, written anew by every upgrade, so that they need no migrations.
"""

import sqlalchemy as sa
from sqlalchemy.schema import SetColumnComment, SetTableComment

from captioning.store.database import Database
from captioning.store.schema import EXPORT_VIEW, Base


def write_comments(db: Database) -> None:
    """Write the comments to PostgreSQL. SQLite has none."""
    if db.is_sqlite:
        return
    with db.writing() as connection:
        for table in Base.metadata.sorted_tables:
            connection.execute(SetTableComment(table))
            _comment_columns(connection, table)
        about = sa.literal(EXPORT_VIEW.comment).compile(connection, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(f"COMMENT ON VIEW {EXPORT_VIEW.name} IS {about}")
        _comment_columns(connection, EXPORT_VIEW)


def _comment_columns(connection: sa.Connection, table: sa.Table) -> None:
    for column in table.columns:
        connection.execute(SetColumnComment(column))
