"""Values of every header keyword against pydicom's, for every sample with an identity, and the corpus where it is."""

from __future__ import annotations

import csv
import datetime as dt
import os
import re
import warnings
from pathlib import Path

import pytest

from ahi.dicom.headers import FileSource, Header, read_header
from ahi.index.registry import HEADER_KEYWORDS
from ahi.index.values import LEADING_COUNTS

SAMPLES = Path(__file__).parents[3] / "samples"
CORPUS = os.environ.get("AHI_DICOM_CORPUS", "")
READABLE = {"indexable", "indexable_lenient"}


def readable_files() -> list[Path]:
    folders = [(SAMPLES, SAMPLES / "dicom")] + ([(Path(CORPUS), Path(CORPUS))] if CORPUS else [])
    found = []
    for manifest, folder in folders:
        with (manifest / "MANIFEST.csv").open(newline="") as file:
            found += [folder / row["file"] for row in csv.DictReader(file) if row["expected"] in READABLE]
    return found


def plain(value, column):
    """pydicom's value as the index would hold it; lists for several values."""
    from pydicom.multival import MultiValue
    from pydicom.valuerep import DA, TM

    if column.vr == "SQ":
        return codes(value) or None
    if isinstance(value, MultiValue | list):
        values = [plain(one, column) for one in value]
        return values if any(one is not None for one in values) else None
    if value is None or not str(value).strip():
        return None
    text = str(value).rstrip() if column.vr in LEADING_COUNTS else str(value).strip()
    if column.vr == "PN":
        # Carets at the end of a group are no part of the name; pydicom leaves them.
        text = re.sub(r"[ ^]+(?==|$)", "", text) or text
    if column.vr == "DA":
        date = DA(text.replace(".", ""))
        return dt.date(date.year, date.month, date.day)
    if column.vr == "TM":
        time = TM(text.replace(":", "")[:13])
        return dt.time(time.hour, time.minute, time.second, time.microsecond)
    number = {"DS": float, "IS": int, "US": int, "US or SS": int}.get(column.vr)
    return number(value) if number else text


def codes(items) -> list[tuple[str, ...]]:
    return [(item.get("CodeValue", ""), item.get("CodeMeaning", ""), item.get("PatientID", "")) for item in items or ()]


def ours(value, column):
    if column.vr == "SQ":
        return [tuple(item.get(key) or "" for key in ("code", "meaning", "id")) for item in value or ()] or None
    return value


@pytest.mark.parametrize("path", readable_files(), ids=lambda path: path.name)
def test_values_equal_those_of_pydicom(path):
    import pydicom

    header = read_header(FileSource(path))
    assert isinstance(header, Header)
    failed = {failure.keyword for failure in header.cast_failures}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        for tag, column in HEADER_KEYWORDS.items():
            if column.name in failed:
                continue
            element = (dataset.file_meta if tag >> 16 == 2 else dataset).get(tag)
            expected = plain(element.value if element is not None else None, column)
            if column.vm != "1" and column.vr != "SQ" and expected is not None and not isinstance(expected, list):
                expected = [expected]
            if column.vm == "1" and isinstance(expected, list) and column.vr != "SQ":
                expected = "\\".join(one or "" for one in expected)
            assert ours(header.values.get(column.name), column) == expected, column.name
