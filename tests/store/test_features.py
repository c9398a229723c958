"""Features are stored with captions, and near-duplicates share a caption that stays theirs."""

from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from captioning.errors import CaptioningError
from captioning.features import DIMENSIONS, THUMBNAIL_BYTES, probes, unpack_thumbnails
from captioning.near_duplicates import Kind
from captioning.store import details, features, forget, jobs, leases, results, similar
from captioning.store.claims import Claim, ClaimedItem
from captioning.store.database import Database
from captioning.store.files import FoundFile, find_file
from captioning.store.outcomes import Outcome
from captioning.store.schema import Caption, Encoder, Features
from captioning.values import ItemState
from tests.store.helpers import LEASE_SECONDS, PROVENANCE, StoreDriver, captioned, sha256_of

ENCODER = replace(PROVENANCE, encoder="1:encoder")


def made_up(seed: int) -> tuple[bytes, bytes]:
    """Return a vector and a thumbnail, others for each seed."""
    rng = np.random.default_rng(seed)
    vector = rng.integers(-127, 128, DIMENSIONS).astype(np.int8).tobytes()
    return vector, rng.integers(0, 256, THUMBNAIL_BYTES, np.uint8).tobytes()


def seen(item: ClaimedItem, seed: int, text: str = "a dog runs") -> Outcome:
    """Return the outcome of an item that the model captioned, with features."""
    outcome, (vector, thumbnail) = captioned(item, text), made_up(seed)
    assert outcome.caption is not None
    return replace(outcome, caption=replace(outcome.caption, vector=vector), thumbnail=thumbnail)


def shared(item: ClaimedItem, source: ClaimedItem, seed: int) -> Outcome:
    outcome = captioned(item)
    return replace(
        outcome, state=ItemState.REUSED, caption=None, thumbnail=made_up(seed)[1], shared_from=sha256_of(source)
    )


def commit(driver: StoreDriver, claim: Claim, outcomes: list[Outcome]) -> None:
    results.commit_batch(driver.db, claim, outcomes, ENCODER, LEASE_SECONDS)


