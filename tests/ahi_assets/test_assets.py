"""The assets as Dagster runs them: real jobs on a real instance, against the embedded AWS."""

from __future__ import annotations

import io

import dagster as dg
import pydicom
import pytest
import sqlalchemy as sa

from ahi import inbox
from ahi.closure import closure
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.index.registry import TABLES
from ahi_assets.image_sets import TABLE_ASSETS
from ahi_assets.told import CORE
from dagster_project.definitions import build_defs
from sensors import image_set_queue, import_queue, upload_queue
from tests.site_fixtures import SAMPLES, SET

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning")
TARGETS = {target.queue: target for target in (m.TARGET for m in (upload_queue, import_queue, image_set_queue))}
REGISTERED = {*TABLE_ASSETS, "headers", "index_info"}
CANARY = "CANARY^P"  # as long as a date, so that it can stand where one belongs


def run(defs, instance, job_name, *, raise_on_error=True, **kwargs):
    job = defs.resolve_job_def(job_name)
    result = job.execute_in_process(instance=instance, raise_on_error=raise_on_error, **kwargs)
    assert result.success or not raise_on_error
    return result


def run_pending(site, defs, instance, *, raise_on_error=True):
    """What the daemon does: a run for each pending batch."""
    runs = []
    for queue, target in TARGETS.items():
        for batch in inbox.pending(site.pipeline, queue):
            ops = {step: {"config": {"batch": batch.batch_id}} for step in target.steps}
            how = {"run_config": {"ops": ops}, "partition_key": batch.day, "raise_on_error": raise_on_error}
            runs.append(run(defs, instance, target.job_name, **how))
    return runs


def to_rest(site, defs, instance):
    def at_rest():
        site.collect()
        ran = run_pending(site, defs, instance)
        return not ran and inbox.pending(site.pipeline, Queue.IMAGE_SET_EVENTS) == [] and rows_there(site)

    site.stack.wait_for(at_rest, seconds=60, what="rows")


def rows_there(site):
    ledger = site.ledger()
    return ledger and all(row["state"] == "failed" or row["indexed_seq"] for row in ledger)


def metadata_of(instance, asset):
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_a_batch_goes_through_every_asset_and_says_what_it_did(site, defs, instance):
    site.send()
    to_rest(site, defs, instance)
    objects = metadata_of(instance, "dicom_objects")
    assert objects["dagster/partition_row_count"] == objects["objects"] == 16
    published = site.pipeline.index.query
    for table in CORE:
        (expected,) = published(f"SELECT count(*) FROM {table if table != 'series' else 'series_all'}").rows[0]
        assert metadata_of(instance, table)["dagster/row_count"] == expected > 0, table
    assert metadata_of(instance, "published_index")["rows: instances"] == 12
    versions = {spec.key.to_user_string(): spec.code_version for spec in defs.resolve_all_asset_specs()}
    for table in TABLES:
        asset = "dicom_objects" if table == "headers" else table
        (rows,) = published(f"SELECT count(*) FROM {table}").rows[0]
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert bool(event) == bool(rows), table  # the UI shows every table that got rows, and its code's version
        assert not event or event.asset_materialization.tags["dagster/code_version"] == versions[asset], table
    assert (objects["state: ready"], objects["state: failed"]) == (12, 4)
    assert metadata_of(instance, "import_results")["imported"] == 12
    for asset in ("import_jobs", "image_sets", "patients", "studies", "series", "instances", "published_index"):
        assert instance.get_latest_materialization_event(dg.AssetKey(asset)), asset
    run(defs, instance, "index_checks")
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [key for node in defs.resolve_asset_graph().asset_check_keys for key in [node]]
    )
    assert len(checks) == 7
    # Its studies have not been sent to HealthLake.
    failed = {key.name for key, record in checks.items() if record.status.value != "SUCCEEDED"}
    assert failed == {"one_imaging_study_per_study"}


def test_every_asset_describes_its_columns_as_they_are_published(site, defs):
    site.pipeline.index.publish()
    described = site.pipeline.index.query(
        "SELECT table_name || '.' || column_name, data_type FROM duckdb_columns() WHERE schema_name = 'main'"
    )
    types = {
        name: kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ").replace('"', "") for name, kind in described.rows
    }
    views = {name.partition(".")[0] for name in types}
    for spec in defs.resolve_all_asset_specs():
        table, schema = spec.metadata["dagster/table_name"], spec.metadata["dagster/column_schema"]
        assert spec.group_name, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert schema.columns, spec.key
        for column in schema.columns:
            assert column.description, f"{spec.key} {column.name}"
            if table in REGISTERED:
                assert types[f"{table}.{column.name}"] == column.type, f"{spec.key} {column.name}"
    assert views >= REGISTERED


