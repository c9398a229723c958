"""A walk that looks at some paths only finds there what a walk of everything finds there."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.sources import Filters, ImageFinder, Sources
from producer.sources.skips import Skips
from producer.sources.walk import Walk
from producer.sources.wanted import Wanted
from tests.producer.folders import create

TREE = [
    "a.jpg",
    "notes.txt",
    ".hidden/h.jpg",
    "sub/b.jpg",
    "sub/deep/c.jpg",
    "sub/deep/d.png",
    "sub2/e.jpg",
    "@eaDir/thumb.jpg",
    "drafts/f.jpg",
]


def found(folder: Path, wanted: list[str] | None = None, **filters: object) -> list[str]:
    only = None if wanted is None else frozenset(os.fsencode(folder / path) for path in wanted)
    finder = ImageFinder(Sources((os.fsencode(folder),), (), only=only), Filters(**filters))  # type: ignore[arg-type]
    return [os.path.relpath(os.fsdecode(file.path), folder) for file in finder]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    create(folder, *TREE)
    (folder / "link").symlink_to("sub")
    return folder


def test_a_file_is_found_alone(tree: Path) -> None:
    assert found(tree, ["sub/deep/c.jpg"]) == ["sub/deep/c.jpg"]


def test_a_folder_is_found_with_everything_below_it(tree: Path) -> None:
    assert found(tree, ["sub"]) == ["sub/b.jpg", "sub/deep/c.jpg", "sub/deep/d.png"]


def test_a_path_that_does_not_exist_is_passed_over(tree: Path) -> None:
    assert found(tree, ["sub/gone.jpg", "gone/too.jpg", "a.jpg"]) == ["a.jpg"]


def test_a_path_elsewhere_is_passed_over(tree: Path) -> None:
    assert found(tree, ["../other/a.jpg", ".."]) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.lists(st.sampled_from(["", "sub", "sub/deep", "link", "link/b.jpg", "drafts", *TREE])))
def test_the_rules_are_those_of_a_walk_of_everything(tree: Path, wanted: list[str]) -> None:
    everything = found(tree, exclude=("drafts",))
    expected = [
        path for path in everything if any(path == one or not one or path.startswith(f"{one}/") for one in wanted)
    ]
    assert found(tree, wanted, exclude=("drafts",)) == expected


def test_files_that_share_a_caption_come_with_the_one_that_is_looked_at(tmp_path: Path) -> None:
    create(tmp_path, "1.CR3", "1.jpg", "2.heic", "2.mov", "3.nef", "3.jpg")
    skips, wanted = Skips(lambda path, category: None), Wanted([b"1.jpg", b"3.nef"])
    found = [(file.path, file.partner) for file in Walk(bytes(tmp_path), Filters(), skips, set(), wanted=wanted)]
    assert found == [(b"1.jpg", None), (b"1.CR3", b"1.jpg"), (b"3.nef", b"3.jpg")]
