"""Every file of a larger corpus through the main path. Runs over the folder that AHI_DICOM_CORPUS names, with its
MANIFEST.csv; over the samples of the project when it names none."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
CORPUS = Path(os.environ.get("AHI_DICOM_CORPUS") or SAMPLES / "dicom")
MANIFEST = CORPUS / "MANIFEST.csv" if "AHI_DICOM_CORPUS" in os.environ else SAMPLES / "MANIFEST.csv"
EXPECTED = {
    "indexable": {("imported", None)},
    "indexable_lenient": {("imported", None), ("failed", "IMPORT_REJECTED")},
    "broken_pixels": {("failed", "BROKEN_PIXELS")},
    "no_identity": {("failed", "NO_IDENTITY")},
    "broken": {("failed", "BROKEN")},
    "not_dicom": {("failed", "NOT_DICOM"), ("failed", "EMPTY")},
    "not_instance": {("failed", "NOT_AN_INSTANCE")},
}


@pytest.mark.drill
def test_every_file_ends_as_its_manifest_expects(site):
    rows = {row["file"]: row for row in csv.DictReader(MANIFEST.read_text().splitlines())}
    for name in rows:
        site.put(name, (CORPUS / name).read_bytes())
    closure = site.drive(seconds=600)
    assert (closure.landed, closure.closes, closure.at_rest) == (len(rows), True, True)
    ends = {row["key"]: (row["state"], row["reason_code"]) for row in site.ledger()}
    wrong = {name: ends[name] for name, row in rows.items() if ends[name] not in EXPECTED[row["expected"]]}
    assert wrong == {}
    lenient = [name for name, row in rows.items() if row["expected"] in ("indexable_lenient", "broken_pixels")]
    listed = {uri for (uri,) in site.rows("SELECT source_uri FROM headers")}
    bucket = site.stack.env["AHI_LANDING_BUCKET"]
    assert {f"s3://{bucket}/{name}" for name in lenient} <= listed
    imported = {name for name, end in ends.items() if end[0] == "imported"}
    uids = {row["SOPInstanceUID"] for row in site.ledger() if row["key"] in imported}
    assert uids <= {uid for (uid,) in site.rows("SELECT SOPInstanceUID FROM instances_all")}
