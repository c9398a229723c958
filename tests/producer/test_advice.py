"""Which commands follow a result: a search that finds something, and a retry only where it can help."""

from dataclasses import replace

import pytest

from captioning.values import JobState, Reason
from producer.advice import RETRYABLE, frequent_word, next_commands
from tests.producer.test_render import DONE

EXPORT = "producer export --format jsonl -o captions.jsonl"


def test_a_search_for_a_frequent_word_of_the_captions_comes_first() -> None:
    captions = ["two dogs run past a tree", "a man in a red coat", "two dogs are standing on the grass"]
    commands = next_commands(replace(DONE, failed=0), {}, captions, "/photos")
    assert commands == ["producer search dogs", EXPORT]


def test_words_that_say_little_are_not_searched_for() -> None:
    assert frequent_word(["a man is standing in front of a red", "the the the"]) == "man"
    assert frequent_word(["in front of a", ""]) == ""


def test_a_job_that_found_all_images_known_shows_what_was_submitted() -> None:
    known = replace(DONE, total=0, captioned=0, reused=0, failed=0, known=3)
    assert next_commands(known, {}, [], "/my photos") == ["producer show '/my photos'", EXPORT]
    assert next_commands(known, {}, [], "") == [EXPORT]


def test_a_job_without_captions_is_not_searched_or_exported() -> None:
    nothing = replace(DONE, captioned=0, reused=0, known=0)
    assert next_commands(nothing, {"unreadable": 1}, [], "/photos") == ["producer failures 1"]
    assert next_commands(replace(nothing, failed=0, state=JobState.CANCELLED), {}, [], "") == ["producer resume 1"]


@pytest.mark.parametrize("reason", Reason)
def test_a_retry_is_advised_only_where_it_can_help(reason: Reason) -> None:
    commands = next_commands(DONE, {reason: 1}, [], "")
    assert ("producer retry 1 --failed" in commands) == (reason in RETRYABLE)


def test_a_retry_names_its_reason_when_other_failures_stay() -> None:
    commands = next_commands(DONE, {"missing": 2, "unreadable": 1, "forbidden": 1}, [], "")
    assert commands[-2:] == [
        "producer retry 1 --failed --reason missing",
        "producer retry 1 --failed --reason forbidden",
    ]
