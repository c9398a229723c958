"""Replacing words: whole words, in capitals or not; expressions with a time limit; captions of people stay."""

from dataclasses import replace

import pytest

from captioning.errors import UsageError
from captioning.store.captions import FileRow
from producer.replace import Replacer, changes

ROW = FileRow(
    "/a.jpg", b"/a.jpg", "5e", "A man and a manhole", 0.5, "m", "machine", 1, 1, "captioned", None, None, None,
    file_id=1, caption_id=7,
)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("man", "person", "A person and a manhole"),
        ("a man", "somebody", "somebody and a manhole"),
        ("and a manhole", "", "A man"),
        ("man", r"\1 \g<x>", r"A \1 \g<x> and a manhole"),
        ("woman", "person", "A man and a manhole"),
    ],
)
def test_whole_words_are_replaced(old: str, new: str, expected: str) -> None:
    assert Replacer(old, new).apply("A man and a manhole") == expected


def test_an_expression_may_use_its_groups() -> None:
    assert Replacer(r"(\w+) and a (\w+)", r"\2 and a \1", is_regex=True).apply("a man and a dog") == "a dog and a man"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(", "x", r"cannot replace \( by x"),
        ("a", r"\3", r"cannot replace a by \\3 in 'a b'"),
        ("  ", "x", "give the words"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Replacer(old, new, is_regex=True).apply("a b")


def test_an_expression_that_would_take_hours_is_stopped() -> None:
    with pytest.raises(UsageError, match=r"takes more than 0\.2 s for one caption"):
        Replacer(r"(a|aa)+c", "x", is_regex=True).apply("a" * 60)


def test_captions_of_people_stay_and_so_does_one_that_would_be_empty() -> None:
    rows = [
        ROW,
        replace(ROW, file_id=2),
        replace(ROW, caption_id=8, source="human"),
        replace(ROW, caption_id=9, caption="man"),
    ]
    found = list(changes(rows, Replacer("man", "")))
    assert [(text.caption_id, text.after) for _, text in found] == [(7, "A and a manhole")]
