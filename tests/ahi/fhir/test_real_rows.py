"""Resources of real objects: headers of the samples, or of the corpus that AHI_DICOM_CORPUS names, and a document.

`fhir.resources` judges them beside our validator. It has R4B, whose Patient, Endpoint and ImagingStudy are those of R4.
"""

from __future__ import annotations

import datetime as dt
import importlib
import os
from pathlib import Path

import orjson
import pytest

from ahi.dicom.headers import Header, read_header
from ahi.dicom.source import FileSource
from ahi.documents import flatten, patient_key_function
from ahi.fhir.rules import Rules, healthimaging_root
from ahi.fhir.source import fhir_resources, study_fingerprints
from ahi.index.query import open_index
from ahi.index.store import Head, Index
from ahi.index.values import name_parts

ROOT = Path(__file__).parents[3]
CORPUS = Path(os.environ.get("AHI_DICOM_CORPUS") or ROOT / "samples" / "dicom")
DOCUMENT = ROOT / "tests" / "data" / "healthimaging" / "usdoppler.json"
KEY = patient_key_function(b"secret")


@pytest.fixture
def real(index):
    """The small index with a row for each object whose header can be read."""
    for number, path in enumerate(sorted(path for path in CORPUS.rglob("*") if path.is_file())):
        header = read_header(FileSource(path))
        if isinstance(header, Header):
            values = header.values
            own = {"row_source": "document", "datastore_id": "d" * 32, "image_set_id": f"{number:032x}"}
            key = KEY(values.get("IssuerOfPatientID"), values.get("PatientID"))
            parts = name_parts(values.get("PatientName"))
            index.series.append({**values, **own, "patient_key": key, "PatientName_parts": parts})
            index.instances.append({**values, **own})
    return index


def test_every_real_study_becomes_one_valid_resource(real, validator):
    resources = real.resources()
    verdicts = [validator.check(one.body) for one in resources]
    assert [verdict.problems for verdict in verdicts if not verdict.ok] == []
    found = [one for one in resources if one.kind == "ImagingStudy"]
    studies = {row["StudyInstanceUID"] for row in real.series}
    assert len(found) == len(studies) >= 10
    assert len({one.reference for one in resources}) == len(resources)
    listed = {
        instance["uid"]
        for one in found
        for series in orjson.loads(one.body).get("series", ())
        for instance in series.get("instance", ())
    }
    objects = {row["SOPInstanceUID"] for row in real.instances}
    assert listed <= objects
    assert len(objects - listed) <= sum(one.n_instances for one in real.omitted)
    patients = {one.id for one in resources if one.kind == "Patient"}
    assert {one.subject for one in found} == patients


def test_another_library_takes_them_too(real):
    for one in real.resources():
        module = importlib.import_module(f"fhir.resources.R4B.{one.kind.lower()}")
        assert getattr(module, one.kind).model_validate_json(one.body)


def test_a_published_index_becomes_fhir(tmp_path, validator):
    index = Index(tmp_path / "index", f"sqlite:///{tmp_path / 'index' / 'catalog.sqlite'}")
    stamp = {"dagster_run_id": "run", "indexed_at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}
    rows = flatten(DOCUMENT.read_bytes(), version=1, is_primary=True, patient_key=KEY, stamp=stamp)
    files = [index.write(name, rows.rows(name), batch_id="b") for name in rows.tables]
    head = Head(rows.datastore_id, rows.image_set_id, 1, True, rows.study_uid, rows.series_uid, rows.n_instances)
    with index.commit(batch_id="b", kind="test", files=files) as commit:
        commit.raise_heads([head])
    with open_index(index.publish().path) as connection:
        resources = list(fhir_resources(connection, Rules(healthimaging_root("us-east-1"), secret=b"test")))
        assert [uid for uid, _ in study_fingerprints(connection)] == [rows.study_uid]
    assert [one.kind for one in resources] == ["Endpoint", "Patient", "ImagingStudy"]
    assert all(validator.check(one.body).ok for one in resources)
    study = orjson.loads(resources[-1].body)
    assert study["numberOfInstances"] == len(study["series"][0]["instance"]) == 9
