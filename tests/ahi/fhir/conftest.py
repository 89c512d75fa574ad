"""The validator, which compiles a table at first, lines to judge, and a small index to make lines from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import orjson
import pyarrow as pa
import pytest

from ahi.fhir.imaging_study import Omission
from ahi.fhir.instances import COLUMNS
from ahi.fhir.resources import Resource
from ahi.fhir.rules import Rules
from ahi.fhir.source import PATIENT_COLUMNS, SERIES_COLUMNS, fhir_resources
from ahi.fhir.validate import Validator
from ahi.index.registry import TABLES, arrow_schema
from ahi.index.values import name_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def validator() -> Validator:
    return Validator()


@pytest.fixture(scope="session")
def synthea() -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (DATA / "synthea.ndjson").read_bytes().splitlines()]


Row = dict[str, Any]
READ = {*SERIES_COLUMNS, *PATIENT_COLUMNS, *COLUMNS, "image_set_version", "schema_version", "parser_version"}
SCHEMAS = {
    name: pa.schema(
        [*(field for field in arrow_schema(TABLES[name]) if field.name in READ), ("row_source", pa.string())]
    )
    for name in ("series", "instances")
}
BASE: Row = {
    "row_source": "document",
    "datastore_id": "d" * 32,
    "image_set_id": "e" * 32,
    "patient_key": "a" * 64,
    "PatientID": "P1",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.4",
    "Modality": "CT",
}
INSTANCE: Row = {"SOPInstanceUID": "1.2.3.4.5", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "InstanceNumber": 1}


class SmallIndex:
    """The views `series` and `instances` as the published index has them, with given rows."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self.series: list[Row] = []
        self.instances: list[Row] = []
        self.rules = Rules("https://dicom.example/{datastore_id}", secret=b"test")
        self.omitted: list[Omission] = []

    def add(self, *instances: Row, **values: Any) -> SmallIndex:
        """An image set with instances; a value that is left out is one of `BASE` and `INSTANCE`."""
        series = {**BASE, **values}
        series["PatientName_parts"] = name_parts(series.get("PatientName"))
        self.series.append(series)
        own = {key: series[key] for key in ("row_source", "datastore_id", "image_set_id")}
        own |= {key: series[key] for key in ("StudyInstanceUID", "SeriesInstanceUID")}
        self.instances += [{**INSTANCE, **own, **instance} for instance in instances or [{}]]
        return self

    def connection(self) -> duckdb.DuckDBPyConnection:
        """The database with the rows of now, in any order."""
        for name, rows in (("series", self.series), ("instances", self.instances)):
            table = pa.Table.from_pylist(random.sample(rows, len(rows)), SCHEMAS[name])
            self._database.register("rows", table)
            self._database.execute(f"CREATE OR REPLACE TABLE {name} AS FROM rows")
            self._database.unregister("rows")
        return self._database

    def resources(self, **choices: Any) -> list[Resource]:
        """All resources; `omitted` has what they leave out."""
        self.omitted.clear()
        return list(fhir_resources(self.connection(), self.rules, omit=self.omitted.append, **choices))

    def of(self, kind: str) -> list[Row]:
        """Resources of a type, read back."""
        return [orjson.loads(one.body) for one in self.resources() if one.kind == kind]

    def study(self) -> Row:
        """The only ImagingStudy."""
        (one,) = self.of("ImagingStudy")
        return one

    def patient(self) -> Row:
        """The only Patient."""
        (one,) = self.of("Patient")
        return one


@pytest.fixture(scope="session")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        yield connection


@pytest.fixture
def index(database: duckdb.DuckDBPyConnection) -> SmallIndex:
    return SmallIndex(database)
