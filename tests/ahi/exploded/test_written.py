"""Rows of every exploded table through a document into Parquet, and back with stock DuckDB."""

from __future__ import annotations

import duckdb
import pytest

from ahi.documents import flatten, patient_key_function
from ahi.index.columnar import write_rows
from ahi.index.registry import TABLES
from ahi.index.tables_exploded import EXPLODED
from tests.ahi.exploded.conftest import SAMPLES, as_bytes, attributes_of, part10
from tests.ahi.exploded.test_objects import enhanced_mr

FILES = (
    "highdicom/seg_image_ct_binary_overlap.dcm",
    "highdicom/sr_document_with_multiple_groups.dcm",
    "pydicom/rtstruct.dcm",
    "pydicom/rtplan.dcm",
    "pydicom/rtdose.dcm",
    "pydicom/CT5N/2062",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("lake")
    objects = [attributes_of(part10(SAMPLES / file)) for file in FILES]
    objects.append(attributes_of(as_bytes(enhanced_mr(), "1.2.840.10008.5.1.4.1.1.4.1")))
    hostile = {"ContentSequence": "none", "PixelSpacing": [1, 2], "Rows": 2, "RTPlanLabel": "x" * 10_000}
    objects.append((hostile, {}))
    series = {
        f"1.{number}": {"DICOM": {}, "Instances": {f"1.{number}.1": {"DICOM": one, "DICOMVRs": vrs, "ImageFrames": []}}}
        for number, (one, vrs) in enumerate(objects)
    }
    document = {
        "DatastoreID": "d",
        "ImageSetID": "i",
        "Patient": {"DICOM": {}},
        "Study": {"DICOM": {"StudyInstanceUID": "1"}, "Series": series},
    }
    tables = flatten(document, version=1, is_primary=True, patient_key=patient_key_function(b"x"), stamp={}).tables
    files = {name: write_rows(root, TABLES[name], list(rows), batch_id="b") for name, rows in tables.items()}
    return tables, {name: root / file.path for name, file in files.items()}


@pytest.mark.parametrize("table", [table.name for table in EXPLODED if table.name != "dose_events"])
def test_rows_are_read_back(written, table):
    tables, files = written
    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT * FROM read_parquet('{files[table]}')")
        assert len(found.fetchall()) == tables[table].n_rows > 0
        names = [column.name for column in TABLES[table].columns]
        assert found.columns == names
        assert {"1"} == {row[0] for row in found.project("StudyInstanceUID").fetchall()}


def test_questions_are_answered(written):
    _, files = written

    def ask(sql: str) -> list[tuple]:
        for table in ("segments", "measurements", "rt_rois", "series_geometry", "rt_plans"):
            sql = sql.replace(f"FROM {table}", f"FROM read_parquet('{files[table]}')")
        with duckdb.connect() as connection:
            return connection.sql(sql).fetchall()

    assert ask("SELECT SegmentedPropertyTypeCodeSequence[1].meaning FROM segments ORDER BY SegmentNumber") == [
        ("Bone",),
        ("Spine",),
    ]
    longest = "SELECT max(value) FROM measurements WHERE quantity_meaning = 'Diameter' AND unit_code = 'mm'"
    assert ask(longest) == [(20.0,)]
    assert ask("SELECT count(*) FROM rt_rois WHERE RTROIInterpretedType = 'ISOCENTER'") == [(2,)]
    assert ask("SELECT sum(beams[1].meterset) > 100 FROM rt_plans") == [(True,)]
    assert ("has_positions", 1) in ask("SELECT reason_not_regular, count(*) FROM series_geometry GROUP BY ALL")