def count(db: Database, table: type) -> int:
    with db.reading() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_features_are_committed_with_the_caption_once_an_image_and_encoder(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(2)
    claim = driver.claim()
    outcomes = [seen(item, i) for i, item in enumerate(claim.items)]
    commit(driver, claim, outcomes)
    commit(driver, claim, outcomes)
    encoder = features.encoder_of_most(db)
    assert encoder is not None
    stored = features.load(db, encoder)
    assert [row.tobytes() for row in stored.images.vectors] == [made_up(0)[0], made_up(1)[0]]
    assert [row.tobytes() for row in stored.images.thumbnails] == [made_up(0)[1], made_up(1)[1]]
    assert count(db, Encoder) == 1


def test_near_duplicates_share_a_caption_of_the_same_batch_and_show_whose_it_is(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(2)
    claim = driver.claim()
    first, second = claim.items
    commit(driver, claim, [shared(second, first, 1), seen(first, 0, "two cats")])
    leases.complete(db, claim)
    progress = driver.progress(job)
    assert (progress.captioned, progress.reused, progress.model_runs) == (1, 1, 1)
    found = details.show(db, b"/photos/" + second.path)
    assert found is not None
    row, all_captions = found
    assert (row.caption, row.source, row.model) == ("two cats", "machine", "lstm")
    assert all_captions[0].shared_from == "/photos/" + first.path.decode()
    encoder = features.encoder_of_most(db)
    assert encoder is not None
    stored = features.load(db, encoder).images
    assert stored.vectors[0].tobytes() == stored.vectors[1].tobytes() == made_up(0)[0]


def test_an_image_whose_source_was_forgotten_is_tried_again(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(2)
    claim = driver.claim()
    first, second = claim.items
    with pytest.raises(CaptioningError, match="was removed by `producer forget`"):
        commit(driver, claim, [shared(second, first, 1)])
    assert count(db, Caption) == 0


def test_words_that_a_person_changed_are_not_shared(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(2)
    claim = driver.claim()
    first, second = claim.items
    commit(driver, claim, [seen(first, 0, "two cats")])
    with db.writing() as connection:
        connection.execute(sa.update(Caption).values(original=Caption.text, text="Tom and Jerry"))
    commit(driver, claim, [shared(second, first, 1)])
    found = details.show(db, b"/photos/" + second.path)
    assert found is not None
    assert found[0].caption == "two cats"


def test_a_forced_job_replaces_a_shared_caption_by_one_of_the_image(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(2)
    claim = driver.claim()
    first, second = claim.items
    commit(driver, claim, [seen(first, 0), shared(second, first, 1)])
    leases.complete(db, claim)
    job = driver.open_job("forced", force=True)
    driver.register(job, [FoundFile(item.path, item.size, 1) for item in (first, second)], force=True)
    claim = driver.claim()
    commit(driver, claim, [seen(claim.items[1], 1, "a kitten sleeps")])
    found = details.show(db, b"/photos/" + second.path)
    assert found is not None
    assert (found[0].caption, found[1][0].shared_from) == ("a kitten sleeps", None)
    encoder = features.encoder_of_most(db)
    assert encoder is not None
    assert features.load(db, encoder).images.vectors[-1].tobytes() == made_up(1)[0]


def test_only_captions_of_the_model_and_its_options_are_offered_for_sharing(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(3)
    claim = driver.claim()
    first, second, third = claim.items
    commit(driver, claim, [seen(first, 0), shared(second, first, 0), seen(third, 2)])
    packed = np.frombuffer(made_up(0)[1], np.uint8).reshape(1, -1)
    asked = probes(unpack_thumbnails(packed)).ravel().tolist()
    digest = claim.options.digest
    assert features.captioned_thumbnails(db, claim.model_id, digest, asked) == [(sha256_of(first), made_up(0)[1])]
    assert features.captioned_thumbnails(db, claim.model_id, "other", asked) == []
    assert features.captioned_thumbnails(db, claim.model_id + 1, digest, asked) == []


def test_features_are_forgotten_with_the_last_caption_of_an_image(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(2)
    claim = driver.claim()
    commit(driver, claim, [seen(item, i) for i, item in enumerate(claim.items)])
    leases.complete(db, claim)
    path = b"/photos/" + claim.items[0].path
    forget.forget(db, replace(forget.scope_of_path(db, path), captions=True))
    assert count(db, Features) == 1


def test_similar_files_and_clusters_include_copies_and_leave_out_missing_files(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(5, chunk_size=5)
    claim = driver.claim()
    a, copy, resized, other, gone = claim.items
    first = seen(a, 0)
    outcomes = [
        first,
        replace(captioned(copy, sha256=sha256_of(a)), state=ItemState.REUSED, caption=None),
        seen(resized, 0),
        seen(other, 1),
        seen(gone, 0),
    ]
    commit(driver, claim, outcomes)
    leases.complete(db, claim)
    with db.writing() as connection:
        connection.execute(sa.text("UPDATE files SET missing_since = 1 WHERE id = :id"), {"id": gone.file_id})
    file_id = find_file(db, b"/photos/" + a.path)
    assert file_id == a.file_id
    found = similar.similar_files(db, file_id, 10)
    assert found is not None
    assert [(file.path, file.kind) for file in found] == [
        ("/photos/" + copy.path.decode(), Kind.COPY),
        ("/photos/" + resized.path.decode(), Kind.SAME),
        ("/photos/" + other.path.decode(), None),
    ]
    for options in ({}, {"job": job}, {"strict": True}):
        duplicates = similar.find_duplicates(db, **options)  # type: ignore[arg-type]
        kinds = [(file.path.rpartition("/")[2], file.kind) for file in duplicates.clusters[0]]
        assert kinds == [("k-2.jpg", None), ("k-0.jpg", Kind.SAME), ("k-1.jpg", Kind.SAME)]  # k-2 has most bytes
        assert (len(duplicates.clusters), duplicates.compared, duplicates.without_features) == (1, 3, 0)
    empty = driver.submit(0, "empty")
    assert similar.find_duplicates(db, job=empty).clusters == []
    assert jobs.progress(db, empty)[0].total == 0


def test_a_file_without_features_cannot_be_compared_but_its_copies_are_found(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(2)
    claim = driver.claim()
    first, second = claim.items
    driver.commit_batch(claim, [captioned(first), captioned(second, sha256=sha256_of(first))])
    assert similar.similar_files(db, first.file_id, 10) is None
    duplicates = similar.find_duplicates(db)
    assert [len(files) for files in duplicates.clusters] == [2]
    assert (duplicates.compared, duplicates.without_features) == (0, 1)
