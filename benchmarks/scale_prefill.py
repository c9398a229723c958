"""Write the rows of the first part of every job with a few statements, as if workers had captioned it.

So the cost of an item in a job of a million can be measured without captioning a million images. The rows are those
that workers would have written, except for times and fences.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain

import sqlalchemy as sa

from benchmarks.scale_deployment import Deployment
from benchmarks.scale_images import original, png
from captioning.store import jobs
from captioning.store.database import Database
from captioning.values import DecodeOptions
from tests.faults.stub_captioner import expected_caption

_PAGE = 20_000
_TABLE = (
    "CREATE TABLE prefill (item bigint, file bigint, chunk bigint, state text, sha256 text, caption text, size bigint)"
)
_STATEMENTS = (
    "INSERT INTO images (sha256, width, height, format, bytes)"
    " SELECT sha256, 8, 8, 'PNG', size FROM prefill WHERE state = 'captioned' ORDER BY item",
    "INSERT INTO captions (image_id, source, model_id, options_digest, text, confidence, log_probability, weakest_word,"
    " word_log_probabilities, alternatives, runtime, precision, software, created_at)"
    " SELECT i.id, 'machine', (SELECT max(model_id) FROM jobs), '{digest}', p.caption, 0.6, -5.0, 'dog',"
    " '[-0.5, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5]',"
    """ '[{{"text": "a cat", "log_probability": -9.0}}]', 'stub', 'fp32', '0', 1.0"""
    " FROM prefill p JOIN images i ON i.sha256 = p.sha256 WHERE p.state = 'captioned' ORDER BY p.item",
    "UPDATE files SET image_id = i.id FROM prefill p JOIN images i ON i.sha256 = p.sha256 WHERE p.file = files.id",
    "UPDATE items SET state = p.state, finished_at = 1.0 FROM prefill p WHERE p.item = items.id",
    "UPDATE chunks SET state = 'done', fence = 1, captioned = n.captioned, reused = size - n.captioned,"
    " model_runs = n.captioned FROM (SELECT chunk, count(CASE WHEN state = 'captioned' THEN 1 END) AS captioned"
    " FROM prefill GROUP BY chunk) n WHERE n.chunk = chunks.id",
    "DROP TABLE prefill",
)


def prefill(deployment: Deployment, per_job: int, share: float) -> int:
    """Write the results of the first `share` of every job; return the number of items. `per_job`: items of a job."""
    in_order = sorted(jobs.progress(deployment.db), key=lambda p: p.job)
    pages = (_pages(deployment, progress.job, index, per_job, share) for index, progress in enumerate(in_order))
    done, captioned = write_results(deployment.db, chain.from_iterable(pages))
    with deployment.model_runs_file.open("ab") as model_runs:
        model_runs.write(b"." * captioned)
    return done


def write_results(db: Database, pages: Iterable[list[dict[str, object]]]) -> tuple[int, int]:
    """Write the results of items, given as rows of `_TABLE`; return how many, and how many are captioned."""
    with db.writing() as connection:
        connection.exec_driver_sql(_TABLE)
    done = captioned = 0
    for rows in pages:
        _insert(db, rows)
        done += len(rows)
        captioned += sum(row["state"] == "captioned" for row in rows)
    with db.writing() as connection:
        for statement in _STATEMENTS:
            connection.exec_driver_sql(statement.format(digest=DecodeOptions().digest))
    if not db.is_sqlite:  # autovacuum would have done this in the meantime
        with closing(db.engine.raw_connection()) as connection:
            connection.cursor().execute("VACUUM ANALYZE")  # which no transaction may contain
    return done, captioned


def _pages(
    deployment: Deployment, job: int, index: int, per_job: int, share: float
) -> Iterator[list[dict[str, object]]]:
    """Yield the items of a job's first chunks, page by page, with the results of a worker.

    `index`: the number of the job's folder.
    """
    query = sa.text(
        "SELECT t.id, t.file_id, t.chunk_id, f.path, f.size FROM items t JOIN files f ON f.id = t.file_id"
        " JOIN chunks c ON c.id = t.chunk_id WHERE t.job_id = :job AND t.id > :last"
        " AND c.seq <= (SELECT max(seq) FROM chunks WHERE job_id = :job) * :share ORDER BY t.id LIMIT :page"
    )
    last = 0
    while True:
        with deployment.db.reading() as connection:
            page = connection.execute(query, {"job": job, "last": last, "share": share, "page": _PAGE}).all()
        if not page:
            return
        last = page[-1].id
        rows: list[dict[str, object]] = []
        for item, file, chunk, path, size in page:
            i = int(path[-13:-4])  # of 000000042.png
            number = original(i, per_job)
            sha256 = hashlib.sha256(png(index, number)).hexdigest()
            state = "captioned" if number == i else "reused"
            rows.append(
                {"item": item, "file": file, "chunk": chunk, "state": state, "sha256": sha256}
                | {"caption": expected_caption(sha256), "size": size}
            )
        yield rows


def _insert(db: Database, rows: list[dict[str, object]]) -> None:
    with db.writing() as connection:
        names = list(rows[0])
        if db.is_sqlite:
            marks = ", ".join(f":{name}" for name in names)
            connection.connection.cursor().executemany(f"INSERT INTO prefill VALUES ({marks})", rows)  # noqa: S608
            return
        with connection.connection.cursor().copy("COPY prefill FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])
