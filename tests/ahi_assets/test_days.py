"""A day made again after the index was lost: from the inbox and the kept documents, by its partitions."""

from __future__ import annotations

import shutil

import dagster as dg
import pytest

from ahi import inbox, sweep
from ahi.pipeline import connect
from dagster_project.definitions import build_defs
from tests.ahi_assets.test_assets import run
from tests.site_fixtures import SET

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning")


@pytest.mark.drill
def test_a_day_of_a_lost_index_is_made_again_and_equals_the_live_one(make_site, index_template, tmp_path):
    site = make_site(kept_before_seconds=0)
    site.send([*SET[3:9], *SET[12:]])
    site.drive()
    live = site.tables()
    reads = len(site.stack.calls("GetImageSetMetadata"))
    shutil.rmtree(site.home)
    (site.home / "index").mkdir(parents=True)
    shutil.copy(index_template, site.home / "index")
    site.pipeline = connect(site.settings, run_id="again")
    sweep.unregistered_batches(site.pipeline, sweep.Look(inbox.now(), inbox.now(), thorough=True))
    day = inbox.day_of(inbox.now())
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        defs = build_defs(site.settings)
        for job in ("uploads", "import_events", "image_set_events"):
            run(defs, instance, job, partition_key=day)
    site.drive()
    assert site.tables() == live
    assert len(site.stack.calls("GetImageSetMetadata")) == reads
