"""References, codes and private elements of every sample, against a walk of the same object with pydicom."""

from __future__ import annotations

import csv
import json
import os
import time
import timeit
from collections import Counter
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ahi.documents import flatten, patient_key_function
from ahi.exploded import explode, explode_level, explode_series
from ahi.exploded.notes import MAX_DEPTH
from ahi.exploded.walk import _may_hold_items, may_hold_items
from local_aws.healthimaging.dicom import DicomError
from tests.ahi.exploded.conftest import SAMPLES, attributes_of, exploded, part10

CORPUS = Path(os.environ.get("AHI_DICOM_CORPUS") or SAMPLES)
READABLE = {"indexable", "indexable_lenient"}
_MANIFEST = CORPUS / "MANIFEST.csv" if "AHI_DICOM_CORPUS" in os.environ else SAMPLES.parent / "MANIFEST.csv"
# Those without a file meta group, or one that the emulator refuses, have no document.
FILES = [
    row["file"]
    for row in csv.DictReader(_MANIFEST.read_text().splitlines())
    if row["expected"] in READABLE and "NoMeta" not in row["file"]
]
CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
PEOPLE = {"PersonIdentificationCodeSequence", "InstitutionCodeSequence"}


def text(item: Dataset, keyword) -> str | None:
    value = item.get(keyword)
    value = getattr(value, "value", value)
    return str(value).strip(" \0") or None if value is not None else None


def items_of(dataset: Dataset, path: tuple[str, ...] = ()):
    """Every item of a data set, with the keywords of the sequences around it."""
    for element in dataset:
        if element.VR == "SQ":
            name = element.keyword or f"{element.tag:08X}"
            inner = path if path[-1:] == (name,) else (*path, name)
            for item in element.value or []:
                yield inner, item
                yield from items_of(item, inner)


def creator_of(item: Dataset, tag) -> str | None:
    return text(item, Tag(tag.group, tag.elem >> 8))


def expected(dataset: Dataset) -> tuple[Counter, Counter, Counter]:
    references, codes, private = Counter(), Counter(), Counter()
    for path, item in items_of(dataset):
        if uid := text(item, "ReferencedSOPInstanceUID"):
            purpose = item.get("PurposeOfReferenceCodeSequence") or [Dataset()]
            code = next((text(purpose[0], k) for k in CODE_VALUES if k in purpose[0]), None)
            references[".".join(path), uid, text(item, "ReferencedSOPClassUID"), code] += 1
        code = next((text(item, k) for k in CODE_VALUES if k in item), None)
        if code and path[-1] not in PEOPLE:
            codes[".".join(path), code, text(item, "CodingSchemeDesignator"), text(item, "CodeMeaning")] += 1
    for path, item in (((), dataset), *items_of(dataset)):
        if "PerFrameFunctionalGroupsSequence" not in path:
            mine = (e for e in item if e.tag.is_private and not e.tag.is_private_creator and e.tag.elem)
            private.update((".".join(path) or None, f"{e.tag:08X}", creator_of(item, e.tag)) for e in mine)
    return references, codes, private


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("file", FILES)
def test_references_codes_and_private_elements_are_those_that_pydicom_sees(file):
    try:
        data = part10(CORPUS / file)
        rows = exploded(data)
    except DicomError:
        pytest.skip("HealthImaging would have no document of it")
    dataset = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True)
    references, codes, private = expected(dataset)
    found = Counter()
    for row in rows.get("object_references", ()):
        key = (row["sequence_path"], row["ReferencedSOPInstanceUID"], row["ReferencedSOPClassUID"], row["purpose_code"])
        found[key] += row["n_references"]
    assert found == references
    found = Counter()
    for row in rows.get("codes", ()):
        found[row["sequence_path"], row["code"], row["scheme"], row["meaning"]] += row["n_items"]
    assert found == codes
    keys = ((row.get("sequence_path"), row["tag"], row["creator"]) for row in rows.get("private_elements", ()))
    assert Counter(keys) == private


def test_numbers_and_texts_of_private_elements_are_pydicoms():
    """Decimal strings, binary numbers and texts, sent with their VRs."""
    data = (SAMPLES / "pydicom/CT2N/6293").read_bytes()
    dataset, rows = pydicom.dcmread(BytesIO(data)), exploded(data)["private_elements"]
    rows = [row for row in rows if "sequence_path" not in row]
    assert len(rows) > 50
    for row in rows:
        element = dataset[int(row["tag"], 16)]
        assert row["vr"] in {element.VR, "UN"}
        if element.VR in {"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD"} and element.VM == 1:
            assert row["value_num"] == pytest.approx(float(element.value)), row
        if element.VR in {"LO", "SH", "CS", "ST"} and element.VM == 1:
            assert row["value_text"] == (str(element.value) or None)


