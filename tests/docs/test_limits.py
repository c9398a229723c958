"""The limits on the page about hostile input are the defaults of the settings."""

import re

from captioning.environment import PREFIX
from captioning.settings import Settings
from tests.docs.pages import PROJECT, section


def test_the_table_of_limits_shows_the_defaults() -> None:
    table = section(PROJECT / "docs" / "hostile-input.md", "Limits")
    rows = re.findall(rf"^\| [^|]* \| ([\d,]+) \| `{PREFIX}(\w+)` \|", table, re.MULTILINE)
    shown = {name.lower(): float(value.replace(",", "")) for value, name in rows}
    assert set(shown) == {
        "max_bytes", "max_pixels", "max_side", "max_frames", "decode_timeout_seconds",
        "max_archive_members", "max_archive_bytes", "max_archive_ratio",
    }  # fmt: skip
    assert shown == {name: Settings.model_fields[name].default for name in shown}
