"""Pages wrap at 100 columns, and their links lead somewhere."""

from pathlib import Path

import pytest

from tests.docs.pages import PROJECT, anchors, lines_outside_tables, links, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page_has_at_most_100_columns_outside_tables(page: Path) -> None:
    assert [line for line in lines_outside_tables(page.read_text(encoding="utf-8")) if len(line) > 100] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_between_pages_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_the_index_links_to_every_page_of_the_documentation() -> None:
    index = PROJECT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in links(index)}
    assert {page.resolve() for page in index.parent.rglob("*.md")} - linked - {index.resolve()} == set()
