"""Header rows, column by column, say of each object what its header says."""

from __future__ import annotations

import csv
import datetime as dt
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_VR

from ahi.dicom import alike
from ahi.dicom.headers import BytesSource, Header, read_header
from ahi.documents import patient_key_function
from ahi.events import ObjectCreated
from ahi.header_rows import Headed, header_rows

SAMPLES = Path(__file__).parents[2] / "samples"
PADDED = {
    "Modality": " CT ",
    "PatientID": " ODD007 ",
    "IssuerOfPatientID": " A ",
    "ImageType": ["ORIGINAL ", "PRIMARY ", " LOCALIZER "],
    "BodyPartExamined": " CHEST ",
}
AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_each_row_has_the_values_of_its_own_header():
    alike.forget()
    with (SAMPLES / "MANIFEST.csv").open(newline="") as file:
        objects = [(SAMPLES / "dicom" / row["file"]).read_bytes() for row in csv.DictReader(file)]
    # Three rounds, so that some are told by what they have in common.
    found = [read_header(BytesSource(data)) for data in objects[:40] * 3]
    headed = [
        Headed(f"object{number}", ObjectCreated("bucket", f"key/{number}", None, "etag", number, "", AT), header)
        for number, header in enumerate(found)
        if isinstance(header, Header)
    ]
    assert any(one.header.pattern for one in headed)
    key_of = patient_key_function(b"secret")
    rows = {row["object_id"]: row for row in header_rows(headed, key_of, {"indexed_at": AT})}
    assert len(rows) == len(headed)
    for one in headed:
        row = rows[one.object_id]
        values = dict(one.header.values)
        assert {name: row[name] for name in values} == values
        others = row.keys() - values.keys() - {"patient_key"}
        stated = {name for name in others if row[name] not in (None, [])}
        assert stated <= {
            *("object_id", "source_uri", "source_etag", "size_bytes", "TransferSyntaxUID", "cast_failures", "lenient"),
            *("pixel_complete", "parser", "header_bytes_read", "indexed_at", "schema_version", "parser_version"),
        }
        assert row["patient_key"] == key_of(values.get("IssuerOfPatientID"), values.get("PatientID"))
        assert (row["size_bytes"], row["TransferSyntaxUID"]) == (one.item.size, one.header.transfer_syntax)
        assert row["cast_failures"] == [failure.as_row() for failure in one.header.cast_failures]


def test_padding_around_a_value_is_no_part_of_it():
    dataset = pydicom.dcmread(SAMPLES / "dicom" / "pydicom/CT_small.dcm")
    for keyword, value in PADDED.items():
        dataset[keyword] = pydicom.DataElement(keyword, dictionary_VR(keyword), value)
    file = BytesIO()
    dataset.save_as(file)
    header = read_header(BytesSource(file.getvalue()))
    assert isinstance(header, Header)
    assert {keyword: header.values[keyword] for keyword in PADDED} == {
        "Modality": "CT",
        "PatientID": "ODD007",
        "IssuerOfPatientID": "A",
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "BodyPartExamined": "CHEST",
    }
    item = ObjectCreated("bucket", "key", None, "etag", 1, "", AT)
    (row,) = header_rows([Headed("object", item, header)], key_of := patient_key_function(b"secret"), {})
    assert row["patient_key"] == key_of("A", "ODD007")


def test_no_objects_are_no_rows():
    assert not header_rows([], patient_key_function(b"secret"), {})
