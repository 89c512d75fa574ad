"""Shards reach Dagster's partitions, and what continuous archives grow is asked for."""

from __future__ import annotations

import dagster as dg
import sqlalchemy as sa

from ahi.archive import archives, control
from ahi.archive.progress import continuous_archives
from ahi.clock import now
from ahi.index import catalog_archives as c
from ahi_assets import archive_imports
from ahi_assets.common import ARCHIVE_SHARDS
from dagster_project.definitions import build_defs
from sensors import archive_shards as sensor
from sensors.archive_shards import PARTITIONS, PLAN, POOL, RANGE, archive_shards
from tests.archive_fixtures import planned


def ticked(site, instance, cursor=None):
    context = dg.build_sensor_context(instance, cursor=cursor, resources={"pipeline": site.pipeline})
    return archive_shards(context)


def test_every_shard_gets_a_partition_and_only_later_looks_are_imported_by_themselves(site):
    keys = planned(site.pipeline, [{"a.txt": b"a"}, {"b.txt": b"b"}])

    def tick(instance):
        return ticked(site, instance)

    with dg.DagsterInstance.ephemeral() as instance:
        first = dg.build_sensor_context(instance, resources={"pipeline": site.pipeline})
        assert isinstance(archive_shards(first), dg.SkipReason)
        assert set(instance.get_dynamic_partitions(PARTITIONS)) == set(keys)
        # While no shard comes or goes nobody reads the lists, which a partition deleted by hand would show.
        instance.delete_dynamic_partition(PARTITIONS, keys[0])
        later = dg.build_sensor_context(instance, cursor=first.cursor, resources={"pipeline": site.pipeline})
        archive_shards(later)
        assert instance.get_dynamic_partitions(PARTITIONS) == keys[1:]
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


def test_the_pool_of_shards_gets_its_limit_once(site):
    assert archive_imports.POOL == POOL
    assert archive_imports.archive_imports.op.pool == POOL
    with dg.DagsterInstance.ephemeral() as instance:
        ticked(site, instance)
        (limit,) = instance.event_log_storage.get_pool_limits()
        assert (limit.name, limit.limit, limit.from_default) == (POOL, 2, False)
        instance.event_log_storage.set_concurrency_slots(POOL, 1)  # as a person does in the UI
        ticked(site, instance, cursor="of an earlier tick")
        assert [limit.limit for limit in instance.event_log_storage.get_pool_limits()] == [1]


def test_every_way_to_launch_shards_is_a_run_that_the_pool_counts(site):
    (key,) = planned(site.pipeline, [{"a.txt": b"a"}])
    defs = build_defs(resources={"pipeline": dg.ResourceDefinition.hardcoded_resource(site.pipeline)})
    for name in ("archive_shards", "__ASSET_JOB"):
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions(PARTITIONS, [key])
            selection = {dg.AssetKey("archive_imports")}
            job = defs.resolve_job_def(name).get_subset(asset_selection=selection)
            run = instance.create_run_for_job(job, tags={"dagster/partition": key}, asset_selection=selection)
            assert run.run_op_concurrency is not None
            assert run.run_op_concurrency.all_pools == {POOL}


