"""Headers into rows of the table `headers`, column by column. Belongs here: which value stands in which column.

Does not belong here: reading headers (`ahi.dicom.headers`), the ledger (`ahi.uploads`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ahi.dicom.headers import PARSER_VERSION
from ahi.index.columnar import Rows
from ahi.index.registry import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ahi.dicom.headers import Header
    from ahi.events import ObjectCreated

Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Headed:
    """An object and its header."""

    object_id: str
    item: ObjectCreated
    header: Header


def header_rows(
    objects: Sequence[Headed], key_of: Callable[[str | None, str | None], str | None], stamp: Mapping[str, object]
) -> Rows:
    """Rows of `headers`; their order is not that of the objects.

    Args:
        objects: What was read.
        key_of: See `ahi.documents.patient_key_function`.
        stamp: Columns that are alike in all rows.
    """
    kinds: dict[int, list[Headed]] = {}
    for one in objects:
        kinds.setdefault(id(one.header.pattern), []).append(one)
    columns, n_rows = Columns(), 0
    for alike in kinds.values():
        found = _attributes([one.header for one in alike])
        n_rows += len(alike)
        for name, cells in found.items():
            column = columns.setdefault(name, [])
            column.extend([None] * (n_rows - len(alike) - len(column)))
            column.extend(cells)
    for column in columns.values():
        column.extend([None] * (n_rows - len(column)))
    rows = Rows(n_rows, {**stamp, "schema_version": SCHEMA_VERSION, "parser_version": PARSER_VERSION}, columns)
    rows.columns |= _of_objects([one for alike in kinds.values() for one in alike])
    rows.columns["patient_key"] = _keys(rows, key_of)
    return rows


def _attributes(headers: Sequence[Header]) -> Columns:
    """Values of objects of one kind."""
    pattern = headers[0].pattern
    if pattern is None:
        names = dict.fromkeys(name for header in headers for name in header.values)
        return {name: [header.values.get(name) for header in headers] for name in names}
    own = {name: [header.values.get(name) for header in headers] for name in pattern.names}
    return {name: [value] * len(headers) for name, value in pattern.values.items()} | own


def _of_objects(objects: Sequence[Headed]) -> Columns:
    items, headers = [one.item for one in objects], [one.header for one in objects]
    return {
        "object_id": [one.object_id for one in objects],
        "source_uri": [f"s3://{item.bucket}/{item.key}" for item in items],
        "source_version_id": [item.version_id for item in items],
        "source_etag": [item.etag for item in items],
        "size_bytes": [item.size for item in items],
        "TransferSyntaxUID": [header.transfer_syntax for header in headers],
        "cast_failures": [[failure.as_row() for failure in header.cast_failures] for header in headers],
        "lenient": [list(header.lenient) for header in headers],
        "pixel_complete": [header.pixel_complete for header in headers],
        "parser": [header.parser for header in headers],
        "header_bytes_read": [header.bytes_read for header in headers],
    }


def _keys(rows: Rows, key_of: Callable[[str | None, str | None], str | None]) -> list[str | None]:
    patients = list(zip(rows.values("IssuerOfPatientID"), rows.values("PatientID"), strict=True))
    known = {
        patient: key_of(*(str(value) if value else None for value in patient)) for patient in dict.fromkeys(patients)
    }
    return [known[patient] for patient in patients]
