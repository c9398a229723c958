"""A plan: how long a submit would take on this machine, from a sample of its files. Writes nothing."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from captioning.archives import split_member
from captioning.paths import is_below, is_url
from captioning.probe import FileTimes, ProbeRequest, ProbeResult, SampleFile
from captioning.remote import root_of
from captioning.settings import Settings
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.preview import Preview, find_model, preview
from producer.plan.estimate import Estimate, Measured, estimate
from producer.plan.probe import run_probe
from producer.plan.sample import Strata
from producer.submit import FILES_PER_TRANSACTION, SubmitRequest, policy_of, warn_of_patterns

PROBE_SECONDS = 30.0  # for reading and decoding; the model is measured for some seconds more
Progress = Callable[[str, int, int], object]  # a text, how many are done, and how many there are


@dataclass
class Plan:
    """What a submit would find, and how long it would take."""

    workers: int
    found: int = 0  # images
    bytes: int = 0  # of them
    preview: Preview | None = None  # None: the database cannot be asked
    to_caption: int = 0  # images
    measured: int = 0  # images of the sample
    failed: int = 0  # of these: images that cannot be captioned
    estimate: Estimate | None = None  # None: nothing is to be captioned
    refused: int = 0  # archives that are damaged or larger than the limits
    skipped: Mapping[str, int] = field(default_factory=dict)  # by category


def make_plan(
    db: Database | None, settings: Settings, request: SubmitRequest, workers: int, on_progress: Progress
) -> Plan:
    """Find the images, measure some of them and estimate the rest. Raises CaptioningError when none can be measured."""
    plan, strata = Plan(workers, preview=None if db is None else Preview()), Strata()
    finder, work_in = request.finder(), _look_up(db, settings, request, plan)
    for page in _pages(islice(finder, request.limit)):
        plan.found += len(page)
        plan.bytes += sum(file.size for file in page)
        new = work_in(page)
        plan.to_caption += len(new)
        strata.add(file for file in new if file.partner is None)  # the others share the caption of one beside them
        on_progress("images found", plan.found, plan.found)
    warn_of_patterns(request, finder)
    plan.skipped, plan.refused = finder.skipped, finder.refused
    sample = strata.sample()
    if sample:
        files = tuple(_sample_file(file, request.sources.folders) for _, file in sample)
        probe = run_probe(settings, _probe_request(request, files, strata), on_progress)
        plan.measured, plan.failed = len(probe.files), sum(1 for file in probe.files if file.failed)
        plan.estimate = estimate(_measured(strata, [i for i, _ in sample], probe), probe, workers)
    return plan


def _pages(found: Iterator[FoundFile]) -> Iterator[list[FoundFile]]:
    return iter(lambda: list(islice(found, FILES_PER_TRANSACTION)), [])


def _look_up(
    db: Database | None, settings: Settings, request: SubmitRequest, plan: Plan
) -> Callable[[list[FoundFile]], list[FoundFile]]:
    """Return a function that returns which of some files need a caption; without a database all of them."""
    known = plan.preview
    if db is None or known is None:
        return lambda page: page
    policy = policy_of(db, settings, request, find_model(db, request.bundle.digest))
    return lambda page: preview(db, page, policy, request.options.digest, known)


def _probe_request(request: SubmitRequest, files: tuple[SampleFile, ...], strata: Strata) -> ProbeRequest:
    total = sum(stratum.count for stratum in strata.all)
    return ProbeRequest(request.bundle.digest, request.options, files, len(strata.all), PROBE_SECONDS, total)


def _sample_file(file: FoundFile, folders: tuple[bytes, ...]) -> SampleFile:
    """Return a file as the worker reads it: a root, and a path below it without links."""
    if is_url(file.path):
        root = root_of(file.path)
    else:
        member = split_member(file.path)
        above = os.path.dirname(file.path if member is None else member[0])
        root = max((folder for folder in folders if is_below(file.path, folder)), key=len, default=above)
    path = file.path[len(root) :].lstrip(b"/")
    return SampleFile(root, path, file.size, file.mtime_ns, file.ctime_ns)


def _measured(strata: Strata, stratum_of: list[int], probe: ProbeResult) -> list[Measured]:
    """Return the strata with what the probe measured of each; one without any counts like that of the next size.

    Remote files arrive in any order, so the time may be over before one of every size has.
    """
    times: dict[int, list[FileTimes]] = {}
    for file in probe.files:
        times.setdefault(stratum_of[file.file], []).append(file)
    nearest = (min(times, key=lambda other: abs(other - i)) for i in range(len(strata.all)))
    return [Measured(stratum.count, tuple(times[i])) for i, stratum in zip(nearest, strata.all, strict=True)]
