"""Every element is accounted for: typed, failed or empty, in both sources."""

from __future__ import annotations

import csv
import json
import os
import warnings
from pathlib import Path

import pytest

from ahi.dicom.headers import FileSource, Header, read_header
from ahi.documents import flatten, patient_key_function
from ahi.index.keywords_instance import INSTANCE
from ahi.index.keywords_patient import PATIENT
from ahi.index.keywords_series import SERIES
from ahi.index.keywords_study import STUDY
from ahi.index.registry import HEADER_KEYWORDS

ROOT = Path(__file__).parents[3]
CORPUS = os.environ.get("AHI_DICOM_CORPUS", "")


def readable_files() -> list[Path]:
    folders = [(ROOT / "samples", ROOT / "samples" / "dicom")] + ([(Path(CORPUS), Path(CORPUS))] if CORPUS else [])
    return [
        folder / row["file"]
        for manifest, folder in folders
        for row in csv.DictReader((manifest / "MANIFEST.csv").read_text().splitlines())
        if row["expected"] == "indexable"
    ]


def is_empty(value) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(one is None or not str(one).strip("\0 ") for one in values)


def is_nothing(part, tag, column) -> bool:
    """Whether an element has no value: none, padding, or items without any."""
    raw = part.get_item(tag).value
    is_padding = isinstance(raw, bytes) and not raw.strip(b"\0 \\")
    if column.vr == "SQ":
        return all(is_empty(element.value) for item in part[tag].value for element in item.iterall())
    return not raw or is_padding or is_empty(part[tag].value)


def test_header_elements_are_typed_failed_or_empty():
    import pydicom

    seen = typed = failed = empty = 0
    for path in readable_files():
        header = read_header(FileSource(path))
        assert isinstance(header, Header)
        failures = {failure.keyword for failure in header.cast_failures}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        for tag, column in HEADER_KEYWORDS.items():
            part = dataset.file_meta if tag >> 16 == 2 else dataset
            if tag not in part:
                assert column.name not in header.values, (path.name, column.name)
                continue
            outcome = (column.name in header.values, column.name in failures)
            assert sum(outcome) == 1 or is_nothing(part, tag, column), (path.name, column.name)
            seen, typed, failed, empty = seen + 1, typed + outcome[0], failed + outcome[1], empty + (not sum(outcome))
    assert seen == typed + failed + empty > 1_000
    assert typed > empty > 0
    assert failed


@pytest.mark.parametrize(
    "changes", [{}, {"ContentDate": "soon", "Rows": -1, "WindowCenter": ["40", "x"], "HighBit": [7, 8]}]
)
def test_document_elements_are_typed_failed_or_empty(changes):
    document = json.loads((ROOT / "tests" / "data" / "healthimaging" / "usdoppler.json").read_text())
    (series,) = document["Study"]["Series"].values()
    for instance in series["Instances"].values():
        instance["DICOM"] |= changes
    rows = flatten(document, version=1, is_primary=True, patient_key=patient_key_function(b"k"), stamp={})
    levels = {**document["Patient"]["DICOM"], **document["Study"]["DICOM"], **series["DICOM"]}
    sources = [(levels, rows.rows("series")[0], (*PATIENT, *STUDY, *SERIES))]
    sources += [
        (instance["DICOM"], row, INSTANCE)
        for instance, row in zip(series["Instances"].values(), rows.rows("instances"), strict=True)
    ]
    n_failed = 0
    for elements, row, columns in sources:
        failures = [failure["keyword"] for failure in row["cast_failures"] or ()]
        n_failed += len(failures)
        assert len(set(failures)) == len(failures)
        for column in columns:
            if column.name in elements:
                is_typed = row.get(column.name) is not None
                assert is_typed + (column.name in failures) + is_empty(elements[column.name]) == 1, column.name
    assert n_failed == len(changes) * rows.n_instances


def test_the_original_of_every_value_is_kept():
    document = json.loads((ROOT / "tests" / "data" / "healthimaging" / "usdoppler.json").read_text())
    rows = flatten(document, version=1, is_primary=True, patient_key=patient_key_function(b"k"), stamp={})
    (series,) = document["Study"]["Series"].values()
    kept = {row["SOPInstanceUID"]: row for row in rows.rows("instance_metadata")}
    for uid, instance in series["Instances"].items():
        assert json.loads(kept[uid]["metadata_json"]) == instance["DICOM"]
        assert json.loads(kept[uid]["vrs_json"]) == instance["DICOMVRs"]
    (above,) = rows.rows("series_metadata")
    assert [json.loads(above[name]) for name in ("patient_json", "study_json", "series_json")] == [
        document["Patient"]["DICOM"],
        document["Study"]["DICOM"],
        series["DICOM"],
    ]
