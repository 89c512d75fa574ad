"""The whole pipeline with its catalog on PostgreSQL: nothing but the catalog knows."""

from __future__ import annotations

from ahi.index.engine import open_engine
from tests.postgresql_fixtures import new_schema

SOME = ("pydicom/CT2/17106", "pydicom/CT2/17136", "pydicom/MR2/15970", "pydicom/rtplan.dcm", "bad/empty.dcm")


def test_the_pipeline_ends_alike_on_both_catalogs(make_site, postgresql: str) -> None:
    outcomes = []
    for overrides in ({}, {"catalog_url": new_schema(postgresql)}):
        site = make_site(**overrides)
        site.send(SOME)
        site.drive()
        site.send(["pydicom/CT2/17106", "pydicom/rtplan.dcm"], under="again/")
        assert site.drive().closes
        gone = site.rows("SELECT min(image_set_id) FROM series WHERE Modality = 'MR'")[0][0]
        site.stack.client("medical-imaging").delete_image_set(datastoreId=site.datastore_id, imageSetId=gone)
        site.sweep()
        assert site.drive().closes
        index = site.pipeline.index
        index.compact_files = 2
        assert index.compact().files_in > 0
        index.publish()
        index.expire()
        outcomes.append(site.tables())
        if overrides:
            assert open_engine(overrides["catalog_url"]).dialect.name == index.engine.dialect.name == "postgresql"
            assert not (index.root / "catalog.sqlite").exists()
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["instances_all"]
