"""The site fixtures of `tests/site_fixtures.py`, for this room."""

from __future__ import annotations

from tests.site_fixtures import make_site, site

__all__ = ["make_site", "site"]