def test_running_a_batch_or_its_day_again_changes_no_table(site, defs, instance):
    site.send()
    to_rest(site, defs, instance)
    before, reads = site.tables(), len(site.stack.calls("GetImageSetMetadata"))
    day = inbox.day_of(inbox.now())
    for queue, target in TARGETS.items():
        for batch in inbox.of_day(site.pipeline, queue, day):
            ops = {step: {"config": {"batch": batch.batch_id}} for step in target.steps}
            run(defs, instance, target.job_name, run_config={"ops": ops}, partition_key=batch.day)
        run(defs, instance, target.job_name, partition_key=day)
    site.pipeline.index.publish()
    assert site.tables() == before
    assert len(site.stack.calls("GetImageSetMetadata")) == reads
    # As the UI backfills one table: the rows of all are written again, and HealthImaging is not asked anything.
    asked, stamp = len(site.stack.calls(service="medical-imaging")), "SELECT min(indexed_at) FROM codes"
    (earlier,) = site.rows(stamp)
    for table in ("instances", "codes"):
        run(defs, instance, "__ASSET_JOB", partition_key=day, asset_selection=[dg.AssetKey(table)])
    site.pipeline.index.publish()
    assert site.tables() == before
    assert site.rows(stamp) > [earlier]
    # And of headers, of which nothing else is kept, the patient keys when their secret is another.
    renewed = build_defs(site.settings.model_copy(update={"patient_key_secret": "another secret"}))
    keys = "SELECT count(patient_key) FROM headers"
    [(known,)] = site.rows(keys)
    for remade in (known, 0):
        run(renewed, instance, "__ASSET_JOB", partition_key=day, asset_selection=[dg.AssetKey("dicom_objects")])
        assert metadata_of(instance, "dicom_objects").get("header_keys_remade", 0) == remade
    site.pipeline.index.publish()
    assert site.rows(keys) == [(known,)]
    assert len(site.stack.calls(service="medical-imaging")) == asked


def test_the_sweep_and_the_upkeep_run(site, defs, instance):
    site.send(["pydicom/rtplan.dcm"])
    site.stack.drain("UPLOAD")
    config = {
        "ops": {"sweep_findings": {"config": {"thorough": True}}, "import_results": {"config": {"pending_only": True}}}
    }
    site.stack.wait_for(
        lambda: (
            run(defs, instance, "sweep", run_config=config, partition_key=inbox.day_of(inbox.now()))
            and metadata_of(instance, "sweep_findings").get("objects_unannounced") == 1
        )
    )
    to_rest(site, defs, instance)
    run(defs, instance, "index_upkeep")
    run(defs, instance, "run_retention")


def test_a_run_that_publishes_merges_what_runs_before_it_left(make_site, instance):
    site = make_site(compact_files=2)
    defs = build_defs(site.settings)
    site.send(SET[:8])
    to_rest(site, defs, instance)
    site.send(SET[8:])
    to_rest(site, defs, instance)
    assert metadata_of(instance, "published_index")["files of batches merged"] > 0
    files = catalog.files.c
    with site.pipeline.index.snapshot() as connection:
        of_table = sa.select(files.table_name, sa.func.count()).where(files.retired_seq.is_(None))
        counts = dict(connection.execute(of_table.group_by(files.table_name)).all())
    assert {counts[table] for table in ("series", "instances", "headers")} == {1}
    assert site.rows("SELECT count(*) FROM instances_all") == [(12,)]


def test_who_publishes_does_not_fail_where_files_cannot_be_merged(make_site, instance):
    site = make_site(compact_files=2)
    defs = build_defs(site.settings)
    (site.home / "index/data").mkdir()
    for table in ("headers", "series", "instances"):
        (site.home / "index/data" / table).write_text("not a folder")
    site.send(SET[:2])
    to_rest(site, defs, instance)
    site.send(SET[2:4])
    to_rest(site, defs, instance)
    told = metadata_of(instance, "published_index")["files of batches merged"]
    assert "Error at " in told, "what it was and where, and nothing that it quotes"
    assert site.rows("SELECT count(*) FROM instances_all") == [(4,)]
    with pytest.raises(OSError, match="headers"):
        run(defs, instance, "index_upkeep")