def test_private_values_of_unknown_vr_are_read_by_the_dictionary():
    vrs = {"00431039": "UN", "0019100A": "UN", "0019100B": "LO", "00190010": "LO", "00430010": "LO"}
    attributes = {
        "00190010": "SIEMENS MR HEADER",
        "0019100A": "AQA=",
        "0019100B": "x" * 5000,
        "00430010": "GEMS_PARM_01",
        "00431039": "MTAwMFwyXDNcNA==",
    }
    rows = explode("1.2", attributes, vrs)["private_elements"]
    number, text, several = sorted(rows, key=lambda row: row["tag"])
    assert (number["value_num"], number["decoded_name"], number["n_bytes"]) == (1.0, "NumberOfImagesInMosaic", 2)
    assert (len(text["value_text"]), text["cast_failures"][0]["reason"]) == (4096, "cut to 4096 characters")
    assert (several["value_text"], several["n_values"], several["value_num"]) == ("1000\\2\\3\\4", 4, None)
    assert several["creator"] == "GEMS_PARM_01"


def test_frames_of_repeated_references_come_together():
    source = [{"ReferencedSOPInstanceUID": "1.9", "ReferencedFrameNumber": [n]} for n in ("3", "1", "x")]
    (row,) = explode("1.2", {"SourceImageSequence": source}, {})["object_references"]
    assert (row["ReferencedFrameNumber"], row["n_references"]) == ([1, 3], 3)
    assert [failure["raw"] for failure in row["cast_failures"]] == ["x"]


def test_evidence_tells_series_and_study():
    evidence = [
        {
            "StudyInstanceUID": "1.1",
            "ReferencedSeriesSequence": [
                {"SeriesInstanceUID": "1.1.1", "ReferencedSOPSequence": [{"ReferencedSOPInstanceUID": "1.1.1.1"}]}
            ],
        }
    ]
    (row,) = explode("1.2", {"CurrentRequestedProcedureEvidenceSequence": evidence}, {})["object_references"]
    assert (row["referenced_study_uid"], row["referenced_series_uid"]) == ("1.1", "1.1.1")
    assert row["sequence"] == "ReferencedSOPSequence"


def test_what_is_skipped_is_said():
    deep: object = [{"CodeValue": "1"}]
    for _ in range(MAX_DEPTH + 5):
        deep = [{"ContentSequence": deep}]
    attributes = {
        "ProcedureCodeSequence": [{"CodeMeaning": "no code"}, "no item", None],
        "ReferencedImageSequence": [{"ReferencedSOPInstanceUID": None}],
        "ContentSequence": deep,
    }
    tables = explode("1.2", attributes, {})
    skipped = {(row["sequence_path"], row["reason"]): row["n_skipped"] for row in tables["skipped_content"]}
    assert skipped["ProcedureCodeSequence", "not an item"] == 2
    assert ("ProcedureCodeSequence", "a coded item without a code") in skipped
    assert ("ReferencedImageSequence", "a reference without a UID") in skipped
    assert ("ContentSequence", f"deeper than {MAX_DEPTH} sequences") in skipped
    assert "codes" not in tables


def test_a_real_document_of_healthimaging():
    """Ten ultrasound instances: private elements as UN with base64, alike in most of them."""
    document = json.loads((SAMPLES.parents[1] / "tests/data/healthimaging/usdoppler.json").read_text())
    tables = flatten(document, version=1, is_primary=True, patient_key=patient_key_function(b"x"), stamp={}).tables
    rows = list(tables["private_elements"])
    assert {row["creator"] for row in rows} == {"ACUSON:1.2.840.113680.1.0", "TSC Private Group"}
    assert {(row["tag"], row["level"], row["n_bytes"]) for row in rows} >= {
        ("7FDF1001", "instance", 2),
        ("7FDF100D", "series", 2),
    }
    assert "skipped_content" not in tables
    (shape,) = tables["series_geometry"]
    assert shape["is_regular"] is False


def test_a_presentation_state_tells_the_images_of_its_series():
    images = [{"ReferencedSOPInstanceUID": f"1.7.{n}", "ReferencedSOPClassUID": "1.2"} for n in (1, 2)]
    series = [{"SeriesInstanceUID": "1.7", "ReferencedImageSequence": images}]
    rows = explode("1.2", {"ReferencedSeriesSequence": series, "ContentLabel": "PR"}, {})["object_references"]
    assert [(row["referenced_series_uid"], row["ReferencedSOPInstanceUID"]) for row in rows] == [
        ("1.7", "1.7.1"),
        ("1.7", "1.7.2"),
    ]
    assert {row["sequence_path"] for row in rows} == {"ReferencedSeriesSequence.ReferencedImageSequence"}


