"""Parts of a worker for unit tests: a real SQLite store, real image files, decoding and captioning in this process."""

import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from PIL import Image
from structlog.contextvars import merge_contextvars

import migrations
from captioning.decoding.pool import DecodedImage, DecodeRequest
from captioning.errors import ImageError
from captioning.features import pack_thumbnail
from captioning.model.pixels import Limits, Pixels, Preprocessing, open_image
from captioning.model.runtime import Runtime
from captioning.settings import Settings, read_settings
from captioning.store import jobs, leases
from captioning.store.claims import Claim
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.outcomes import Provenance
from captioning.values import Caption, DecodeOptions, ItemState
from tests.store.helpers import LSTM, StoreDriver
from worker.adaptive_batch import AdaptiveBatch
from worker.chunk_work import ChunkConfig, ChunkWork, Resources
from worker.contents_in_flight import ContentsInFlight
from worker.file_reader import FileReader
from worker.model_cache import ModelCache
from worker.pipeline import Pipeline
from worker.runner import Runner

SIZE = 32  # side of a decoded image, pixels
LEASE_SECONDS = 60.0
BACKOFF_SECONDS = 15.0


def png(seed: int) -> bytes:
    """Return a small image, a different one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


class LocalDecodePool:
    """Decodes in this process, on the calling thread. Has the methods of DecodePool."""

    def __init__(self) -> None:
        self.calls = 0  # images
        self.deaths = 0  # that every image counts
        self.before: Callable[[], object] = lambda: None  # called before each image

    def decode_all(self, requests: Iterable[DecodeRequest[Any]], on_death: Callable[[Any], object]) -> Iterator[Any]:
        for request in requests:
            self.before()
            self.calls += 1
            for _ in range(self.deaths):
                on_death(request)
            yield request, self._decode(request.data)

    def _decode(self, data: bytes) -> DecodedImage | ImageError:
        try:
            pixels, info = open_image(data, SIZE, Limits())
        except ImageError as error:
            return error
        return DecodedImage(pixels, info, pack_thumbnail(pixels))

    def close(self) -> None:
        pass


class LocalCaptioner:
    """Captions without a model, and raises `error` if it is set."""

    encode = None
    preprocessing = Preprocessing(size=SIZE)

    def __init__(self) -> None:
        self.batches: list[int] = []  # images in each
        self.error: Exception | None = None
        self.text = "a dog runs"
        self.before: Callable[[], object] = lambda: None  # called before each batch

    def caption(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        if images:
            self.batches.append(len(images))
        self.before()
        if self.error is not None:
            raise self.error
        return [Caption(self.text, (-0.5,) * 4)] * len(images)


@dataclass(frozen=True)
class Run:
    """How the work on a chunk ended."""

    is_done: bool
    counts: Counter[ItemState]


@dataclass
class LocalWorker:
    """One folder of images, its database, and a worker on them."""

    folder: Path
    db: Database
    driver: StoreDriver
    decode_pool: LocalDecodePool
    captioner: LocalCaptioner
    files: FileReader = field(default_factory=lambda: FileReader(read_settings(max_bytes=1_000_000)))
    stop: bool = False  # requested
    sizes: list[int] = field(default_factory=list)  # for which decode pools were started

    def write(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def submit(self, files: dict[str, bytes], key: str = "k", *, force: bool = False, chunk_size: int = 100) -> int:
        """Write files and register them, all in one chunk if it is not smaller; return the job's id."""
        self.write(files)
        job = self.driver.open_job(key, force=force)
        stats = {name: (self.folder / name).stat() for name in files}
        found = [FoundFile(name.encode(), s.st_size, s.st_mtime_ns) for name, s in stats.items()]
        self.driver.register(job, found, chunk_size=chunk_size, force=force)
        jobs.close_registration(self.db, job, 0, {})
        return job

    def claim(self) -> Claim:
        return self.driver.claim("w1", LEASE_SECONDS)

    def chunk(
        self, claim: Claim, *, batch_size: int = 100, missing_grace_seconds: float = 300.0, **limits: Any
    ) -> ChunkWork:
        config = ChunkConfig(
            batch_size=batch_size,
            missing_grace_seconds=missing_grace_seconds,
            lease_seconds=LEASE_SECONDS,
            backoff_seconds=BACKOFF_SECONDS,
            provenance=Provenance("torch", "fp32", "test"),
            **limits,
        )
        resources = Resources(self.db, self.decode_pool, self.files, ContentsInFlight())  # type: ignore[arg-type]
        return ChunkWork(claim, str(self.folder).encode(), resources, config)

    def run(self, claim: Claim, **config: Any) -> Run:
        """Process a chunk, which is neither completed nor released. Raises what ended it early."""
        chunk = self.chunk(claim, **config)
        ends: list[bool] = []

        def finish(chunk: ChunkWork, is_done: bool, error: Exception | None) -> Exception | None:
            ends.append(is_done)
            return error

        claims = iter([claim])
        pipeline = Pipeline(
            lambda: next(claims, None),
            lambda claim: chunk,
            lambda claim: self.captioner,  # type: ignore[arg-type, return-value]
            finish,
            AdaptiveBatch(chunk.config.batch_size),
        )
        for error in pipeline.run(lambda: self.stop, inf):
            raise error
        (is_done,) = ends
        return Run(is_done, chunk.counts)

    def settings(self, **values: Any) -> Settings:
        return read_settings(database_url=f"sqlite:///{self.folder.parent}/captions.sqlite", worker_name="w1", **values)

    def runner(self, **values: Any) -> Runner:
        runtime = Runtime("torch", "cpu", "fp32", "a test")
        models = ModelCache({LSTM.digest: LSTM}, runtime, self.folder, {LSTM.digest: self.captioner})  # type: ignore[dict-item]
        return Runner(self.settings(**values), "w1", self.db, models, self.start_decode_pool, self.files)

    def process_all(self) -> None:
        """Process every chunk that can be claimed."""
        runner = self.runner()
        while (claim := runner.claim()) is not None:
            runner.process_chunk(claim)

    def start_decode_pool(self, size: int) -> Any:
        self.sizes.append(size)
        return self.decode_pool

    def row(self, query: str) -> Any:
        """Return the only row of a query."""
        with self.db.reading() as connection:
            return connection.exec_driver_sql(query).one()

    def items(self) -> list[tuple[str, str, str | None]]:
        """Return the path, the state and the reason of every item, in the order of registration."""
        query = "SELECT f.path, i.state, i.reason FROM items i JOIN files f ON f.id = i.file_id ORDER BY i.id"
        with self.db.reading() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def take_over(self, claim: Claim) -> None:
        """Let another worker have a claimed chunk."""
        leases.release_held_by(self.db, "w1", counts_as_attempt=False)
        assert self.driver.claim("w2").chunk_id == claim.chunk_id


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database without rows, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "captions.sqlite"
    db = Database(f"sqlite:///{path}")
    migrations.upgrade(db)
    db.close()
    return path


@pytest.fixture
def local(tmp_path: Path, migrated_file: Path) -> Iterator[LocalWorker]:
    """A worker on an empty folder and an empty database."""
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(migrated_file, tmp_path)
    db = Database(f"sqlite:///{tmp_path}/captions.sqlite")
    yield LocalWorker(folder, db, StoreDriver(db, str(folder).encode()), LocalDecodePool(), LocalCaptioner())
    db.close()


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """What our code logs during the test, with its context."""
    with structlog.testing.capture_logs(processors=[merge_contextvars]) as captured:
        yield captured
