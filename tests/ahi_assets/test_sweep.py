"""The sweep as a job: a look that fails fails its step, and nothing else."""

from __future__ import annotations

import pytest

from ahi.clock import day_of, now
from dagster_project.definitions import build_defs

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning")


def test_what_the_other_steps_of_a_sweep_do_is_done_when_a_look_fails(site, instance):
    elsewhere = site.settings.model_copy(update={"datastore_id": "0" * 32})
    site.put("in/of a patient", b"not dicom")
    job = build_defs(elsewhere).resolve_job_def("sweep")
    result = job.execute_in_process(instance=instance, partition_key=day_of(now()), raise_on_error=False)
    assert not result.success
    done = {event.step_key for event in result.get_step_success_events()}
    assert done >= {"import_jobs", "import_results", "published_index"}
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    text = failure.step_failure_data.error_display_string
    assert "changed image sets: SearchImageSets failed: ResourceNotFoundException" in text
    assert "patient" not in text
