"""What archives and HealthLake imports keep, as analysts see it."""

from __future__ import annotations

import duckdb
import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.catalog_archives import archive_shards, archives
from ahi.index.catalog_fhir import fhir_failures
from ahi.index.engine import CREATED, insert_many
from ahi.index.store import Index
from ahi.index.tiers.build import build_tier, tier_root
from ahi.index.tiers.rules import LOWER
from ahi.index.whole import WHOLE

SHOWN = "SELECT archive_id, number, state, n_imported FROM archive_shards ORDER BY number"


def shard(number: int, **values: object) -> dict[str, object]:
    return {
        "shard_key": f"old-{number}",
        "archive_id": "old",
        "number": number,
        "generation": 1,
        "state": "planned",
        "n_objects": 100,
        "n_bytes": 10**12,
        "manifest_key": "archives/old/1.parquet",
        "row_group": number,
        "planned_at": now(),
        "attempts": 0,
        "in_place_prefix": "years/Canary^Carol/",
    } | values


def copies(index: Index) -> list[str]:
    return sorted(path.name for path in index.root.glob("data/archive_shards/*/*.parquet"))


@pytest.mark.both_catalogs
def test_analysts_see_shards_as_they_are_now_and_unchanged_ones_cost_nothing(index: Index) -> None:
    index.publish()
    assert index.query(SHOWN).rows == []
    with index.transaction() as connection:
        insert_many(connection, archive_shards, [shard(1), shard(2)])
    assert index.publish().is_new
    assert index.query(SHOWN).rows == [("old", 1, "planned", None), ("old", 2, "planned", None)]
    first = copies(index)
    assert not index.publish().is_new
    with index.commit(kind="test"):
        pass
    index.publish()
    assert copies(index) == first
    with index.transaction() as connection:
        connection.execute(archive_shards.update().where(archive_shards.c.number == 2).values(n_imported=7))
    index.publish()
    assert index.query(SHOWN).rows[1] == ("old", 2, "planned", 7)
    with index.transaction() as connection:
        connection.execute(archive_shards.delete())
    index.publish()
    assert index.query(SHOWN).rows == []
    index.expire()
    assert copies(index) == []


def test_a_change_that_was_rolled_back_is_none(index: Index) -> None:
    index.publish()
    with pytest.raises(sa.exc.IntegrityError), index.transaction() as connection:
        connection.execute(archive_shards.insert(), [shard(1), shard(1)])
    assert not index.publish().is_new


def test_rows_of_a_catalog_of_earlier_code_are_shown(index: Index) -> None:
    with index.transaction() as connection:
        connection.execute(archive_shards.insert(), [shard(1)])
    with index.transaction() as connection:
        connection.execute(c.state.delete().where(c.state.c.name.like("changed:%")))
        connection.execute(c.state.update().where(c.state.c.name == CREATED).values(value="of earlier code"))
    again = Index(index.root, str(index.engine.url))
    again.publish()
    assert len(again.query(SHOWN).rows) == 1


def test_what_may_name_somebody_is_in_no_copy_and_in_no_lower_tier(index: Index) -> None:
    failure = {"failure_id": "1", "batch_id": "b", "stage": "import", "resource_type": "Patient"}
    failure |= {"resource_id": "Canary-Carol", "diagnostic": "no", "n_lines": 1, "first_seen": now()}
    archive = {"archive_id": "old", "uri": "s3://b", "bucket": "b", "prefix": "", "source": "listing"}
    with index.transaction() as connection:
        connection.execute(archive_shards.insert(), [shard(1)])
        connection.execute(archives.insert(), [{**archive, "created_at": now()}])
        connection.execute(fhir_failures.insert(), [failure])
    index.publish()
    for one in WHOLE:
        shown = dict(
            index.query(f"SELECT column_name, comment FROM duckdb_columns() WHERE table_name = '{one.name}'").rows
        )
        assert all(shown.values()), one.name
        assert "Canary" not in str(index.query(f"FROM {one.name}").rows)
    assert len(index.query("FROM fhir_failures").rows) == 1
    written = b"".join(path.read_bytes() for path in index.root.glob("data/*/whole/*.parquet"))
    assert b"Canary" not in written
    for tier in LOWER:
        build_tier(index, tier, b"secret")
        with duckdb.connect(str(tier_root(index.root, tier) / "index.duckdb"), read_only=True) as connection:
            views = {row[0] for row in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
        assert not views & {one.name for one in WHOLE} | views & {"fhir_jobs", "import_jobs"}


def test_tables_with_changes_noted_are_those_that_are_published_whole() -> None:
    noted = {table.name for table in c.metadata.sorted_tables if table.info.get(c.NOTED)}
    assert noted == {one.name for one in WHOLE}
    assert all(isinstance(one.table, sa.Table) for one in WHOLE)
