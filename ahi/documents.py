"""HealthImaging's metadata document into rows. Start here; the levels have modules of their own.

Belongs here: the order of things, and what the index needs of a document besides its rows. Does not belong here:
fetching and keeping documents, the form of a document (`ahi.documents_form`), types of values (`ahi.index.values`).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ahi.documents_form import DocumentError, mapping, parsed, string
from ahi.documents_instances import add_references, instance_tables, take_apart
from ahi.documents_series import add_of_frames, metadata_row, series_row
from ahi.documents_side import side_row
from ahi.documents_together import rows_together, single_of
from ahi.exploded import add_levels, explode_series
from ahi.exploded.volume import geometry
from ahi.index.columnar import Rows
from ahi.index.registry import SCHEMA_VERSION
from ahi.index.values import PADDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ahi.documents_instances import Source
    from ahi.documents_series import PatientKey
    from ahi.documents_together import Shape, Single

Row = dict[str, object]

# Rises when the same document may give other rows.
PARSER_VERSION = "documents-7"

# Documents of one shape that become rows together.
_TOGETHER = 200
# Compressed. A larger document gains little, and its objects would wait in memory for others like it.
_SMALL_BYTES = 32 * 2**10


@dataclass(frozen=True)
class DocumentHead:
    """What the head of an image set needs of one version of its document."""

    datastore_id: str
    image_set_id: str
    study_uid: str
    series_uid: str
    n_instances: int
    patient_key: str | None


@dataclass(frozen=True)
class DocumentRows(DocumentHead):
    """The same, with the rows of the document."""

    tables: Mapping[str, Rows]
    """Rows by table of the registry; tables without rows are left out."""

    def rows(self, table: str) -> list[Row]:
        """Rows of one table as dicts."""
        return list(self.tables.get(table, ()))


class Known(Protocol):
    """What is known of a document before it is read."""

    @property
    def datastore_id(self) -> str:
        """Data store that the document was asked of."""

    @property
    def image_set_id(self) -> str:
        """Image set that the document was asked for."""

    @property
    def version(self) -> int:
        """Version of the image set that the document is of."""

    @property
    def is_primary(self) -> bool:
        """Whether HealthImaging holds the image set as primary."""


K = TypeVar("K", bound=Known)


@dataclass(frozen=True)
class Flattened(Generic[K]):
    """Documents that became rows together, and those rows.

    Attributes:
        documents: Each with its head, or with why it has no rows.
        parts: Rows by table of the registry, in one or several parts; tables without rows are left out.
    """

    documents: Sequence[tuple[K, DocumentHead | DocumentError]]
    parts: Sequence[Mapping[str, Rows]]


def patient_key_function(secret: bytes) -> PatientKey:
    """Function of issuer and PatientID to `patient_key`: HMAC-SHA256, as a plain hash of an id can be guessed back.

    Without a PatientID there is no key: nothing tells whose the study is. Padding around either makes no other patient.

    Raises ValueError for an empty secret.
    """
    if not secret:
        raise ValueError("The secret of the patient key is empty: set AHI_PATIENT_KEY_SECRET.")
    keyed = hmac.new(secret, digestmod=hashlib.sha256)

    def patient_key(issuer: str | None, patient_id: str | None) -> str | None:
        # Empty values, with a backslash between them, are no ID: strangers would become one patient.
        if not (patient_id or "").strip(" \t\r\n\0\\"):
            return None
        one = keyed.copy()
        issuer, patient_id = (issuer or "").strip(PADDING), (patient_id or "").strip(PADDING)
        # The length keeps ("A", "BC") and ("AB", "C") apart.
        one.update(f"{len(issuer)}:{issuer}{patient_id}".encode("utf-8", "surrogatepass"))
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
    base = _base(version, is_primary, datastore_id, image_set_id, study_uid, stamp)
    tables: dict[str, Rows] = {}
    first: Row | None = None
    n_instances = 0
    series_map = mapping(study_level, "Series")
    for series_uid in series_map:
        series = mapping(series_map, series_uid, "a series")
        levels = (patient, study, mapping(series, "DICOM"))
        inherited = {**patient, **study, **levels[2]}
        source = take_apart({**base, "SeriesInstanceUID": series_uid}, inherited, series)
        row = _add_series(tables, source, levels, patient_key)
        first = first or row
        n_instances += len(source.uids)
    if first is None:
        raise DocumentError("The document has no series.")
    return DocumentRows(
        datastore_id=datastore_id,
        image_set_id=image_set_id,
        study_uid=study_uid,
        series_uid=str(first["SeriesInstanceUID"]),
        n_instances=n_instances,
        patient_key=key if isinstance(key := first["patient_key"], str) else None,
        tables=tables,
    )


def _base(
    version: int, is_primary: bool, datastore_id: str, image_set_id: str, study_uid: str, stamp: Mapping[str, object]
) -> Row:
    """Columns that every row of a document gets."""
    return {
        **stamp,
        "datastore_id": datastore_id,
        "image_set_id": image_set_id,
        "image_set_version": version,
        "is_primary": is_primary,
        "schema_version": SCHEMA_VERSION,
        "parser_version": PARSER_VERSION,
        "StudyInstanceUID": study_uid,
    }


def flatten_all(
    documents: Iterable[tuple[K, bytes]], *, patient_key: PatientKey, stamp: Mapping[str, object]
) -> Iterator[Flattened[K]]:
    """Rows of documents, those of one instance each together where they are of one shape.

    They come in another order than the documents, and are the same as those of `flatten`. Small documents wait for
    others of their shape, at most until the last one.

    Args:
        documents: What is known of each, and its JSON (gzip or plain).
        patient_key: See `patient_key_function`.
        stamp: Columns that every row gets, such as `indexed_at`.
    """
    waiting: dict[Shape, list[tuple[K, Single]]] = {}
    for known, content in documents:
        try:
            top = parsed(content)
            _check_ids(known, top)
        except DocumentError as error:
            yield Flattened([(known, error)], [])
            continue
        single = single_of(top) if len(content) <= _SMALL_BYTES else None
        if single is None:
            yield _alone(known, top, patient_key, stamp)
            continue
        alike = waiting.setdefault(single.shape, [])
        alike.append((known, single))
        if len(alike) == _TOGETHER:
            yield from _together(waiting.pop(single.shape), patient_key, stamp)
    for alike in waiting.values():
        yield from _together(alike, patient_key, stamp)


def _check_ids(known: Known, top: Mapping[str, Any]) -> None:
    """Refuse a document of another image set: no deletion and no later version would ever reach its rows."""
    if (string(top, "DatastoreID"), string(top, "ImageSetID")) != (known.datastore_id, known.image_set_id):
        raise DocumentError("The document is of another image set than the one that it was kept for.")


def _alone(known: K, top: Mapping[str, Any], patient_key: PatientKey, stamp: Mapping[str, object]) -> Flattened[K]:
    try:
        rows = flatten(top, version=known.version, is_primary=known.is_primary, patient_key=patient_key, stamp=stamp)
    except DocumentError as error:
        return Flattened([(known, error)], [])
    return Flattened([(known, rows)], [rows.tables])


def _together(
    alike: Sequence[tuple[K, Single]], patient_key: PatientKey, stamp: Mapping[str, object]
) -> Iterator[Flattened[K]]:
    bases = [
        {
            **_base(known.version, known.is_primary, one.datastore_id, one.image_set_id, one.study_uid, stamp),
            "SeriesInstanceUID": one.series_uid,
        }
        for known, one in alike
    ]
    try:
        parts = rows_together([one for _, one in alike], bases, patient_key)
    except DocumentError:
        # Says which it is.
        yield from (_alone(known, one.document, patient_key, stamp) for known, one in alike)
        return
    heads = (
        DocumentHead(one.datastore_id, one.image_set_id, one.study_uid, one.series_uid, 1, key)
        for (_, one), key in zip(alike, parts[0]["series"].values("patient_key"), strict=True)
    )
    yield Flattened([(known, head) for (known, _), head in zip(alike, heads, strict=True)], parts)


def _add_series(
    tables: dict[str, Rows], source: Source, levels: Sequence[Mapping[str, Any]], patient_key: PatientKey
) -> Row:
    """Add the rows of one series and all below it; returns the series' own."""
    found = instance_tables(source)
    instances = found["instances"]
    row = series_row(source, instances, patient_key)
    found |= {"series": Rows(1, row), "series_metadata": Rows(1, metadata_row(source, levels))}
    side = side_row(source, row["Modality"])
    if side is not None:
        found[side[0]] = Rows(1, side[1])
    exploded = explode_series(source.uids, source.attributes, source.vrs, source.keys, source.offsets, source.columns)
    add_levels(exploded, levels)
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
