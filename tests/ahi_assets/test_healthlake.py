"""HealthLake's assets and sensor as Dagster runs them: the chain is moved, told by batch, and a batch goes in again."""

from __future__ import annotations

import dagster as dg
import pytest

from ahi_assets.healthlake_report import healthlake_report
from dagster_project.definitions import build_defs
from sensors import healthlake_queue
from tests.ahi.healthlake.conftest import Chain, chain, lines, make_chain, patient

__all__ = ["chain", "make_chain"]
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning")
PARTITIONS = healthlake_queue.PARTITIONS


def tick(
    chain: Chain, defs: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None
) -> tuple[int, str | None]:
    """One tick of the sensor, and the runs that it asks for."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"pipeline": chain.pipeline})
    result = healthlake_queue.healthlake_queue(context)
    requests = result.run_requests or [] if isinstance(result, dg.SensorResult) else []
    for request in requests:
        assert request.partition_key is None
        job = defs.resolve_job_def("healthlake")
        assert job.execute_in_process(instance=instance, run_config=request.run_config, tags=request.tags).success
    return len(requests), context.cursor


def told(instance: dg.DagsterInstance, asset: str) -> set[str]:
    return set(instance.get_materialized_partitions(dg.AssetKey(asset)))


def test_the_sensor_moves_the_chain_and_each_batch_is_shown(make_chain, instance):
    chain = make_chain(listen_seconds=0)
    for number in range(2):
        chain.put(f"history/{number}.ndjson", lines(patient(f"p{number}")))
    batches = set(chain.plan(files_per_batch=1).batch_ids)
    cursor, defs = None, build_defs(chain.pipeline.settings)

    def is_settled() -> bool:
        nonlocal cursor
        _, cursor = tick(chain, defs, instance, cursor)
        return {batch["state"] for batch in chain.batches()} == {"settled"}

    chain.stack.wait_for(is_settled, seconds=120, what="the chain")
    assert set(instance.get_dynamic_partitions(PARTITIONS)) == batches
    for asset in ("fhir_resources", "healthlake_import_jobs", "healthlake_import_results"):
        assert told(instance, asset) == batches, asset
    assert tick(chain, defs, instance, cursor)[0] <= 1, "nothing but the last events is left"

    first = min(batches)
    selection = dg.AssetSelection.assets("fhir_resources", "healthlake_import_jobs", "healthlake_import_results")
    assets = [a for a in defs.assets or () if isinstance(a, dg.AssetsDefinition)]
    resources = {"pipeline": chain.pipeline}
    ran = dg.materialize(assets, selection=selection, partition_key=first, instance=instance, resources=resources)
    assert ran.success
    chain.drive()
    assert [name.rsplit("-", 2)[0] for name in chain.starts()][-1] == first
    assert next(b for b in chain.batches() if b["batch_id"] == first)["attempt"] == 2

    checks = defs.resolve_job_def("index_checks")
    wanted = {"ingested_in_time", "chains_are_going", "one_imaging_study_per_study"}
    keys = {key.name for key in checks.asset_layer.asset_graph.asset_check_keys}
    assert wanted <= keys
    made = dg.materialize([healthlake_report], instance=instance, resources=resources)
    (event,) = made.asset_materializations_for_node("healthlake_report")
    assert "svg" in event.metadata["hops"].value
    assert event.metadata["breaches"].value == 0
