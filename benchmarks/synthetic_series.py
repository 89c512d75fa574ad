"""Synthetic rows of the index, as many as wanted. Belongs here: rows. Does not belong here: measuring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ahi.index.registry import TABLES, arrow_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

SERIES_OF_STUDY, STUDIES_OF_PATIENT = 4, 3
MODALITIES = ["CT", "MR", "CR", "DX", "US", "MG", "PT", "SR", "XA", "NM"]
SHARES = [0.28, 0.24, 0.12, 0.12, 0.1, 0.05, 0.03, 0.03, 0.02, 0.01]
PARTS = ["CHEST", "HEAD", "ABDOMEN", "PELVIS", "KNEE", "BREAST", "SPINE", ""]
WORDS = ["axial", "t1", "t2", "flair", "contrast", "thin", "lung", "bone", "sag", "cor", "localizer", "delayed"]


def uids(numbers: np.ndarray[Any, Any], kind: int) -> list[str]:
    """UIDs as long as real ones, the same for the same number, in no order."""
    mixed = (numbers.astype(np.uint64) + np.uint64(kind << 40)) * np.uint64(0x9E3779B97F4A7C15)
    again = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return [f"1.2.826.0.1.3680043.8.498.{a:019d}{b:019d}"[:64] for a, b in zip(again, mixed, strict=True)]


def keys(numbers: np.ndarray[Any, Any], kind: int) -> list[str]:
    """32 hexadecimal digits, likewise."""
    mixed = (numbers.astype(np.uint64) + np.uint64(kind << 40)) * np.uint64(0x9E3779B97F4A7C15)
    again = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return [f"{a:016x}{b:016x}" for a, b in zip(mixed, again, strict=True)]


def series(start: int, stop: int, batch_id: str) -> pa.Table:
    """Rows of the table `series`, of which some fifty columns are filled as in a real archive."""
    random, count = np.random.default_rng(start), stop - start
    number = np.arange(start, stop)
    study = number // SERIES_OF_STUDY
    patient = study // STUDIES_OF_PATIENT
    modality = random.choice(len(MODALITIES), count, p=SHARES)
    day = 10_000 + (study * 7919) % 9_000
    maker = (study * 31) % 9
    instances = random.integers(1, 400, count)
    chosen = random.integers(0, len(WORDS), (count, 3))
    schema = arrow_schema(TABLES["series"])
    made: dict[str, Any] = {
        "SeriesInstanceUID": uids(number, 1),
        "StudyInstanceUID": uids(study, 2),
        "FrameOfReferenceUID": uids(study, 3),
        "image_set_id": keys(number, 4),
        "patient_key": [f"{a}{b}" for a, b in zip(keys(patient, 5), keys(patient, 6), strict=True)],
        "PatientID": [f"MRN{one:08d}" for one in patient],
        "PatientName": [f"Family{one % 40_000}^Given{one % 3_000}" for one in patient],
        "PatientBirthDate": (patient * 17 % 30_000).astype("int32"),
        "PatientSex": np.array(["F", "M", "O"])[patient % 3],
        "AccessionNumber": [f"A{one:09d}" for one in study],
        "StudyDate": day.astype("int32"),
        "SeriesDate": day.astype("int32"),
        "StudyDescription": [f"{WORDS[a % 12]} {PARTS[a % 8].lower()}" for a in study],
        "SeriesDescription": [" ".join(WORDS[word] for word in row) for row in chosen],
        "ProtocolName": [" ".join(WORDS[word] for word in row[:2]) for row in chosen],
        "Modality": np.array(MODALITIES)[modality],
        "BodyPartExamined": np.array(PARTS)[study % 8],
        "SeriesNumber": (number % SERIES_OF_STUDY + 1).astype("int32"),
        "Manufacturer": [f"Maker {one}" for one in maker],
        "ManufacturerModelName": [f"Model {one}" for one in study % 60],
        "DeviceSerialNumber": [f"SN{one:06d}" for one in study % 400],
        "StationName": [f"ROOM{one:03d}" for one in study % 400],
        "InstitutionName": [f"Hospital {one}" for one in study % 12],
        "SoftwareVersions": [[f"v{one}", "syngo"] for one in study % 90],
        "ImageType": [["ORIGINAL", "PRIMARY", "AXIAL"]] * count,
        "sop_class_uids": [[f"1.2.840.10008.5.1.4.1.1.{one}"] for one in modality],
        "patient_age_years": (day - patient * 17 % 30_000).clip(1) / 365.25,
        "n_instances": instances.astype("int32"),
        "n_frames": instances.astype("int64"),
        "Rows": [512] * count,
        "Columns": [512] * count,
        "SliceThickness": random.choice([0.5, 1.0, 2.5, 5.0], count),
        "pixel_spacing_row_mm": random.random(count).round(4),
        "pixel_spacing_col_mm": random.random(count).round(4),
        "datastore_id": ["0123456789abcdef0123456789abcdef"] * count,
        "image_set_version": [1] * count,
        "is_primary": [True] * count,
        "schema_version": ["3"] * count,
        "parser_version": ["documents-4"] * count,
        "batch_id": [batch_id] * count,
        "indexed_at": (1_750_000_000_000_000 + number * 1_000_000).astype("int64"),
    }
    return _table(schema, made, count)


def instances(start: int, stop: int, batch_id: str, of_series: int = 100) -> pa.Table:
    """Rows of the table `instances`, so many for each series."""
    number = np.arange(start, stop)
    count, owner = stop - start, number // of_series
    schema = arrow_schema(TABLES["instances"])
    made: dict[str, Any] = {
        "SOPInstanceUID": uids(number, 7),
        "SeriesInstanceUID": uids(owner, 1),
        "StudyInstanceUID": uids(owner // SERIES_OF_STUDY, 2),
        "image_set_id": keys(owner, 4),
        "SOPClassUID": ["1.2.840.10008.5.1.4.1.1.2"] * count,
        "TransferSyntaxUID": ["1.2.840.10008.1.2.1"] * count,
        "InstanceNumber": (number % of_series + 1).astype("int32"),
        "AcquisitionDate": (10_000 + owner // SERIES_OF_STUDY * 7919 % 9_000).astype("int32"),
        "ImageType": [["ORIGINAL", "PRIMARY", "AXIAL"]] * count,
        "Rows": [512] * count,
        "Columns": [512] * count,
        "SliceLocation": (number % of_series) * 2.5,
        "ImagePositionPatient": [[-250.0, -250.0, (one % of_series) * 2.5] for one in number],
        "ImageOrientationPatient": [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]] * count,
        "PixelSpacing": [[0.9765625, 0.9765625]] * count,
        "datastore_id": ["0123456789abcdef0123456789abcdef"] * count,
        "image_set_version": [1] * count,
        "is_primary": [True] * count,
        "batch_id": [batch_id] * count,
        "indexed_at": (1_750_000_000_000_000 + owner * 1_000_000).astype("int64"),
    }
    return _table(schema, made, count)


def parts(make: Any, n_rows: int, batch_id: str, rows: int = 50_000) -> Iterator[pa.Table]:
    """All rows of one kind, some at a time."""
    for start in range(0, n_rows, rows):
        yield make(start, min(start + rows, n_rows), batch_id)


def _table(schema: pa.Schema, made: dict[str, Any], count: int) -> pa.Table:
    arrays = []
    for field in schema:
        if field.name not in made:
            arrays.append(pa.nulls(count, field.type))
            continue
        values = made[field.name]
        if isinstance(values, np.ndarray) and values.dtype.kind == "U":
            values = values.tolist()
        array = pa.array(values)
        arrays.append(array if array.type == field.type else array.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