BAD_DAY = (
    *(("throttle", {"service": service, "first": 1}) for service in ("medical-imaging", "s3", "sqs")),
    ("fail_job", {}),
    ("fail_files", {}),
    ("late_manifest", {}),
    ("lose_response", {}),
    ("lock_metadata", {"times": 2}),
    ("duplicate_events", {"copies": 3}),
    ("shuffle_events", {"seconds": 0.3, "seed": 5}),
)


@pytest.mark.drill
def test_a_bad_day_through_dagster_ends_as_a_calm_one(make_site, instance):
    """Everything that a service can do to us at once: runs fail, are repeated, and the tables come out the same."""
    calm = make_site()
    calm.send()
    assert calm.drive().closes
    expected = calm.tables()
    site = make_site(compact_files=2)
    defs = build_defs(site.settings)
    for kind, values in BAD_DAY:
        site.stack.fault(kind, **values)
    site.send()

    def at_rest():
        site.collect()
        ran = run_pending(site, defs, instance, raise_on_error=False)
        run(defs, instance, "sweep", partition_key=inbox.day_of(inbox.now()), raise_on_error=False)
        return not ran and closure(site.pipeline.index.engine).at_rest

    site.stack.wait_for(at_rest, seconds=120, what="rest")
    site.pipeline.index.publish()
    assert site.tables() == expected


def canary_objects():
    """One good object and several broken ones, with a name in every text that a header may carry."""
    dataset = pydicom.dcmread(SAMPLES / "pydicom/CT_small.dcm")
    for element in dataset:
        if element.VR in ("PN", "LO", "SH", "ST", "LT", "UT"):
            element.value = CANARY
    dataset.save_as(good := io.BytesIO())
    body = good.getvalue()
    odd = body.replace(str(dataset.StudyDate).encode(), CANARY.encode())
    assert odd != body
    return {"good": body, "odd": odd, "cut": body[:900], "text": CANARY.encode(), "cut2": body[:-500]}


def test_no_phi_in_logs_or_in_dagsters_storage(site, defs, instance, tmp_path, caplog, capfd):
    for name, body in canary_objects().items():
        site.put(f"in/{CANARY}/{name}.dcm", body)
    sqs, url = site.stack.client("sqs"), site.stack.env["AHI_UPLOAD_QUEUE_URL"]
    sqs.send_message(QueueUrl=url, MessageBody=f"not json, {CANARY}")
    site.collect()
    caplog.set_level("DEBUG", logger="ahi")
    to_rest(site, defs, instance)
    run(defs, instance, "index_checks")
    printed = capfd.readouterr()
    assert CANARY not in caplog.text + printed.out + printed.err
    word = CANARY.encode()
    leaks = [path for path in (tmp_path / "dagster").rglob("*") if path.is_file() and word in path.read_bytes()]
    assert leaks == []
    keys = [entry["Key"] for name in ("LAKE", "STAGING") for entry in listed(site, name)]
    assert keys
    assert not [key for key in keys if CANARY in key]
    assert CANARY in repr(site.ledger())  # the canary was there to be leaked


def listed(site, name):
    pages = site.stack.client("s3").get_paginator("list_objects_v2")
    return [e for page in pages.paginate(Bucket=site.stack.env[f"AHI_{name}_BUCKET"]) for e in page.get("Contents", [])]


def test_a_batch_that_nobody_gets_through_fails_the_closure_check(site, defs, instance):
    inbox.keep(site.pipeline, Queue.UPLOADS, [inbox.Message("m1", "{}")])
    table = inbox.catalog.batches
    with site.pipeline.index.transaction() as connection:
        connection.execute(table.update().values(received_at=inbox.catalog.EPOCH))
    site.pipeline.index.publish()
    result = defs.resolve_job_def("index_checks").execute_in_process(instance=instance)
    verdicts = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert verdicts == {
        "closure_of_objects": False,
        "no_orphan_instances": True,
        "one_current_row_per_key": True,
        "freshness_of_index": True,
        "chains_are_going": True,
        "ingested_in_time": True,
        "one_imaging_study_per_study": True,
    }
