"""Header rows, column by column, say of each object what its header says."""

from __future__ import annotations

import csv
import datetime as dt
from pathlib import Path

from ahi.dicom import alike
from ahi.dicom.headers import BytesSource, Header, read_header
from ahi.documents import patient_key_function
from ahi.events import ObjectCreated
from ahi.header_rows import Headed, header_rows

SAMPLES = Path(__file__).parents[2] / "samples"
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


def test_no_objects_are_no_rows():
    assert not header_rows([], patient_key_function(b"secret"), {})
