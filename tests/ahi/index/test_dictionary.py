"""The data dictionary: complete, and its page in docs up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from ahi.index.columns import Tier
from ahi.index.dictionary import Page, dictionary, markdown
from ahi.index.registry import TABLES
from ahi.index.tiers.rules import LOWER, crosses, rules_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tables.md"


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return dictionary()


def test_every_column_says_what_it_is(pages):
    assert {"patients", "studies", "series", "instances", "objects"} <= {page.name for page in pages}
    undescribed = [f"{page.name}.{one.name}" for page in pages for one in page.columns if not one.description]
    assert undescribed == []
    assert [page.name for page in pages if not page.description] == []


def test_a_dicom_column_names_its_attribute_and_tier(pages):
    (series,) = (page for page in pages if page.name == "series")
    columns = {one.name: one for one in series.columns}
    assert columns["PatientID"].attribute == "(0010,0020) LO 1"
    assert columns["PatientID"].tier == "identified"
    assert columns["Modality"].tier == "deidentified"
    # The registry would let it cross; the rules let no free text through.
    assert columns["ManufacturerModelName"].tier == "limited"


def test_the_page_is_what_the_code_says(pages):
    assert PAGE.read_text() == markdown(pages), "run `.venv/bin/ahi schema --markdown > docs/tables.md`"


@pytest.mark.parametrize("tier", LOWER)
def test_the_dictionary_of_a_tier_has_what_crosses(tier: Tier) -> None:
    pages = {page.name: page for page in dictionary(tier)}
    for name, table in TABLES.items():
        assert (name in pages) == crosses(table, tier)
        if name in pages:
            assert {entry.name for entry in pages[name].columns} == set(rules_of(table, tier))
            assert all(entry.description for entry in pages[name].columns)
    assert "failures" not in pages
    assert {"patients", "studies"} <= set(pages)
