"""The fixtures of sites and of Dagster instances, for this room."""

from __future__ import annotations

from tests.dagster_fixtures import dagster_template, instance
from tests.site_fixtures import make_site, site

__all__ = ["dagster_template", "instance", "make_site", "site"]
