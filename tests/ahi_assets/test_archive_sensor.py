"""Shards reach Dagster's partitions, and what continuous archives grow is asked for."""

from __future__ import annotations

import dagster as dg
import sqlalchemy as sa

from ahi.archive.progress import continuous_archives
from ahi.index import catalog_archives as c
from sensors.archive_shards import PARTITIONS, PLAN, archive_shards
from tests.archive_fixtures import planned


def test_every_shard_gets_a_partition_and_only_later_looks_are_imported_by_themselves(site):
    keys = planned(site.pipeline, [{"a.txt": b"a"}, {"b.txt": b"b"}])

    def tick(instance):
        context = dg.build_sensor_context(instance, resources={"pipeline": site.pipeline})
        return archive_shards(context)

    with dg.DagsterInstance.ephemeral() as instance:
        assert isinstance(tick(instance), dg.SkipReason)
        assert set(instance.get_dynamic_partitions(PARTITIONS)) == set(keys)
        # What the command line planned counts as planned, so that the launch dialog asks for no confirmation.
        told = instance.get_latest_materialization_event(dg.AssetKey(PLAN))
        assert told.asset_materialization.metadata["shards"].value == 2
        assert continuous_archives(site.pipeline.index) == []
        with site.pipeline.index.transaction() as connection:
            connection.execute(sa.update(c.archives).values(is_continuous=True))
            grown = sa.update(c.archive_shards).where(c.archive_shards.c.shard_key == keys[1])
            connection.execute(grown.values(generation=2))
        # Nobody has launched anything of the first plan yet.
        assert isinstance(tick(instance), dg.SkipReason)
        with site.pipeline.index.transaction() as connection:
            first = sa.update(c.archive_shards).where(c.archive_shards.c.shard_key == keys[0])
            connection.execute(first.values(run_id="by hand"))
        assert continuous_archives(site.pipeline.index) == ["old"]
        assert [request.partition_key for request in tick(instance).run_requests] == keys[1:]
