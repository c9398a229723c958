"""The file tree in ARCHITECTURE.md lists exactly the modules of the product, without the single migrations."""

from tests.docs.pages import PROJECT, section

PACKAGES = ("captioning", "producer", "worker", "training", "migrations")


def listed_modules() -> list[str]:
    """Return the paths of the Python files in the tree."""
    tree = section(PROJECT / "ARCHITECTURE.md", "File tree").split("```")[1].splitlines()[1:]
    folders: list[str] = []
    modules = []
    for line in tree:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        else:
            modules.append("".join(folders) + name)
    return modules


def test_the_file_tree_lists_every_module_of_the_product_and_nothing_else() -> None:
    found = (path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
    unlisted = ("/__init__.py", "/versions/")
    modules = {name for path in found if not any(part in (name := str(path.relative_to(PROJECT))) for part in unlisted)}
    listed = listed_modules()
    assert len(set(listed)) == len(listed)
    assert set(listed) == modules | {"captionmill.py"}
