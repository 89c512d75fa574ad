"""A look and a plan as Dagster runs them: partitions for shards, tables and pictures of what an import takes."""

from __future__ import annotations

import base64
import uuid

import pytest

from ahi.archive import archives
from ahi_assets.common import ARCHIVE_SHARDS
from dagster_project.definitions import build_defs
from tests.site_fixtures import SAMPLES, clear_bucket

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning")


@pytest.fixture
def bucket(aws_stack):
    s3, name = aws_stack.client("s3"), f"old-pacs-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=name)
    for number in (17106, 17136):
        body = (SAMPLES / f"pydicom/CT2/{number}").read_bytes()
        s3.put_object(Bucket=name, Key=f"2019/Doe^Jane/{number}.dcm", Body=body)
    yield name
    clear_bucket(s3, name)
    s3.delete_bucket(Bucket=name)


def planned(site, instance, *, dry_run):
    job = build_defs(site.settings).resolve_job_def("archive_planning")
    ops = {"archive_inventory": {"config": {"archive": "old"}}}
    ops["archive_plan"] = {"config": {"archive": "old", "dry_run": dry_run}}
    result = job.execute_in_process(instance=instance, run_config={"ops": ops})
    assert result.success
    events = result.get_asset_materialization_events()
    return {event.asset_key.to_user_string(): event.materialization.metadata for event in events}, result


def test_a_plan_makes_partitions_and_a_dry_run_none(site, instance, bucket):
    archives.add(site.pipeline, f"s3://{bucket}/2019", name="old")
    dry, _ = planned(site, instance, dry_run=True)
    assert instance.get_dynamic_partitions(ARCHIVE_SHARDS.name) == []
    kept, result = planned(site, instance, dry_run=False)
    assert instance.get_dynamic_partitions(ARCHIVE_SHARDS.name) == ["old-00001"]
    for shown in (dry["archive_plan"], kept["archive_plan"]):
        assert (shown["old: objects"].value, shown["old: import jobs"].value) == (2, 1)
        assert {record.data["item"] for record in shown["old: cost"].records} >= {"copies", "Frequent Access"}
        assert all(record.data["formula"] for record in shown["old: time"].records)
        for picture in ("old: time as a picture", "old: cost as a picture"):
            assert b"<svg" in base64.b64decode(shown[picture].md_str.partition("base64,")[2].removesuffix(")"))
    [look] = kept["archive_inventory"]["looks"].records
    assert (look.data["n_objects"], look.data["n_added"], look.data["n_vanished"]) == (2, 0, 0)
    # A sender's key may name a patient.
    log = " ".join(str(record.event_log_entry) for record in instance.get_records_for_run(result.run_id).records)
    assert "Doe" not in log
