"""The fixtures of sites and of PostgreSQL, for this room."""

from __future__ import annotations

from tests.postgresql_fixtures import postgresql
from tests.site_fixtures import make_site, site

__all__ = ["make_site", "postgresql", "site"]
