"""Count the rows of the main tables."""

from captioning.store.database import Database


def row_counts(db: Database) -> dict[str, int]:
    """Return the number of rows of each main table."""
    with db.reading() as connection:
        return {
            table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
            for table in ("files", "images", "captions", "items", "chunks", "jobs")
        }
