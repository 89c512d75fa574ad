"""For this room: the fixtures of sites and of Dagster instances."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_project.definitions import build_defs
from tests.dagster_fixtures import dagster_template, instance
from tests.site_fixtures import Site, make_site, site

__all__ = ["dagster_template", "instance", "make_site", "site"]


@pytest.fixture
def defs(site: Site) -> dg.Definitions:
    return build_defs(site.settings)
