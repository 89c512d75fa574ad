"""Stale code versions as Dagster's own resolver sees them: a day is stale while the index shows rows of other code."""

from __future__ import annotations

import sys

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from ahi import inbox
from ahi.dicom.headers import PARSER_VERSION as HEADERS
from ahi.documents import PARSER_VERSION as DOCUMENTS
from ahi.index import catalog
from tests.ahi_assets.test_assets import rows_there, run
from tests.local_aws.conftest import make_object

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning")
STALE, FRESH = ("STALE", ["has a new code version"]), ("FRESH", [])
ROOMS = ("ahi_assets", "dagster_project", "sensors")


class Deployment:
    """A site and its code in Dagster, which an upgrade replaces."""

    def __init__(self, site, instance, monkeypatch):
        self.site, self.instance, self.patch = site, instance, monkeypatch
        self.day, self.sent = inbox.day_of(inbox.now()), 0
        self.upgrade()

    def upgrade(self, **versions):
        """Load the definitions as a new process does, with other parser versions by module."""
        for module, version in versions.items():
            for name in {"documents": ["documents"], "headers": ["dicom.headers", "header_rows"]}[module]:
                self.patch.setattr(f"ahi.{name}.PARSER_VERSION", version)
        for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
            self.patch.delitem(sys.modules, name)
        from dagster_project.definitions import build_defs
        from sensors import image_set_queue, import_queue, upload_queue

        self.defs = build_defs(self.site.settings)
        self.targets = {m.TARGET.queue: m.TARGET for m in (upload_queue, import_queue, image_set_queue)}

    def send(self, key, **values):
        self.site.put(f"in/{key}.dcm", make_object(**values))
        self.sent += 1
        self.site.stack.wait_for(self._is_at_rest, seconds=60, what="rows")

    def _is_at_rest(self):
        self.site.collect()
        ran = 0
        for queue, target in self.targets.items():
            for batch in inbox.pending(self.site.pipeline, queue):
                config = {"ops": {step: {"config": {"batch": batch.batch_id}} for step in target.steps}}
                run(self.defs, self.instance, target.job_name, run_config=config, partition_key=batch.day)
                ran += 1
        with self.site.pipeline.index.engine.connect() as connection:
            indexed = connection.scalar(sa.select(sa.func.count()).select_from(catalog.heads))
        return not ran and indexed == self.sent and rows_there(self.site)

    def launch(self, *assets):
        selection = [dg.AssetKey(asset) for asset in assets]
        run(self.defs, self.instance, "__ASSET_JOB", partition_key=self.day, asset_selection=selection)

    def status(self, asset="instances", day=None):
        loading = LoadingContextForTest(self.instance)
        resolver = CachingStaleStatusResolver(self.instance, self.defs.resolve_asset_graph(), loading)
        key, day = dg.AssetKey(asset), day or self.day
        return resolver.get_status(key, day).name, [cause.reason for cause in resolver.get_stale_causes(key, day)]

    def versions(self, table="instances"):
        """Rows of the index by the version that read them."""
        self.site.pipeline.index.publish()
        rows = self.site.rows(f"SELECT parser_version, count(*) FROM {table} GROUP BY ALL ORDER BY ALL")
        return dict(rows)


@pytest.fixture
def deployed(site, instance, monkeypatch):
    return Deployment(site, instance, monkeypatch)


def test_a_day_is_stale_from_the_upgrade_until_all_its_rows_were_made_again(deployed):
    deployed.send("morning")
    assert deployed.status() == FRESH
    deployed.upgrade(documents="documents-1000")
    assert deployed.status() == STALE
    deployed.send("afternoon")
    assert deployed.versions() == {DOCUMENTS: 1, "documents-1000": 1}
    both = ("series", "instances")
    assert [deployed.status(table) for table in both] == [STALE, STALE], "a batch of new rows hides no old one"
    deployed.launch("series", "instances")
    assert deployed.versions() == {"documents-1000": 2}
    assert [deployed.status(table) for table in both] == [FRESH, FRESH]
    deployed.send("evening")
    assert deployed.status() == FRESH


def test_a_day_whose_headers_cannot_be_read_again_stays_stale(deployed):
    deployed.send("morning")
    assert deployed.status("dicom_objects") == FRESH
    deployed.upgrade(headers="headers-1000")
    deployed.launch("dicom_objects")
    assert deployed.versions("headers") == {HEADERS: 1}
    assert deployed.status("dicom_objects") == STALE
