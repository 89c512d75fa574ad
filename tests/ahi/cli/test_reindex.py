"""`ahi reindex` on a deployment with documents: the same tables, and not one call to HealthImaging."""

from __future__ import annotations

import json

from tests.command_line import ahi
from tests.site_fixtures import make_site, site

__all__ = ["make_site", "site"]


def reindex(site, *arguments):
    return ahi(site.home, "reindex", *arguments, env=site.environment)


def test_the_rows_come_out_the_same_without_asking_healthimaging(site):
    site.send()
    site.drive()
    before = site.tables()
    calls = len(site.stack.calls(service="medical-imaging"))
    done = reindex(site, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["days"], told["instances"], told["quarantined"]) == (1, 12, 0)
    assert site.tables() == before
    assert site.rows("SELECT count(DISTINCT batch_id) FROM series_all WHERE indexed_at > now() - INTERVAL 1 HOUR")
    assert len(site.stack.calls(service="medical-imaging")) == calls
    assert "0 days" in reindex(site, "--to", "2020-01-01").stdout
    assert "0 days" in reindex(site, "--to", "20200101").stdout
    assert json.loads(reindex(site, "--json", "--from", "20200101").stdout)["days"] == 1
    assert "is not a day" in reindex(site, "--from", "yesterday").stderr
