"""The daily copies as Dagster makes them: where the setting says, by the schedule, and not without a place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from ahi.index.columns import Tier
from dagster_project.definitions import build_defs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.site_fixtures import Site

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning")


def copied(site: Site, instance: dg.DagsterInstance, *, raises: bool = True) -> dg.ExecuteInProcessResult:
    job = build_defs(site.settings).resolve_job_def("index_copies")
    return job.execute_in_process(instance=instance, raise_on_error=raises)


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("published_copies")
    return {name: value.value for name, value in event.metadata.items()}


def test_the_asset_says_what_it_copied_and_what_was_never_published(
    site: Site, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copies"
    monkeypatch.setenv("AHI_COPIES_TO", str(out))
    monkeypatch.setenv("AHI_COPIES_TIERS", '["identified", "deidentified"]')
    failed = copied(site, instance, raises=False)
    assert not failed.success
    (failure,) = failed.get_step_failure_events()
    assert "make it first" in str(failure.step_failure_data.error)
    out.mkdir()
    site.pipeline.index.publish()
    made = copied(site, instance)
    said = metadata_of(made)
    file = next((out / Tier.IDENTIFIED / "current").rglob("*.parquet"))
    assert pq.read_metadata(file).metadata[b"run_id"] == made.run_id.encode()
    assert said["deidentified: not published"] is True
    assert said["identified: is new"] is True
    assert (out / Tier.IDENTIFIED / "current").resolve().name in said["identified: place"]
    assert (out / Tier.IDENTIFIED / "current" / "index.duckdb").is_file()
    assert metadata_of(copied(site, instance))["identified: is new"] is False


def test_the_asset_claims_no_column_that_a_tier_lacks(defs: dg.Definitions) -> None:
    (spec,) = (spec for spec in defs.resolve_all_asset_specs() if spec.key.to_user_string() == "published_copies")
    assert [column.name for column in spec.metadata["dagster/column_schema"].columns] == ["tier", "place", "rows"]


def test_the_schedule_asks_for_copies_where_there_is_a_place(make_site: Callable[..., Site], tmp_path: Path) -> None:
    def asked(site: Site) -> dg.SkipReason | dg.RunRequest:
        schedule = build_defs(site.settings).get_repository_def().get_schedule_def("copies_daily")
        context = dg.build_schedule_context(resources={"pipeline": site.pipeline})
        found = schedule.evaluate_tick(context)
        return found.run_requests[0] if found.run_requests else dg.SkipReason(found.skip_message)

    skipped = asked(make_site())
    assert isinstance(skipped, dg.SkipReason)
    assert "AHI_COPIES_TO" in str(skipped.skip_message)
    assert isinstance(asked(make_site(copies_to=str(tmp_path))), dg.RunRequest)
