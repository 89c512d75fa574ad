"""The fixtures of sites and of PostgreSQL, for this room."""

from __future__ import annotations

import pytest

from ahi.index.parquet import keep_spare
from tests.postgresql_fixtures import postgresql
from tests.site_fixtures import make_site, site

__all__ = ["make_site", "postgresql", "site"]


@pytest.fixture(autouse=True)
def spare_connection() -> None:
    """A DuckDB connection kept between uses, as every run has one from its fork on."""
    keep_spare()
