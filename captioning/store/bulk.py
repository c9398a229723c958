"""Many rows in one statement: inserts, updates and conditions.

PostgreSQL gets rows that nobody else can have with COPY. It gets others as one JSON document, which it unfolds into a
table: that is as fast as COPY into a temporary table and needs none, which would bloat the catalogs of a server that
gets hundreds of batches a second. SQLite has no round trips: it executes a prepared statement for each row.
"""

from collections.abc import Collection, Mapping, Sequence, Set
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase

from captioning.store.documents import array_text, json_bytes, json_text

Table = type[DeclarativeBase]
Row = Mapping[str, Any]


_NEXT_IDS = sa.text(
    "SELECT nextval(ids) FROM (SELECT pg_get_serial_sequence(:table, 'id')::regclass AS ids OFFSET 0) AS sequence,"
    " generate_series(1, :n)"
)
_DOCUMENT = sa.cast(sa.bindparam("rows", type_=sa.Text), sa.JSON)


class _Array(sa.types.UserDefinedType[Any]):
    """An array as one parameter of PostgreSQL."""

    cache_ok = True
    render_bind_cast = True  # so that the server plans with the values, not with a text that may become any array

    def __init__(self, of: str) -> None:
        self.of = of

    def get_col_spec(self, **_: Any) -> str:
        return f"{self.of}[]"

    def bind_processor(self, dialect: object) -> Any:
        return array_text


def insert_or_ignore(connection: Connection, table: Table, rows: Sequence[Row], *returning: Any) -> Sequence[Any]:
    """Insert rows; rows that exist already stay as they are. All rows have the same columns.

    Return columns of the rows that were inserted, where the database can tell: SQLite returns none.
    """
    if rows and connection.dialect.name == "postgresql":
        result = connection.execute(_insert_or_ignore(table, tuple(rows[0]), returning), {"rows": json_text(rows)})
        return result.all() if returning else ()
    _insert_each(connection, table, rows, " ON CONFLICT DO NOTHING")
    return ()


def insert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows that nobody else can have inserted. All rows have the same columns."""
    if rows and connection.dialect.name == "postgresql":
        _copy(connection, table, rows)
    else:
        _insert_each(connection, table, rows)


def insert_new(connection: Connection, table: Table, rows: Sequence[Row], key: Any) -> dict[Any, int]:
    """Insert rows that are not there as far as this transaction knows; return the ids of those that it has inserted.

    `key` is the column by which they are returned. Rows that somebody else has just inserted stay as they are.
    """
    if not rows:
        return {}
    numbered = [{"id": i, **row} for i, row in zip(_new_ids(connection, table, len(rows)), rows, strict=True)]
    try:
        with nullcontext() if connection.dialect.name == "sqlite" else connection.begin_nested():
            insert(connection, table, numbered)
    except sa.exc.IntegrityError:
        if connection.dialect.name == "sqlite":  # nobody else writes
            raise
        return dict(insert_or_ignore(connection, table, rows, key, table.id))  # type: ignore[attr-defined]
    return {row[key.key]: row["id"] for row in numbered}


def _new_ids(connection: Connection, table: Table, n: int) -> Sequence[int]:
    """Return ids that no row has. On SQLite this transaction is the only one that writes."""
    name = table.__tablename__
    if connection.dialect.name == "sqlite":
        last = connection.exec_driver_sql(f"SELECT coalesce(max(id), 0) FROM {name}").scalar_one()  # noqa: S608
        return range(last + 1, last + 1 + n)
    return connection.execute(_NEXT_IDS, {"table": name, "n": n}).scalars().all()


def insert_for_images(connection: Connection, table: Table, rows: Sequence[Row], new: Set[int]) -> None:
    """Insert a row for each image, or ignore it where there is one; two for one image count as one.

    `new` has the ids of images that this transaction has inserted: nobody else can have rows for them.
    """
    by_image = {row["image_id"]: row for row in reversed(rows)}
    in_order = [by_image[image_id] for image_id in sorted(by_image)]
    insert(connection, table, [row for row in in_order if row["image_id"] in new])
    insert_or_ignore(connection, table, [row for row in in_order if row["image_id"] not in new])


def update_rows(connection: Connection, table: Table, rows: Sequence[Row], **was: str) -> None:
    """Update rows, given by their `id`, in the order of their ids, or two transactions would wait in a circle.

    `was`: update only rows that are unchanged. It has columns, by the names that `rows` have for what was in them (a
    null counts as 0). All rows have the same columns.
    """
    in_order = sorted(rows, key=lambda row: row["id"])
    if rows and connection.dialect.name == "postgresql":
        connection.execute(_update(table, tuple(rows[0]), tuple(was.items())), {"rows": json_text(in_order)})
    elif rows:
        _update_each(connection, table, in_order, was)


def is_one_of(connection: Connection, column: Any, values: Collection[Any]) -> sa.ColumnElement[bool]:
    """Return the condition for a column to have one of some values, which are one parameter where they can be."""
    if connection.dialect.name == "postgresql":
        array = sa.bindparam(None, values, type_=_Array(column.type.compile(connection.dialect)))
        return sa.type_coerce(column == sa.func.any(array), sa.Boolean())
    if isinstance(column.type, sa.LargeBinary):  # JSON has no bytes
        return sa.type_coerce(column.in_(sa.bindparam(None, list(values), expanding=True)), sa.Boolean())
    document = sa.bindparam(None, json_text(list(values)), type_=sa.Text)
    return sa.type_coerce(
        column.in_(sa.select(sa.func.json_each(document).table_valued("value").c.value)), sa.Boolean()
    )


# -- PostgreSQL: statements that take rows as a document --


def _unfolded(table: Table, columns: Mapping[str, str]) -> Any:
    """Return the rows of a document as a table; `columns` has the columns of `table` by the names in the document."""
    types = {name: table.__table__.c[column].type for name, column in columns.items()}
    is_binary = {name: isinstance(type_, sa.LargeBinary) for name, type_ in types.items()}
    typed = [sa.column(name, sa.Text() if is_binary[name] else type_) for name, type_ in types.items()]
    new = sa.func.json_to_recordset(_DOCUMENT).table_valued(*typed, name="text").render_derived(with_types=True)
    values = (sa.func.decode(new.c[n], "base64").label(n) if binary else new.c[n] for n, binary in is_binary.items())
    return sa.select(*values).subquery("new")


@lru_cache
def _insert_or_ignore(table: Table, columns: tuple[str, ...], returning: tuple[Any, ...]) -> Any:
    new = _unfolded(table, dict(zip(columns, columns, strict=True)))
    rows = sa.select(*(new.c[name] for name in columns))
    insert = postgresql.insert(table).from_select(columns, rows, include_defaults=False).on_conflict_do_nothing()
    return insert.returning(*returning) if returning else insert


@lru_cache
def _update(table: Table, names: tuple[str, ...], were: tuple[tuple[str, str], ...]) -> sa.Update:
    """Return an update that first locks the rows in the order of their ids."""
    was = dict(were)
    new = _unfolded(table, {name: was.get(name, name) for name in names})
    old = table.__table__.alias()
    same = (sa.func.coalesce(old.c[column], 0) == new.c[name] for name, column in was.items())
    rows = sa.select(*(new.c[name] for name in names)).join_from(new, old, sa.and_(old.c.id == new.c.id, *same))
    locked = rows.order_by(old.c.id).with_for_update(of=old, key_share=True).subquery("locked")
    values = {name: locked.c[name] for name in names if name != "id" and name not in was}
    return sa.update(table).where(table.__table__.c.id == locked.c.id).values(values)


def _copy(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Send rows with COPY. Its errors become those of SQLAlchemy, which closes a broken connection."""
    import psycopg  # takes a moment, and SQLite does not need it
    from psycopg.types.string import BytesBinaryDumper

    statement, types, json_columns = _copy_statement(table, tuple(rows[0]))
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            cursor.adapters.register_dumper(bytes, BytesBinaryDumper)  # the one of the DB API is slower
            copy.set_types(types)
            for row in rows:
                values = list(row.values())
                for i in json_columns:
                    values[i] = None if values[i] is None else b"\x01" + json_bytes(values[i])
                copy.write_row(values)
    except psycopg.Error as error:
        if connection.dialect.is_disconnect(error, driver, None):  # type: ignore[arg-type]
            connection.invalidate(error)
        raise sa.exc.DBAPIError.instance(statement, None, error, psycopg.Error) from error


