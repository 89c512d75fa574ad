"""The PostgreSQL server of the tests, for this room."""

from __future__ import annotations

from tests.postgresql_fixtures import postgresql

__all__ = ["postgresql"]
