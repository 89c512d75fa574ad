"""HealthImaging's metadata document into rows. Start here; the levels have modules of their own.

Belongs here: the order of things, and what the index needs of a document besides its rows. Does not belong here:
fetching and keeping documents, the form of a document (`ahi.documents_form`), types of values (`ahi.index.values`).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ahi.documents_form import DocumentError, mapping, parsed, string
from ahi.documents_instances import (
    add_hashes,
    add_references,
    frame_rows,
    frames_of,
    instance_rows,
    metadata_rows,
    take_apart,
)
from ahi.documents_series import add_of_frames, metadata_row, series_row
from ahi.documents_side import side_row
from ahi.exploded import explode_level, explode_series
from ahi.exploded.volume import geometry
from ahi.index.columnar import Rows
from ahi.index.registry import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ahi.documents_instances import Source
    from ahi.documents_series import PatientKey

Row = dict[str, object]

# Rises when the same document may give other rows.
PARSER_VERSION = "documents-5"


@dataclass(frozen=True)
class DocumentRows:
    """Rows of one version of an image set, and what its head needs."""

    datastore_id: str
    image_set_id: str
    study_uid: str
    series_uid: str
    n_instances: int
    patient_key: str | None
    sop_instance_uids: frozenset[str]
    tables: Mapping[str, Rows]
    """Rows by table of the registry; tables without rows are left out."""

    def rows(self, table: str) -> list[Row]:
        """Rows of one table as dicts."""
        return list(self.tables.get(table, ()))


def patient_key_function(secret: bytes) -> PatientKey:
    """Function of issuer and PatientID to `patient_key`: HMAC-SHA256, as a plain hash of an id can be guessed back.

    Without a PatientID there is no key: nothing tells whose the study is.

    Raises ValueError for an empty secret.
    """
    if not secret:
        raise ValueError("The secret of the patient key is empty: set AHI_PATIENT_KEY_SECRET.")
    keyed = hmac.new(secret, digestmod=hashlib.sha256)

    def patient_key(issuer: str | None, patient_id: str | None) -> str | None:
        if not (patient_id or "").strip(" \t\r\n\0"):
            return None
        one = keyed.copy()
        # The length keeps ("A", "BC") and ("AB", "C") apart.
        one.update(f"{len(issuer or '')}:{issuer or ''}{patient_id}".encode("utf-8", "surrogatepass"))
        return one.hexdigest()

    return patient_key


def flatten(
    document: bytes | Mapping[str, Any],
    *,
    version: int,
    is_primary: bool,
    patient_key: PatientKey,
    stamp: Mapping[str, object],
) -> DocumentRows:
    """Rows of every table that is made from metadata documents.

    Args:
        document: The document, as JSON (gzip or plain) or parsed.
        version: Version of the image set that the document is of.
        is_primary: Whether HealthImaging holds the image set as primary.
        patient_key: See `patient_key_function`.
        stamp: Columns that every row gets, such as `indexed_at`.

    Raises:
        DocumentError: The document is not JSON or has an unknown form.
    """
    top = parsed(document)
    datastore_id, image_set_id = string(top, "DatastoreID"), string(top, "ImageSetID")
    patient = mapping(mapping(top, "Patient"), "DICOM")
    study_level = mapping(top, "Study")
    study = mapping(study_level, "DICOM")
    study_uid = string(study, "StudyInstanceUID")
    base: Row = {
        **stamp,
        "datastore_id": datastore_id,
        "image_set_id": image_set_id,
        "image_set_version": version,
        "is_primary": is_primary,
        "schema_version": SCHEMA_VERSION,
        "parser_version": PARSER_VERSION,
        "StudyInstanceUID": study_uid,
    }
    tables: dict[str, Rows] = {}
    first: Row | None = None
    uids: list[str] = []
    series_map = mapping(study_level, "Series")
    for series_uid in series_map:
        series = mapping(series_map, series_uid, "a series")
        levels = (patient, study, mapping(series, "DICOM"))
        inherited = {**patient, **study, **levels[2]}
        source = take_apart({**base, "SeriesInstanceUID": series_uid}, inherited, series)
        row = _add_series(tables, source, levels, patient_key)
        first = first or row
        uids += source.uids
    if first is None:
        raise DocumentError("The document has no series.")
    return DocumentRows(
        datastore_id=datastore_id,
        image_set_id=image_set_id,
        study_uid=study_uid,
        series_uid=str(first["SeriesInstanceUID"]),
        n_instances=len(uids),
        patient_key=key if isinstance(key := first["patient_key"], str) else None,
        sop_instance_uids=frozenset(uids),
        tables=tables,
    )


def _add_series(
    tables: dict[str, Rows], source: Source, levels: Sequence[Mapping[str, Any]], patient_key: PatientKey
) -> Row:
    """Add the rows of one series and all below it; returns the series' own."""
    frames = frames_of(source)
    instances = instance_rows(source, frames)
    row = series_row(source, instances, patient_key)
    found = {
        "series": Rows(1, row),
        "instances": instances,
        "frames": frame_rows(source, frames),
        "series_metadata": Rows(1, metadata_row(source, levels)),
        "instance_metadata": metadata_rows(source),
    }
    side = side_row(source, row["Modality"])
    if side is not None:
        found[side[0]] = Rows(1, side[1])
    exploded = explode_series(source.uids, source.attributes, source.vrs, source.keys, source.offsets, source.columns)
    for name, level in zip(("patient", "study", "series"), levels, strict=True):
        for table, rows in explode_level(name, level).items():
            exploded.setdefault(table, []).extend(rows)
    add_hashes(instances, found["instance_metadata"])
    add_references(instances, exploded.get("object_references", ()))
    functional = exploded.get("frames_functional", ())
    if functional:
        add_of_frames(row, functional)
    if shape := geometry(instances, functional, source.inherited.get("FrameOfReferenceUID")):
        exploded["series_geometry"] = [shape]
    found |= {table: Rows.of(rows, source.base) for table, rows in exploded.items()}
    for table, part in found.items():
        if part.n_rows:
            tables[table] = tables[table] + part if table in tables else part.settled()
    return row
