"""The local stack on PostgreSQL: Dagster's storage and the catalog in one database, each in a schema of its own.

Belongs here: making the schemas, and Dagster's configuration for it. Does not belong here: when (`stack.py`), and the
catalog's own URL (`ahi.settings`). SQLite serves one machine and a handful of runs; backfills are what outgrows it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.index.engine import open_engine
from ahi.settings import CATALOG_SCHEMA, in_schema

if TYPE_CHECKING:
    from pathlib import Path

DAGSTER_SCHEMA = "dagster"
VARIABLE = "AHI_DATABASE_URL"
DAGSTER_VARIABLE = "AHI_DAGSTER_URL"


def make_schemas(url: str) -> None:
    """Make the two schemas if they are missing. Dagster and the catalog make their tables themselves."""
    engine = open_engine(url)
    with engine.begin() as connection:
        for name in (CATALOG_SCHEMA, DAGSTER_SCHEMA):
            connection.execute(sa.schema.CreateSchema(name, if_not_exists=True))


def environment(url: str) -> dict[str, str]:
    """Variables of the stack's programs."""
    # With the driver's name: SQLAlchemy would take psycopg 3, and the lock has psycopg2.
    driven = sa.make_url(url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    return {VARIABLE: url, DAGSTER_VARIABLE: in_schema(driven, DAGSTER_SCHEMA)}


def write_instance(template: Path, target: Path) -> None:
    """Write `dagster.yaml` with its storage in PostgreSQL, all else as in the template."""
    import yaml

    configuration = yaml.safe_load(template.read_text())
    for kind in ("run", "schedule", "event_log"):
        del configuration[f"{kind}_storage"]  # SQLite's; `storage` has all three kinds
    configuration["storage"] = {"postgres": {"postgres_url": {"env": DAGSTER_VARIABLE}}}
    target.write_text(json.dumps(configuration, indent=2))  # JSON is YAML
