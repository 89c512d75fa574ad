"""Reading the index for FHIR. Belongs here: queries to the published index, and every resource of it as one stream.

Does not belong here: the mapping, sending anything.

DuckDB sorts, and spills to disk what does not fit; rows then pass in batches, so memory does not grow with the index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.fhir.imaging_study import Omission, imaging_studies
from ahi.fhir.instances import COLUMNS, series_instances
from ahi.fhir.patient import patients
from ahi.fhir.resources import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import duckdb
    import pyarrow as pa

    from ahi.fhir.resources import Resource
    from ahi.fhir.rules import Rules

BATCH_ROWS = 50_000
# Rows of headers stand for objects that HealthImaging has not taken yet; a study is told of what can be fetched.
_IMPORTED = "row_source = 'document'"
PATIENT_COLUMNS = (
    "patient_key",
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName_parts",
    "PatientBirthDate",
    "PatientSex",
    "OtherPatientIDsSequence",
)
SERIES_COLUMNS = (
    *("datastore_id", "image_set_id", "patient_key", "PatientID"),
    *("StudyInstanceUID", "StudyID", "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyDate", "StudyTime"),
    *("StudyDescription", "ProcedureCodeSequence", "ReasonForStudy", "ReasonForRequestedProcedureCodeSequence"),
    *("ReferringPhysicianName", "NameOfPhysiciansReadingStudy"),
    *("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime"),
    *("TimezoneOffsetFromUTC", "RequestAttributesSequence", "BodyPartExamined", "AnatomicRegionSequence", "Laterality"),
    *("InstitutionName", "InstitutionalDepartmentName", "OperatorsName"),
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber"),
)


def fhir_resources(
    connection: duckdb.DuckDBPyConnection,
    rules: Rules,
    *,
    studies: Sequence[str] | None = None,
    omit: Callable[[Omission], None] = lambda _: None,
) -> Iterator[Resource]:
    """Endpoints, then Patients, then ImagingStudies of the published index.

    Args:
        connection: The published index, as `ahi.index.query.open_index` opens it.
        rules: Choices of the deployment.
        studies: StudyInstanceUIDs to make; None: all. Their patients are made from all studies of theirs.
        omit: Gets what an ImagingStudy does not list, with the reason.
    """
    chosen = None if studies is None else sorted(set(studies))
    stores = _rows(connection, f"SELECT DISTINCT datastore_id FROM series WHERE {_where(chosen)} ORDER BY ALL", chosen)
    addresses = {rules.dicomweb_root.format(datastore_id=row["datastore_id"]) for row in stores}
    yield from map(endpoint, sorted(addresses))
    yield from patients(_rows(connection, _patients_query(chosen), chosen), rules)
    series = _rows(connection, _series_query(chosen), chosen)
    # Two results are open at a time, each of its own cursor.
    instances = series_instances(_batches(connection.cursor(), _instances_query(chosen), chosen))
    yield from imaging_studies(series, instances, rules, omit)


def fhir_patients(connection: duckdb.DuckDBPyConnection, rules: Rules, studies: Sequence[str]) -> Iterator[Resource]:
    """Patients of some studies alone, made from all studies of theirs."""
    if studies:
        yield from patients(_rows(connection, _patients_query(studies), studies), rules)


def one_study_each(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """A study of each data store."""
    sql = f"SELECT min(StudyInstanceUID) AS study FROM series WHERE {_IMPORTED} GROUP BY datastore_id ORDER BY ALL"
    return [row["study"] for row in _rows(connection, sql, None)]


def study_fingerprints(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, str]]:
    """Every study of the index, with a digest that changes when one of its image sets comes, changes or goes.

    What has the digest of last time need not be made again, which costs a thousandth of making it.
    """
    sql = (
        "SELECT StudyInstanceUID, md5(string_agg(concat_ws(' ', datastore_id, image_set_id, image_set_version, "
        "schema_version, parser_version), ',' ORDER BY datastore_id, image_set_id)) AS fingerprint "
        f"FROM series WHERE {_IMPORTED} GROUP BY StudyInstanceUID ORDER BY StudyInstanceUID"
    )
    for row in _rows(connection, sql, None):
        yield row["StudyInstanceUID"], row["fingerprint"]


def _patients_query(studies: Sequence[str] | None) -> str:
    own = _IMPORTED
    if studies is not None:
        # Without a key there is no other study of the same patient.
        whose = "coalesce(patient_key, StudyInstanceUID)"
        own += f" AND {whose} IN (SELECT {whose} FROM series WHERE {_where(studies)})"
    return f"SELECT DISTINCT {', '.join(PATIENT_COLUMNS)} FROM series WHERE {own} ORDER BY ALL"


def _series_query(studies: Sequence[str] | None) -> str:
    order = "StudyInstanceUID, SeriesInstanceUID, datastore_id, image_set_id"
    return f"SELECT {', '.join(SERIES_COLUMNS)} FROM series WHERE {_where(studies)} ORDER BY {order}"


def _instances_query(studies: Sequence[str] | None) -> str:
    order = "StudyInstanceUID, SeriesInstanceUID, InstanceNumber NULLS LAST, SOPInstanceUID, SOPClassUID"
    return f"SELECT {', '.join(COLUMNS)} FROM instances WHERE {_where(studies)} ORDER BY {order}"


def _where(studies: Sequence[str] | None) -> str:
    return _IMPORTED if studies is None else f"{_IMPORTED} AND StudyInstanceUID IN (SELECT unnest(?::VARCHAR[]))"


def _batches(
    connection: duckdb.DuckDBPyConnection, sql: str, studies: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    parameters = [list(studies)] if studies is not None else None
    reader: Any = connection.sql(sql, params=parameters).to_arrow_reader(BATCH_ROWS)
    yield from reader


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, studies: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Rows of a query whose only parameter, if any, is the list of studies."""
    for batch in _batches(connection.cursor(), sql, studies):
        for start in range(0, batch.num_rows, 1000):
            yield from batch.slice(start, 1000).to_pylist()
