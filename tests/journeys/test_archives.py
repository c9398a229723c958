"""A zip and a tar file are captioned, shown and exported as they are; nothing of them is written to disk."""

import gzip
import hashlib
import tarfile
from pathlib import Path

from tests.journeys.cli_runner import CliRunner
from tests.support.archives import write_archive


def test_images_in_archives_are_captioned_shown_and_exported(
    runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = {f"photos/{path.name}": path.read_bytes() for path in sorted(photographs.iterdir())}
    names = sorted(images)
    folder = tmp_path / "in"
    folder.mkdir()
    write_archive(folder / "a.zip", {name: images[name] for name in names[:4]} | {"photos/notes.txt": b"words"})
    write_archive(folder / "b.tgz", {name: images[name] for name in names[4:]} | {"../evil.jpg": b"x"})
    counts = runner.submit("--archives", str(folder))
    assert (counts["captioned"], counts["failed"]) == (len(names), 0)
    assert counts["skipped"] == 2
    assert sorted(path.name for path in folder.iterdir()) == ["a.zip", "b.tgz"]

    shown = runner.producer("show", "in/a.zip!/" + names[0], "--json", cwd=tmp_path).json
    assert shown["path"] == f"{folder}/a.zip!/{names[0]}"
    assert shown["caption"]
    again = runner.submit("--archives", str(folder))
    assert (again["known"], again["new"]) == (len(names), 0)

    result = runner.producer("export", "--format", "webdataset", "-o", str(tmp_path / "shards"))
    assert result.code == 0, result
    with tarfile.open(tmp_path / "shards" / "000000.tar") as shard:
        exported = {hashlib.sha256(shard.extractfile(m).read()).hexdigest()  # type: ignore[union-attr]
                    for m in shard if not m.name.endswith((".txt", ".json"))}  # fmt: skip
    assert exported == {hashlib.sha256(data).hexdigest() for data in images.values()}

    result = runner.producer("export", "--format", "hf", "-o", str(folder / "metadata.jsonl"))
    assert result.code == 2
    assert "is in an archive, from which no imagefolder is read" in result.err
    result = runner.producer("export", "--beside", "--format", "txt")
    assert "its image is in an archive" in result.out + result.err
    result = runner.producer("export", "--format", "txt", "-o", str(tmp_path / "tree"))
    assert (tmp_path / "tree" / "a.zip!" / names[0]).with_suffix(".txt").read_text()
    forgotten = runner.producer("forget", f"{folder}/b.tgz!", "--yes")
    assert f"{len(names) - 4} files" in forgotten.out, forgotten


def test_the_shards_that_an_export_wrote_are_captioned_again_without_the_model(
    runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    runner.submit(str(photographs))
    runner.producer("export", "--format", "webdataset", "--shard-size", "4", "-o", str(tmp_path / "shards"))
    count = len(list(photographs.iterdir()))
    counts = runner.submit(f"{tmp_path}/shards/{{000000..000002}}.tar")
    assert (counts["scanned"], counts["reused"]) == (count, count)
    packed = gzip.compress((tmp_path / "shards" / "000001.tar").read_bytes())
    (tmp_path / "again.tar.gz").write_bytes(packed)
    assert runner.submit(f"{tmp_path}/again*.gz")["reused"] == 4