def test_what_was_parked_is_asked_for_when_its_archive_goes_on_and_nothing_between_is(site):
    mine = planned(site.pipeline, [{f"{n}.txt": b"a"} for n in range(4)])
    theirs = planned(site.pipeline, [{"b.txt": b"b"}], archive_id="other")
    with dg.DagsterInstance.ephemeral() as instance:
        # Grown in turns: the other archive's shard stands between mine in Dagster's list.
        instance.add_dynamic_partitions(PARTITIONS, [*mine[:3], *theirs, *mine[3:]])
        control.pause(site.pipeline.index, "old")
        with site.pipeline.index.transaction() as connection:
            parked = sa.update(c.archive_shards).where(c.archive_shards.c.archive_id == "old")
            connection.execute(parked.values(parked_at=now()))
        assert isinstance(ticked(site, instance), dg.SkipReason)
        control.resume(site.pipeline.index, "old")
        some, last = ticked(site, instance).run_requests
        assert [some.tags[tag] for tag in RANGE] == [mine[0], mine[2]]
        assert (some.partition_key, last.partition_key) == (None, mine[3])
        assert [request.run_key for request in ticked(site, instance).run_requests] == [some.run_key, last.run_key]

        @dg.asset(partitions_def=ARCHIVE_SHARDS, backfill_policy=dg.BackfillPolicy.multi_run(20))
        def looked_at(context):
            return dg.MaterializeResult(metadata={"keys": list(context.partition_keys)})

        done = dg.materialize([looked_at], instance=instance, tags=some.tags, raise_on_error=True)
        assert done.asset_materializations_for_node("looked_at")[0].metadata["keys"].value == mine[:3]


def test_runs_canceled_in_the_queue_do_not_keep_others_from_being_asked_for(site):
    keys = planned(site.pipeline, [{f"{n}.txt": b"a"} for n in range(12)])
    with site.pipeline.index.transaction() as connection:
        connection.execute(sa.update(c.archives).values(is_continuous=True))
        table = c.archive_shards
        connection.execute(sa.update(table).where(table.c.shard_key != keys[0]).values(generation=2))
        connection.execute(sa.update(table).where(table.c.shard_key == keys[0]).values(run_id="by hand"))

    def asked(instance):
        result = ticked(site, instance)
        return [] if isinstance(result, dg.SkipReason) else [one.run_key for one in result.run_requests]

    def ended(instance, key):
        run = instance.create_run_for_job(empty, tags={"dagster/run_key": key}, status=dg.DagsterRunStatus.CANCELED)
        assert run.is_finished

    @dg.job
    def empty():
        pass

    with dg.DagsterInstance.ephemeral() as instance:
        assert asked(instance) == keys[1:11]
        for key in keys[1:11]:
            ended(instance, key)
        assert asked(instance) == keys[11:]
        # What was parked is asked for again by a pause and its end.
        with site.pipeline.index.transaction() as connection:
            connection.execute(sa.update(table).where(table.c.shard_key == keys[0]).values(parked_at=now()))
        (_, parked) = asked(instance)
        ended(instance, parked)
        assert asked(instance) == keys[11:]
        control.pause(site.pipeline.index, "old")
        control.resume(site.pipeline.index, "old")
        assert len(asked(instance)) == 2


def test_partitions_of_a_removed_archive_go(site):
    keys = planned(site.pipeline, [{"a.txt": b"a"}, {"b.txt": b"b"}])
    (other,) = planned(site.pipeline, [{"c.txt": b"c"}], archive_id="other")
    with dg.DagsterInstance.ephemeral() as instance:
        ticked(site, instance)
        assert set(instance.get_dynamic_partitions(PARTITIONS)) == {*keys, other}
        archives.remove(site.pipeline, archives.find(site.pipeline, "old"))
        ticked(site, instance, cursor="of an earlier tick")
        assert instance.get_dynamic_partitions(PARTITIONS) == [other]


def test_lists_are_compared_only_when_shards_came_or_went(site, monkeypatch):
    moment = now()
    monkeypatch.setattr(sensor, "now", lambda: moment)  # once an hour they are in any case
    planned(site.pipeline, [{"a.txt": b"a"}])
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance, resources={"pipeline": site.pipeline})
        archive_shards(context)
        seen = context.cursor
        assert seen
        instance.delete_dynamic_partition(PARTITIONS, "old-00001")
        ticked(site, instance, cursor=seen)
        assert not instance.get_dynamic_partitions(PARTITIONS)
        planned(site.pipeline, [{"b.txt": b"b"}], archive_id="other")
        ticked(site, instance, cursor=seen)
        assert set(instance.get_dynamic_partitions(PARTITIONS)) == {"old-00001", "other-00001"}
