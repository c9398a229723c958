"""A missing module is advised by the package that has it, and only by one that captionmill requires."""

import pytest

from captioning.installation import install_hint


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("sklearn.isotonic", "scikit-learn is not installed. Run: pip install 'captionmill[training]'"),
        ("lightning_fabric", "lightning-fabric is not installed. Run: pip install 'captionmill[training]'"),
        ("flower", "flower is not installed. Run: pip install 'captionmill[monitoring]'"),
        ("PIL", "pillow is not installed. Run: pip install pillow"),
        ("_sqlite3", "this Python has no module _sqlite3"),
        ("somebodys_module", "pip install --force-reinstall captionmill"),
    ],
)
def test_the_hint_names_what_to_install(module: str, hint: str) -> None:
    assert hint in install_hint(ModuleNotFoundError("x", name=module))


def test_a_module_that_we_do_not_require_is_never_the_name_of_a_package_to_install() -> None:
    assert "pip install somebodys" not in install_hint(ModuleNotFoundError("x", name="somebodys_module"))
