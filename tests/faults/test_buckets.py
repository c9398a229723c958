"""A bucket that is slow and fails now and then, and a worker that is killed: each object ends with the right result."""

import hashlib
import time

import pytest

from captioning.store import jobs
from tests.faults.stub_captioner import expected_caption
from tests.faults.world import World, png
from tests.support.failing_bucket import lasting_status
from tests.support.s3 import Bucket, failing_way_to

REASONS = {403: "forbidden", 404: "missing", 500: "unreadable"}
SLOW = 0.2  # seconds, at most, before an answer


@pytest.mark.stores("postgresql")
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_every_object_is_captioned_or_fails_with_its_reason_though_a_worker_is_killed(
    world: World, bucket: Bucket, count: int
) -> None:
    objects = {f"{i % 7}/{i:05d}.png": png(i) for i in range(count)}
    bucket.put(objects)
    statuses = {key: status for key in objects if (status := lasting_status(key)) is not None}
    world.settings |= bucket.settings | {
        "CAPTIONING_CHUNK_SIZE": "128" if count > 1000 else "32",
        "CAPTIONING_BATCH_SIZE": "16",
        "CAPTIONING_MISSING_GRACE_SECONDS": "2",
        "FAULTS_SECONDS_PER_IMAGE": "0.001",
        "FAULTS_BACKOFF_SECONDS": "2",
    }
    with failing_way_to(bucket.endpoint, seconds=SLOW) as way:
        world.settings["CAPTIONING_S3_ENDPOINT"] = way
        started = time.monotonic()
        world.run_producer("submit", bucket.url)
        submitted = time.monotonic()
        worker = world.start_worker()
        world.wait_for_items(1, 60)
        first = time.monotonic()
        world.wait_for_items(count // 3, 600)
        killed = time.monotonic()
        world.kill(worker)
        world.start_worker()
        world.wait_until_finished(900)
        print(f"submit {submitted - started:.1f} s, captions {time.monotonic() - submitted:.1f} s, with a kill;")
        print(f"the first third {killed - first:.1f} s, from the first caption to the kill")
    assert jobs.progress(world.db)[0].total == count
    results = results_of(world)
    expected = {
        f"{bucket.url}/{key}": REASONS[statuses[key]]
        if key in statuses
        else expected_caption(hashlib.sha256(data).hexdigest())
        for key, data in objects.items()
    }
    assert results == expected


def results_of(world: World) -> dict[str, str]:
    """Return the caption, or the reason, of every item by its URL."""
    query = (
        "SELECT r.path || '/' || f.path, coalesce(i.reason, c.text) FROM items i JOIN files f ON f.id = i.file_id"
        " JOIN roots r ON r.id = f.root_id LEFT JOIN captions c ON c.image_id = f.image_id"
    )
    with world.db.reading() as connection:
        rows = connection.exec_driver_sql(query).all()
    results = {str(path): str(result) for path, result in rows}
    assert len(results) == len(rows), "an object has two captions"
    return results
