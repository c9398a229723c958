"""Which commands fit the result of a job: what a person may want to type next."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping

from captioning.store.jobs import Progress
from captioning.values import JobState, Reason

RETRYABLE = (Reason.MISSING, Reason.CHANGED, Reason.FORBIDDEN, Reason.TIMEOUT, Reason.NO_RESULT)
"""Reasons that may be gone at the next attempt. A file that is damaged, too large or of another format stays so."""

_COMMON_WORDS = """
    a an the this that and or as is are be being in on at of to by for from with into over under near next up down out
    off through behind between around against along across while it its he his she her they their there one two three
    four several some other another front back top side middle background standing sitting holding wearing looking
    posing large small big little young old other red blue green yellow white black brown orange pink
"""


def next_commands(progress: Progress, reasons: Mapping[str, int], captions: Iterable[str], path: str) -> list[str]:
    """Return command lines that fit the result of a job: to look at captions, and to deal with failures.

    `reasons` counts its failures, `captions` are some of its captions, `path` is what was submitted, or empty.
    """
    lines = []
    if progress.captioned + progress.reused + progress.known:
        word = frequent_word(captions)
        if word or path:
            lines.append(f"search {word}" if word else f"show {shlex.quote(path)}")
        lines.append("export --format jsonl -o captions.jsonl")
    if progress.state == JobState.CANCELLED:
        lines.append(f"resume {progress.job}")
    if progress.failed:
        lines += [f"failures {progress.job}", *_retries(progress.job, reasons)]
    elif progress.failed_before:
        lines.append("failures")
    return [f"producer {line}" for line in lines]


def frequent_word(captions: Iterable[str]) -> str:
    """Return the most frequent word of some captions that says something; empty if there is none."""
    words = Counter(word for caption in captions for word in caption.split())
    return next((word for word, _ in words.most_common() if word.isalpha() and word not in _COMMON_WORDS.split()), "")


def _retries(job: int, reasons: Mapping[str, int]) -> list[str]:
    """Return the retries that can help: of all failures at once, or of each reason that may be gone."""
    helpful = [reason for reason in RETRYABLE if reasons.get(reason)]
    if len(helpful) == len(reasons):
        return [f"retry {job} --failed"]
    return [f"retry {job} --failed --reason {reason}" for reason in helpful]
