"""From a bucket to image sets: looked at, planned, imported; grown, and again."""

from __future__ import annotations

from collections import Counter

import pytest

from ahi.archive import archives, inventory
from ahi.archive.plan import make_plan
from tests.ahi.archive.conftest import Holding
from tests.archive_fixtures import QUICK, Backfill, samples, shard_rows
from tests.site_fixtures import SET

SMALL_JOBS = QUICK | {"max_files_per_job": 4, "copies_per_second": 800}
CT, MR = [n for n in SET if "CT2" in n], [n for n in SET if "MR2" in n]


@pytest.mark.drill
def test_every_key_is_accounted_for_and_growth_imports_nothing_twice(make_site, holding: Holding) -> None:
    site = make_site(**SMALL_JOBS, job_starts_per_second=20)
    holding.put({f"pacs/{key}": body for key, body in samples([*CT, *MR, "bad/trunc_in_meta.dcm"]).items()})
    [chart] = samples(["pydicom/chrGreek.dcm"]).values()
    holding.put({"pacs/README.txt": b"no image", "pacs/ü/1.dcm": chart})
    archive = archives.add(site.pipeline, f"s3://{holding.bucket}/pacs", name="old")

    def imported() -> tuple[Counter[str], int]:
        look = inventory.look(site.pipeline, archive)
        made = make_plan(site.pipeline, archive, keep=True)
        outcomes = Backfill(site, [shard.shard_key for shard in made.shards]).finish()
        states = sum((Counter(outcome.states) for outcome in outcomes.values()), Counter[str]())
        aside = sum(some.n_objects for some in made.set_aside.values())
        assert look.n_objects == made.known.n_objects + sum(states.values()) + aside
        return states, len(made.shards)

    # The planner sees what is no DICOM by its header, the import what is cut off.
    assert imported() == (Counter(imported=8, failed=1), 3)
    assert {row["state"] for row in shard_rows(site.pipeline)} == {"done"}
    assert [row["in_place_prefix"] for row in shard_rows(site.pipeline)] == ["pacs/pydicom/CT2/", None, None]
    starts = len(site.stack.calls("StartDICOMImportJob"))
    assert starts == 3
    holding.put({f"pacs/{key}": body for key, body in samples(["pydicom/rtplan.dcm"]).items()})
    assert imported() == (Counter(imported=1), 1)
    assert len(site.stack.calls("StartDICOMImportJob")) == starts + 1
    site.drive()
    assert site.rows("SELECT count(*) FROM instances_all") == [(9,)]
