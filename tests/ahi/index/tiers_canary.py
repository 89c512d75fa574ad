"""Rows full of strings that must not be found again, and a search that finds them wherever they are."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ahi.index.registry import arrow_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ahi.index.columns import Column, Table

# A day, a moment and a time of day that no date rule leaves as they are.
DAY = dt.date(1987, 6, 5)
MOMENT = dt.datetime(1987, 6, 5, 4, 3, 21, 987654, tzinfo=dt.UTC)
TIME = dt.time(4, 3, 21, 987654)
DATES = ("1987-06-05", "19870605", "04:03:21")
MARK = "Zaphod"
UID = "1.2.826.0.1.4711"


def _value(kind: pa.DataType, column: Column, path: str) -> Any:
    if pa.types.is_list(kind):
        return [_value(kind.value_type, column, f"{path}a"), _value(kind.value_type, column, f"{path}b")]
    if pa.types.is_struct(kind):
        return {part.name: _value(part.type, column, f"{path}.{part.name}") for part in kind}
    if pa.types.is_string(kind):
        return f"{UID}.{len(path)}" if column.vr == "UI" or "uid" in column.name.lower() else f"{MARK}^{path}"
    others = (
        (pa.types.is_date, DAY),
        (pa.types.is_timestamp, MOMENT),
        (pa.types.is_time, TIME),
        (pa.types.is_boolean, True),
    )
    return next((value for is_kind, value in others if is_kind(kind)), 1)


def canary_row(table: Table, image_set_id: str) -> dict[str, Any]:
    """A row of a table, each cell of text with the name of its column in it."""
    row = {
        column.name: _value(arrow_type(column.duckdb_type), column, f"{table.name}.{column.name}")
        for column in table.columns
    }
    return row | {"image_set_id": image_set_id, "is_primary": True, "datastore_id": f"{MARK}store"}


_TEXTS = {"DA": "19870605", "TM": "040321.987654", "DT": "19870605040321.987654+0000", "AS": "034Y"}
_NUMBERS = frozenset(("DS", "IS", "FD", "FL", "US", "UL", "SS", "SL", "US or SS"))


def _attribute(column: Column) -> Any:
    assert column.vr is not None
    if column.vr in _NUMBERS:
        return "1"
    if column.vr == "SQ":
        item = {keyword: f"{MARK}^{keyword}" for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")}
        return [item | {"PatientID": f"{MARK}^other", "Nested": [item]}]
    value = f"{UID}.{column.tag}" if column.vr == "UI" else _TEXTS.get(column.vr, f"{MARK}^{column.name}")
    return value if column.vm == "1" else [value, value]


def canary_document(document: dict[str, Any], columns: Iterable[Column]) -> dict[str, Any]:
    """HealthImaging's document with a string that must not be found again in each attribute, private and nested ones.

    Args:
        document: A real one.
        columns: Attributes to add where the document lacks them.
    """

    def marked(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: marked(part, key) for key, part in value.items()}
        if isinstance(value, list):
            return [marked(part, name) for part in value]
        is_uid = name.endswith("UID")
        return (f"{UID}.{len(value)}" if is_uid else f"{MARK}^{name}") if isinstance(value, str) else value

    def level(found: dict[str, Any], *names: str) -> dict[str, Any]:
        added = {column.name: _attribute(column) for column in columns if column.level in names}
        return found | {"DICOM": marked(found["DICOM"], "") | added}

    study = level(document["Study"], "Study")
    uid, series = next(iter(study["Series"].items()))
    number, instance = next(iter(series["Instances"].items()))
    instance = level(instance, "Instance")
    instance["DICOM"]["00091001"] = f"{MARK}^private"
    instance["DICOMVRs"] = instance["DICOMVRs"] | {"00091001": "LO"}
    for at, frame in enumerate(instance["ImageFrames"]):
        frame["ID"] = f"{MARK}frame{at}"
    series = level(series, "Series") | {"Instances": {f"{UID}.{len(number)}": instance}}
    study["Series"] = {f"{UID}.{len(uid)}": series}
    return document | {"Patient": level(document["Patient"], "Patient"), "Study": study, "DatastoreID": f"{MARK}store"}


def leaves(value: Any) -> Iterator[Any]:
    """Every part of a cell that is neither list nor struct."""
    if isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    elif value is not None:
        yield value


def everything(folder: Path) -> Iterator[tuple[str, str]]:
    """Everything that a folder tells whoever has it, as text: names, bytes, cells, statistics, comments, SQL."""
    for path in sorted(folder.rglob("*")):
        yield "name", path.name
        if not path.is_file():
            continue
        yield f"bytes of {path.name}", path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            yield from _parquet(path)
        if path.suffix == ".duckdb":
            yield from _duckdb(path)


def _parquet(path: Path) -> Iterator[tuple[str, str]]:
    table = pq.read_table(path, partitioning=None)
    where = f"{path.parent.name} {path.name}"
    for name in table.column_names:
        for value in leaves(table[name].to_pylist()):
            yield f"{where} {name}", str(value)
    metadata = pq.read_metadata(path)
    yield f"metadata of {where}", str(metadata.metadata)
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            found = metadata.row_group(group).column(number).statistics
            if found is not None and found.has_min_max:
                yield f"statistics of {where}", f"{found.min} {found.max}"


def _duckdb(path: Path) -> Iterator[tuple[str, str]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for catalog in ("duckdb_views", "duckdb_tables", "duckdb_columns"):
            for row in connection.execute(f"FROM {catalog}() WHERE NOT internal").fetchall():
                yield catalog, str(row)
        names = connection.execute("SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        names += connection.execute("SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
        for schema, name in names:
            for value in leaves(connection.execute(f'FROM "{schema}"."{name}"').fetchall()):
                yield f"{schema}.{name}", str(value)


def traces(folder: Path, *canaries: str) -> list[tuple[str, str]]:
    """Where any of the strings is found, in upper or lower case; nothing, if all is well."""
    wanted = [canary.lower() for canary in canaries]
    return [
        (where, text[:80]) for where, text in everything(folder) if any(canary in text.lower() for canary in wanted)
    ]
