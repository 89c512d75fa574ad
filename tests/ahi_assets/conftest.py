"""For this room: the site fixtures of `tests/site_fixtures.py`, and a Dagster instance of each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_project.definitions import build_defs
from tests.site_fixtures import Site, make_site, site

__all__ = ["make_site", "site"]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


@pytest.fixture
def defs(site: Site) -> dg.Definitions:
    return build_defs(site.settings)
