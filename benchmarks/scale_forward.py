"""Puts a job forward: the rows of its first part are written by a few statements, as if workers had captioned it.

So what an item costs in a job of a million can be measured without captioning a million. The rows are those that
workers would have left, but for times and fences.
"""

import hashlib
from collections.abc import Iterator

import sqlalchemy as sa

from benchmarks.scale_deployment import World
from benchmarks.scale_images import original, png
from captioning.store import jobs
from captioning.values import DecodeOptions
from tests.faults.stub_captioner import oracle

_PAGE = 20_000
_TABLE = (
    "CREATE TABLE forward (item bigint, file bigint, chunk bigint, state text, sha256 text, said text, size bigint)"
)
_STATEMENTS = (
    "INSERT INTO images (sha256, width, height, format, bytes)"
    " SELECT sha256, 8, 8, 'PNG', size FROM forward WHERE state = 'captioned' ORDER BY item",
    "INSERT INTO captions (image_id, source, model_id, options_digest, text, confidence, log_probability, weakest_word,"
    " word_log_probabilities, alternatives, runtime, precision, software, created_at)"
    " SELECT i.id, 'machine', (SELECT max(model_id) FROM jobs), '{digest}', f.said, 0.6, -5.0, 'dog',"
    " '[-0.5, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5]',"
    """ '[{{"text": "a cat", "log_probability": -9.0}}]', 'stub', 'fp32', '0', 1.0"""
    " FROM forward f JOIN images i ON i.sha256 = f.sha256 WHERE f.state = 'captioned' ORDER BY f.item",
    "UPDATE files SET image_id = i.id FROM forward f JOIN images i ON i.sha256 = f.sha256 WHERE f.file = files.id",
    "UPDATE items SET state = f.state, finished_at = 1.0 FROM forward f WHERE f.item = items.id",
    "UPDATE chunks SET state = 'done', fence = 1, captioned = n.captioned, reused = size - n.captioned,"
    " model_runs = n.captioned FROM (SELECT chunk, count(CASE WHEN state = 'captioned' THEN 1 END) AS captioned"
    " FROM forward GROUP BY chunk) n WHERE n.chunk = chunks.id",
    "DROP TABLE forward",
)


def put_forward(world: World, each: int, share: float) -> int:
    """Have the first part of every job done; return how many items that are. `each`: items of a job."""
    with world.db.writing() as connection:
        connection.exec_driver_sql(_TABLE)
    done = captioned = 0
    for place, progress in enumerate(sorted(jobs.progress(world.db), key=lambda p: p.job)):
        for rows in _rows(world, progress.job, place, each, share):
            _insert(world, rows)
            done += len(rows)
            captioned += sum(row["state"] == "captioned" for row in rows)
    with world.db.writing() as connection:
        for statement in _STATEMENTS:
            connection.exec_driver_sql(statement.format(digest=DecodeOptions().digest))
    if not world.db.is_sqlite:  # as autovacuum would have done on the way
        with world.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    with (world.folder / "place" / "model-calls").open("ab") as calls:
        calls.write(b"." * captioned)
    return done


def _rows(world: World, job: int, place: int, each: int, share: float) -> Iterator[list[dict[str, object]]]:
    """Yield the items of a job's first chunks, with what a worker would have found and said."""
    query = sa.text(
        "SELECT t.id, t.file_id, t.chunk_id, f.path, f.size FROM items t JOIN files f ON f.id = t.file_id"
        " JOIN chunks c ON c.id = t.chunk_id WHERE t.job_id = :job AND t.id > :last"
        " AND c.seq <= (SELECT max(seq) FROM chunks WHERE job_id = :job) * :share ORDER BY t.id LIMIT :page"
    )
    last = 0
    while True:
        with world.db.reading() as connection:
            found = connection.execute(query, {"job": job, "last": last, "share": share, "page": _PAGE}).all()
        if not found:
            return
        last = found[-1].id
        rows = []
        for item, file, chunk, path, size in found:
            i = int(path[-13:-4])  # of 000000042.png
            number = original(i, each)
            sha256 = hashlib.sha256(png(place, number)).hexdigest()
            state = "captioned" if number == i else "reused"
            rows.append(
                {"item": item, "file": file, "chunk": chunk, "state": state, "sha256": sha256}
                | {"said": oracle(sha256), "size": size}
            )
        yield rows


def _insert(world: World, rows: list[dict[str, object]]) -> None:
    with world.db.writing() as connection:
        names = list(rows[0])
        if world.db.is_sqlite:
            marks = ", ".join(f":{name}" for name in names)
            connection.connection.cursor().executemany(f"INSERT INTO forward VALUES ({marks})", rows)  # noqa: S608
            return
        with connection.connection.cursor().copy("COPY forward FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])