@lru_cache
def _copy_statement(table: Table, columns: tuple[str, ...]) -> tuple[str, list[str], list[int]]:
    """Return the statement, the types of the columns, and the places of those of JSON, which are sent as bytes."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    names = [table.__table__.c[name].type.compile(dialect).lower() for name in columns]
    json_columns = [i for i, name in enumerate(names) if name == "jsonb"]
    types = ["bytea" if name == "jsonb" else name for name in names]
    return f"COPY {table.__tablename__} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)", types, json_columns


# -- SQLite: a statement as text, because SQLAlchemy takes longer to prepare the parameters than SQLite to use them --


def _insert_each(connection: Connection, table: Table, rows: Sequence[Row], conflict: str = "") -> None:
    if rows:
        names = ", ".join(map(_quoted, rows[0]))
        values = ", ".join("?" * len(rows[0]))
        statement = f"INSERT INTO {table.__tablename__} ({names}) VALUES ({values}){conflict}"  # noqa: S608
        connection.exec_driver_sql(statement, _values(table, rows))


def _update_each(connection: Connection, table: Table, rows: Sequence[Row], was: Mapping[str, str]) -> None:
    values = ", ".join(f"{_quoted(name)} = :{name}" for name in rows[0] if name != "id" and name not in was)
    same = "".join(f" AND coalesce({_quoted(column)}, 0) = :{name}" for name, column in was.items())
    connection.exec_driver_sql(f"UPDATE {table.__tablename__} SET {values} WHERE id = :id{same}", list(rows))  # noqa: S608


def _quoted(name: str) -> str:
    return f'"{name}"'


def _values(table: Table, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Return the values of rows as the driver takes them."""
    columns = table.__table__.c
    json_columns = [i for i, name in enumerate(rows[0]) if isinstance(columns[name].type, sa.JSON)]
    if not json_columns:
        return [tuple(row.values()) for row in rows]
    all_values = [list(row.values()) for row in rows]
    for values in all_values:
        for i in json_columns:
            values[i] = None if values[i] is None else json_text(values[i])
    return list(map(tuple, all_values))
