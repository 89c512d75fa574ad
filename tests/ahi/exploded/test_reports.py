"""Structured reports: content, measurements, irradiation events; against the same file read with pydicom."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ahi.exploded import explode
from ahi.exploded.notes import MAX_DEPTH
from tests.ahi.exploded.conftest import as_bytes, exploded

REPORTS = (
    "dcmjs/sample-sr.dcm",
    "highdicom/sr_document.dcm",
    "highdicom/sr_document_with_multiple_groups.dcm",
    "pydicom/reportsi.dcm",
    "pydicom/test-SR.dcm",
)
TEXTS = {"TEXT": "TextValue", "PNAME": "PersonName"}
TIMES = {"DATE": "Date", "TIME": "Time", "DATETIME": "DateTime"}


def nodes(item: Dataset, path: str = "1"):
    yield path, item
    for number, child in enumerate(item.get("ContentSequence") or (), 1):
        yield from nodes(child, f"{path}.{number}")


def code_value(item: Dataset, keyword: str) -> str | None:
    sequence = item.get(keyword)
    return str(sequence[0].CodeValue).strip() if sequence else None


@pytest.mark.parametrize("file", REPORTS)
def test_every_content_item(sample, file):
    dataset, tables = sample(file)
    rows = tables["sr_content"]
    expected = dict(nodes(dataset))
    assert [row["item_path"] for row in rows] == list(expected)
    for row in rows:
        item = expected[row["item_path"]]
        kind = item.get("ValueType")
        assert (row.get("ValueType"), row.get("RelationshipType")) == (kind, item.get("RelationshipType"))
        assert row["concept_code"] == code_value(item, "ConceptNameCodeSequence")
        if kind == "NUM":
            measured = item.MeasuredValueSequence[0]
            assert row["numeric_value"] == float(measured.NumericValue)
            assert row["unit_code"] == code_value(measured, "MeasurementUnitsCodeSequence")
        elif kind == "CODE":
            assert row["value_code"] == code_value(item, "ConceptCodeSequence")
        elif kind in TEXTS:
            assert row["text_value"] == str(item[TEXTS[kind]].value).strip(" \0")
        elif kind in TIMES:
            assert row["datetime_value"] == str(item[TIMES[kind]].value)
        elif kind == "UIDREF":
            assert row["uid_value"] == item.UID
        elif kind in {"IMAGE", "COMPOSITE"}:
            assert row["ReferencedSOPInstanceUID"] == item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        elif kind == "SCOORD":
            assert row["n_graphic_points"] == len(item.GraphicData) // 2


def test_measurement_groups_of_a_real_report(sample):
    dataset, tables = sample("highdicom/sr_document_with_multiple_groups.dcm")
    rows = tables["measurements"]
    items = dict(nodes(dataset))
    numbers = {row["item_path"]: row["value"] for row in rows if row["kind"] == "quantitative"}
    groups = [path for path, item in items.items() if code_value(item, "ConceptNameCodeSequence") == "125007"]
    expected = {
        path: float(item.MeasuredValueSequence[0].NumericValue)
        for path, item in items.items()
        if item.ValueType == "NUM" and path.rpartition(".")[0] in groups
    }
    assert numbers == expected
    nodule = next(row for row in rows if row["tracking_id"] == "LungNodule0001" and row["kind"] == "quantitative")
    assert (nodule["finding_code"], nodule["finding_site_code"]) == ("27925004", "39607008")
    assert (nodule["quantity_meaning"], nodule["unit_code"], nodule["value"]) == ("Diameter", "mm", 10.0)
    judged = next(row for row in rows if row["kind"] == "qualitative" and row["finding_code"])
    assert (judged["quantity_code"], judged["value_code"], judged.get("value")) == ("121403", "371928007", None)


def coded(meaning: str, value: str, scheme: str = "DCM") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def node(kind: str, name: str, *children: Dataset, relation: str = "CONTAINS", **values) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relation, kind
    item.ConceptNameCodeSequence = coded("name", name)
    for keyword, value in values.items():
        setattr(item, keyword, value)
    if children:
        item.ContentSequence = Sequence(children)
    return item


def number(name: str, value: object, unit: str, *children: Dataset) -> Dataset:
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = coded(unit, unit, "UCUM")
    return node("NUM", name, *children, MeasuredValueSequence=Sequence([measured]))


def code(name: str, value: str, *children: Dataset) -> Dataset:
    return node("CODE", name, *children, ConceptCodeSequence=coded("meaning", value, "SCT"))


def report(*children: Dataset, sop_class: str, title: str) -> dict:
    root = node("CONTAINER", title, *children)
    del root.RelationshipType
    root.StudyInstanceUID, root.SeriesInstanceUID = "1.1", "1.1.1"
    return exploded(as_bytes(root, sop_class))


def test_a_measurement_of_a_segment_with_side_derivation_and_source():
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "1.9"
    reference.ReferencedSegmentNumber = [2]
    group = node(
        "CONTAINER",
        "125007",
        node("TEXT", "112039", TextValue="Kidney"),
        code("121071", "64033007"),
        code("G-C0E3", "T-71000", code("G-C171", "G-A101")),
        node("IMAGE", "121191", ReferencedSOPSequence=Sequence([reference])),
        node("UIDREF", "121232", UID="1.8"),
        number("118565006", "123.5", "mm3", code("121401", "373098007")),
    )
    tables = report(group, sop_class="1.2.840.10008.5.1.4.1.1.88.33", title="126000")
    (row,) = tables["measurements"]
    assert (row["finding_site_code"], row["laterality_code"]) == ("T-71000", "G-A101")
    assert (row["value"], row["unit_code"], row["derivation_code"]) == (123.5, "mm3", "373098007")
    assert (row["segmentation_uid"], row["segment_numbers"], row["source_series_uid"]) == ("1.9", [2], "1.8")
    assert row["source_image_uids"] is None


def test_irradiation_events_of_a_ct():
    event = node(
        "CONTAINER",
        "113819",
        node("TEXT", "125203", TextValue="THORAX"),
        code("123014", "51185008"),
        code("113820", "116152004"),
        node("UIDREF", "113769", UID="1.7"),
        node(
            "CONTAINER",
            "113822",
            number("113824", "2500", "ms"),
            number("113825", "33.5", "cm"),
            node("CONTAINER", "113831", number("113733", "120", "kV"), number("113734", "210.5", "mA")),
            node("CONTAINER", "113831", number("113733", "100", "kV"), number("113734", "300", "mA")),
        ),
        node("CONTAINER", "113829", number("113830", "5.25", "mGy"), number("113838", "0.2", "Gy.cm")),
    )
    observer = node("TEXT", "121014", TextValue="ACME")
    tables = report(observer, event, sop_class="1.2.840.10008.5.1.4.1.1.88.67", title="113701")
    (row,) = tables["dose_events"]
    assert (row["kind"], row["protocol"], row["irradiation_event_uid"]) == ("ct", "THORAX", "1.7")
    assert (row["target_region_code"], row["event_type_code"]) == ("51185008", "116152004")
    assert (row["ctdi_vol_mgy"], row["dlp_mgy_cm"], row["scanning_length_mm"]) == (5.25, 200.0, 335.0)
    assert (row["kvp"], row["tube_current_ma"], row["exposure_time_s"]) == (120.0, 300.0, 2.5)
    assert row["device_manufacturer"] == "ACME"


def test_irradiation_events_of_a_projection_and_a_unit_nobody_knows():
    event = node(
        "CONTAINER",
        "113706",
        node("DATETIME", "111526", DateTime="20240102030405"),
        code("113764", "113622"),
        number("122130", "1.5", "dGy.cm2"),
        number("113738", "0.002", "Gy"),
        number("113736", "1200", "uA.s"),
        number("113733", "80", "furlong"),
    )
    (row,) = report(event, sop_class="1.2.840.10008.5.1.4.1.1.88.67", title="113701")["dose_events"]
    assert (row["kind"], row["started_at"], row["plane_code"]) == ("projection", "20240102030405", "113622")
    assert row["dap_gy_m2"] == pytest.approx(1.5e-5)
    assert (row["dose_rp_gy"], row["exposure_mas"], row.get("kvp")) == (0.002, pytest.approx(1.2), None)
    assert [(one["keyword"], one["reason"]) for one in row["cast_failures"]] == [("kvp", "unknown unit")]


def test_a_key_object_selection_lists_its_images():
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.5"
    image = node("IMAGE", "113000", ReferencedSOPSequence=Sequence([reference]))
    del image.ConceptNameCodeSequence
    text = node("TEXT", "113012", TextValue="Look here")
    tables = report(text, image, sop_class="1.2.840.10008.5.1.4.1.1.88.59", title="113000")
    assert [row["ValueType"] for row in tables["sr_content"]] == ["CONTAINER", "TEXT", "IMAGE"]
    assert [row["ReferencedSOPInstanceUID"] for row in tables["object_references"]] == ["1.5"]


def test_a_value_that_is_no_number_is_null_and_said():
    item = {"ValueType": "NUM", "MeasuredValueSequence": [{"NumericValue": ["ten"]}]}
    rows = explode("1.2", {"ValueType": "CONTAINER", "ContentSequence": [item]}, {})["sr_content"]
    assert rows[1]["numeric_value"] is None
    assert rows[1]["cast_failures"] == [
        {"keyword": "NumericValue", "vr": "DS", "raw": "ten", "reason": "not a decimal number"}
    ]


def test_an_item_by_reference_names_its_place():
    item = {"RelationshipType": "INFERRED FROM", "ReferencedContentItemIdentifier": [1, 3, 2]}
    rows = explode("1.2", {"ContentSequence": [item]}, {})["sr_content"]
    assert rows[1]["referenced_item_path"] == "1.3.2"


def test_a_tree_that_is_too_deep_ends_and_says_so():
    item: dict = {"ValueType": "TEXT"}
    for _ in range(MAX_DEPTH + 10):
        item = {"ValueType": "CONTAINER", "ContentSequence": [item]}
    tables = explode("1.2", item, {})
    assert len(tables["sr_content"]) == MAX_DEPTH + 1
    assert f"deeper than {MAX_DEPTH} sequences" in {row["reason"] for row in tables["skipped_content"]}
