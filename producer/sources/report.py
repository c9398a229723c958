"""Where the search for images reports what it leaves aside."""

from typing import Protocol


class SourceReport(Protocol):
    """Receives, while images are looked for, what is not taken."""

    def skipped(self, path: bytes, category: str) -> None:
        """Report a path that is skipped."""

    def warn(self, message: str) -> None:
        """Show a person one line."""


class _SilentReport:
    def skipped(self, path: bytes, category: str) -> None:
        """Ignore the path: the finder counts it anyway."""

    def warn(self, message: str) -> None:
        """Ignore the message."""


SILENT: SourceReport = _SilentReport()
