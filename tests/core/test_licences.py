"""Everything that captionmill installs, with any extra, may be used and passed on freely: no GPL, no AGPL."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "captionmill"
PROGRAMS = {"yamllint"}  # run by `make lint`, imported by nothing and installed for developers only
SILENT = {
    "cuda-toolkit",  # NVIDIA's; it contains nothing but the names of other packages
    "axe-playwright-python",  # MIT, in a file only
}
_STRONG = re.compile(r"(?<!L)(?:A|)GPL|(?<!Lesser )(?:Affero )?General Public License", re.I)
_WEAK = re.compile(r"LGPL|Lesser General Public|Library General Public|with (?:GCC|Classpath|linking)", re.I)


def licence_of(package: Distribution) -> str:
    """Return what a package says about its licence, in as few words as it does."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
    return "; ".join(classifiers) or str(metadata.get("License") or "").partition("\n")[0]


def is_strong(licence: str) -> bool:
    """Return whether every alternative of a licence is a GPL that binds programs which only use the package."""
    alternatives = re.split(r"\bOR\b|;", licence)
    return all(_STRONG.search(one) is not None and _WEAK.search(one) is None for one in alternatives)


def installed() -> dict[str, Distribution]:
    """Return every installed package that captionmill needs, directly or not, with any of its extras."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    project = distribution(PROJECT)
    extras = project.metadata.get_all("Provides-Extra") or []
    waiting = [(PROJECT, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of an extra that is not installed here
            continue
        found[name] = package
        for line in package.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), one) for one in ("", *needed.extras)]
    del found[PROJECT]
    return found


@pytest.mark.parametrize(
    ("licence", "strong"),
    [
        ("GPL-3.0-or-later", True),
        ("License :: OSI Approved :: GNU General Public License v2 (GPLv2)", True),
        ("AGPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-3.0-or-later", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GPL-2.0-only OR MIT", False),
        ("MIT", False),
        ("", False),
    ],
)
def test_licences_are_told_apart(licence: str, strong: bool) -> None:
    assert is_strong(licence) is strong


def test_no_package_of_any_extra_is_under_the_gpl() -> None:
    packages = installed()
    assert {"pillow", "pi-heif", "rawpy", "pylibjxl", "torch", "flower"} <= packages.keys()
    strong = {name: text for name, package in packages.items() if is_strong(text := licence_of(package))}
    assert strong.keys() == PROGRAMS, strong


def test_every_package_says_its_licence() -> None:
    assert {name for name, package in installed().items() if not licence_of(package)} <= SILENT


def test_the_decoders_with_gpl_encoders_are_not_installed() -> None:
    """The wheels of pillow-heif contain x265, and pillow-jxl-plugin is under the GPL itself."""
    for name in ("pillow-heif", "pillow-jxl-plugin"):
        with pytest.raises(PackageNotFoundError):
            distribution(name)
