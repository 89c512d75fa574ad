"""What a column of the index is. Belongs here: its parts, and its type by the value representation of its attribute.

Does not belong here: the columns themselves (`keywords_*`), tables (`registry`), casts of values (`values`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Tier(StrEnum):
    """Who may see a column: the tier named and every tier above it. `IDENTIFIED` is the highest."""

    IDENTIFIED = "identified"
    LIMITED = "limited"
    DEIDENTIFIED = "deidentified"


class Shape(StrEnum):
    """Fields that the index keeps of each item of a sequence; see `SHAPES`."""

    CODE = "code"
    PATIENT_ID = "patient_id"
    ISSUER = "issuer"
    REQUEST = "request"


@dataclass(frozen=True)
class Field:
    """A field of a sequence item: name in the index, and the tag it comes from; the first tag with a value counts."""

    name: str
    tags: tuple[int, ...]
    keywords: tuple[str, ...]
    vr: str
    shape: Shape | None = None


# Code Value has two longer forms (PS3.3 table 8.8-1): Long Code Value and URN Code Value.
SHAPES: dict[Shape, tuple[Field, ...]] = {
    Shape.CODE: (
        Field("code", (0x00080100, 0x00080119, 0x00080120), ("CodeValue", "LongCodeValue", "URNCodeValue"), "SH"),
        Field("scheme", (0x00080102,), ("CodingSchemeDesignator",), "SH"),
        Field("meaning", (0x00080104,), ("CodeMeaning",), "LO"),
    ),
    Shape.PATIENT_ID: (
        Field("id", (0x00100020,), ("PatientID",), "LO"),
        Field("issuer", (0x00100021,), ("IssuerOfPatientID",), "LO"),
        Field("type", (0x00100022,), ("TypeOfPatientID",), "CS"),
    ),
    Shape.ISSUER: (
        Field("local", (0x00400031,), ("LocalNamespaceEntityID",), "UT"),
        Field("universal", (0x00400032,), ("UniversalEntityID",), "UT"),
        Field("type", (0x00400033,), ("UniversalEntityIDType",), "CS"),
    ),
    Shape.REQUEST: (
        Field("accession", (0x00080050,), ("AccessionNumber",), "SH"),
        Field("requested_procedure_id", (0x00401001,), ("RequestedProcedureID",), "SH"),
        Field("scheduled_step_id", (0x00400009,), ("ScheduledProcedureStepID",), "SH"),
        Field("requested_procedure", (0x00321064,), ("RequestedProcedureCodeSequence",), "SQ", Shape.CODE),
    ),
}

_SCALAR_TYPES = {
    **dict.fromkeys(("AE", "AS", "CS", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "UI", "PN"), "VARCHAR"),
    "DA": "DATE",
    "TM": "TIME",
    "DT": "TIMESTAMPTZ",
    "DS": "DOUBLE",
    "FD": "DOUBLE",
    "FL": "FLOAT",
    "IS": "INTEGER",
    "SL": "INTEGER",
    "US": "USMALLINT",
    "UL": "UINTEGER",
    "SS": "SMALLINT",
    "US or SS": "INTEGER",
}


@dataclass(frozen=True)
class Column:
    """One column. `tag`, `vr`, `vm` and `level` are those of the DICOM dictionary, and empty for a derived column."""

    name: str
    duckdb_type: str
    description: str
    tier: Tier
    tag: int | None = None
    vr: str | None = None
    vm: str | None = None
    level: str = ""
    shape: Shape | None = None
    since: str = "1"
    """Schema version that brought the column."""

    @property
    def is_list(self) -> bool:
        """Whether a cell holds a list."""
        return self.duckdb_type.endswith("[]")

    @property
    def is_nested(self) -> bool:
        """Whether a cell holds a list or a struct."""
        return self.duckdb_type.endswith(("]", ")"))


@dataclass(frozen=True)
class Table:
    """One Parquet table. `row_key` names the column by which rows are replaced, `sort_by` the order in a file."""

    name: str
    description: str
    columns: tuple[Column, ...]
    row_key: str
    sort_by: tuple[str, ...]


def struct_type(shape: Shape) -> str:
    """DuckDB type of one sequence item of a shape."""
    fields = (f"{field.name} {struct_type(field.shape) if field.shape else 'VARCHAR'}" for field in SHAPES[shape])
    return f"STRUCT({', '.join(fields)})"


def duckdb_type(vr: str, vm: str, shape: Shape | None = None) -> str:
    """DuckDB type of an attribute, by the rules of the index schema: VR gives the type, a VM other than 1 a list."""
    if vr == "SQ":
        return f"{struct_type(shape or Shape.CODE)}[]"
    return _SCALAR_TYPES[vr] if vm == "1" else f"{_SCALAR_TYPES[vr]}[]"


def dicom(
    level: str,
    keyword: str,
    tag: int,
    vr: str,
    vm: str,
    tier: Tier,
    description: str,
    shape: Shape | None = None,
    *,
    since: str = "1",
) -> Column:
    """A column of a DICOM attribute; a sequence without a shape is one of codes."""
    if vr == "SQ":
        shape = shape or Shape.CODE
    return Column(keyword, duckdb_type(vr, vm, shape), description, tier, tag, vr, vm, level, shape, since)


def derived(name: str, duckdb_type: str, tier: Tier, description: str, *, since: str = "1") -> Column:
    """A column that comes from no attribute of its own."""
    return Column(name, duckdb_type, description, tier, since=since)


def image_set_table(name: str, description: str, columns: tuple[Column, ...], sort_by: tuple[str, ...]) -> Table:
    """A table whose rows are replaced with their image set. The registry adds the columns that all of these carry.

    Rows stand by study, then as `sort_by` says: a look at one study then reads one row group of a file. The UID of a
    series is its scanner's and that of a study often the archive's, so by series a study was all over the file.
    """
    return Table(name, description, columns, "image_set_id", ("StudyInstanceUID", *sort_by))
