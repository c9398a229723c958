"""Find images: walk folders, take named files, read lists of paths. Uses names and stat only; opens no image."""

from producer.sources.access import Access
from producer.sources.archives import REFUSED
from producer.sources.finder import NO_ACCESS, ImageFinder
from producer.sources.lists import read_list
from producer.sources.named import Sources, read_sources
from producer.sources.patterns import Filters
from producer.sources.report import SILENT, SourceReport
from producer.sources.skips import describe_skipped

__all__ = [
    "NO_ACCESS",
    "REFUSED",
    "SILENT",
    "Access",
    "Filters",
    "ImageFinder",
    "SourceReport",
    "Sources",
    "describe_skipped",
    "read_list",
    "read_sources",
]