def test_levels_above_say_it_once():
    tables = explode_level("study", {"ProcedureCodeSequence": [{"CodeValue": "1", "CodingSchemeDesignator": "L"}]})
    (row,) = tables["codes"]
    assert (row["level"], row["keyword"], row["scheme"], "SOPInstanceUID" in row) == (
        "study",
        "ProcedureCodeSequence",
        "L",
        False,
    )


def test_codes_that_name_people_are_left_out():
    person = [{"PersonIdentificationCodeSequence": [{"CodeValue": "123", "CodeMeaning": "Doe"}]}]
    assert explode("1.2", {"OperatorIdentificationSequence": person}, {}) == {}


def test_an_ordinary_slice_costs_next_to_nothing():
    """Five microseconds are the aim; the bound leaves room for a busy machine."""
    attributes, _ = attributes_of((SAMPLES / "pydicom/CT_small.dcm").read_bytes())
    ordinary = {key: value for key, value in attributes.items() if not key[0].isdigit() and "Sequence" not in key}
    assert len(ordinary) > 80
    assert explode("1.2", ordinary, {}) == {}
    runs = timeit.repeat(lambda: explode("1.2", ordinary, {}), number=1000, repeat=5, timer=time.process_time)
    assert min(runs) / 1000 < 50e-6


def test_names_tell_which_attributes_may_be_sequences():
    from pydicom._dicom_dict import DicomDictionary

    sequences = {keyword for vr, _, _, _, keyword in DicomDictionary.values() if vr == "SQ"}
    assert all(map(_may_hold_items, sequences))
    plain = {keyword for vr, _, _, _, keyword in DicomDictionary.values() if vr != "SQ"}
    assert len(may_hold_items(plain)) < 10, "others are only looked at"


def test_what_all_instances_say_is_said_once():
    """References stay with each instance; of codes and private elements, those that differ do."""
    both = {
        "00090010": "ACME",
        "00091001": "same",
        "ReferencedImageSequence": [{"ReferencedSOPInstanceUID": "1.9"}],
        "ViewCodeSequence": [{"CodeValue": "V", "CodingSchemeDesignator": "L"}],
    }
    vrs = {"00090010": "LO", "00091001": "LO", "00091002": "DS"}
    attributes = [
        both | {"00091002": "1.50 ", "AcquisitionDeviceTypeCodeSequence": [{"CodeValue": "A"}]},
        both | {"00091002": "2"},
    ]
    keys = {key for one in attributes for key in one}
    tables = explode_series(["1.1", "1.2"], attributes, [vrs, vrs], keys)
    private = {
        (row["tag"], row.get("SOPInstanceUID"), row["level"], row["n_instances"]): row
        for row in tables["private_elements"]
    }
    assert private["00091001", None, "series", 2]["value_text"] == "same"
    assert private["00091002", "1.1", "instance", 1]["value_num"] == 1.5
    assert (len(private), private["00091002", "1.2", "instance", 1]["creator"]) == (3, "ACME")
    codes = {(row["code"], row.get("SOPInstanceUID"), row["n_instances"]) for row in tables["codes"]}
    assert codes == {("V", None, 2), ("A", "1.1", 1)}
    assert [row["SOPInstanceUID"] for row in tables["object_references"]] == ["1.1", "1.2"]


def test_rows_reach_the_tables_of_a_document():
    attributes, vrs = attributes_of((SAMPLES / "highdicom/sr_document.dcm").read_bytes())
    document = {
        "DatastoreID": "d",
        "ImageSetID": "i",
        "Patient": {"DICOM": {}},
        "Study": {
            "DICOM": {"StudyInstanceUID": "1.2", "ProcedureCodeSequence": [{"CodeValue": "P"}]},
            "Series": {"1.3": {"DICOM": {}, "Instances": {"1.4": {"DICOM": attributes, "DICOMVRs": vrs}}}},
        },
    }
    rows = flatten(document, version=1, is_primary=True, patient_key=patient_key_function(b"x"), stamp={}).tables
    assert {row["SOPInstanceUID"] for row in rows["object_references"]} == {"1.4"}
    assert {row["image_set_id"] for row in rows["object_references"]} == {"i"}
    assert [row["code"] for row in rows["codes"] if row["level"] == "study"] == ["P"]
