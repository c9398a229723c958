"""Which package to install when a module is missing."""

import re
import sys

DISTRIBUTION = "captionmill"
_DISTRIBUTION_OF = {  # module -> distribution, where their names differ by more than - and _
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}


def install_hint(error: ModuleNotFoundError) -> str:
    """Say which module is missing and which command installs it.

    The command names a package only if captionmill requires it: a package that happens to have the name of a module may
    be anybody's.
    """
    module = (error.name or str(error)).partition(".")[0]
    if module in sys.stdlib_module_names:
        return f"this Python has no module {module}, which belongs to it: install a complete Python."
    package = _DISTRIBUTION_OF.get(module, module.replace("_", "-"))
    extras = _requirements().get(package.lower())
    if extras is None:
        return (
            f"the module {module} is not installed. Run: pip install --force-reinstall {DISTRIBUTION}; if it belongs to"
            " a package of your own, install that."
        )
    needed = f"'{DISTRIBUTION}[{extras}]'" if extras else package
    return f"the package {package} is not installed. Run: pip install {needed}"


def _requirements() -> dict[str, str]:
    """Return the packages that captionmill requires, each with the extra that it belongs to; empty: always required."""
    from importlib.metadata import PackageNotFoundError, requires  # takes longer than all of this package

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # a checkout that is not installed
        lines = []
    found: dict[str, str] = {}
    for line in lines:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"""extra == ['"]([^'"]+)""", line)
        if name and name[0].lower() != DISTRIBUTION:
            found.setdefault(name[0].lower(), extra[1] if extra else "")
    return found
