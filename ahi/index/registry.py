"""Tables of the index. Belongs here: which columns each table has, and their Arrow types.

Does not belong here: DICOM keywords (`keywords_*`), casts (`values`), how rows are written (`writer`).
A column is added by one line in `keywords_*`; a test fails when its tag, VR or VM is not that of the DICOM dictionary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ahi.index.columns import Column, Table, Tier, derived, image_set_table
from ahi.index.keywords_instance import INSTANCE
from ahi.index.keywords_patient import PATIENT
from ahi.index.keywords_series import SERIES
from ahi.index.keywords_side import side_tables
from ahi.index.keywords_study import STUDY
from ahi.index.tables_exploded import EXPLODED

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "COLUMNS",
    "HEADER_KEYWORDS",
    "SCHEMA_VERSION",
    "TABLES",
    "Column",
    "Table",
    "Tier",
    "arrow_schema",
    "arrow_type",
]

# Rises with every change of a table's columns. PARSER_VERSION of `ahi.documents` tells of values made in another way.
SCHEMA_VERSION = "3"

COLUMNS: dict[str, Column] = {column.name: column for column in (*PATIENT, *STUDY, *SERIES, *INSTANCE)}

# Headers are read to this tag and no further: after it come private bulk and per-frame groups (16 KiB are enough for
# 99.9 % of files). Attributes behind it come with HealthImaging's document.
LAST_HEADER_TAG = 0x00282114

HEADER_KEYWORDS: dict[int, Column] = {
    column.tag: column for column in COLUMNS.values() if column.tag is not None and column.tag <= LAST_HEADER_TAG
}

CAST_FAILURE_TYPE = "STRUCT(keyword VARCHAR, vr VARCHAR, raw VARCHAR, reason VARCHAR)[]"
PERSON_TYPE = (
    "STRUCT(family VARCHAR, given VARCHAR, middle VARCHAR, prefix VARCHAR, suffix VARCHAR, "
    "ideographic VARCHAR, phonetic VARCHAR)"
)

# Attributes of instances that the series table shows when every instance agrees.
SERIES_SUMMARY = (
    "SpecificCharacterSet",
    "ImageType",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "LossyImageCompression",
    "BurnedInAnnotation",
    "RecognizableVisualFeatures",
    "SliceThickness",
    "SpacingBetweenSlices",
    "NumberOfTemporalPositions",
    "ContrastBolusAgent",
    "ContrastBolusRoute",
    "ContrastBolusIngredient",
)


_PATIENT_KEY = derived(
    "patient_key", "VARCHAR", Tier.LIMITED, "Keyed hash of IssuerOfPatientID and PatientID; null without PatientID."
)
_NAME_PARTS = derived("PatientName_parts", PERSON_TYPE, Tier.IDENTIFIED, "Components of PatientName.")

_COMMON = (
    derived("batch_id", "VARCHAR", Tier.DEIDENTIFIED, "Commit that wrote the row."),
    derived("indexed_at", "TIMESTAMPTZ", Tier.DEIDENTIFIED, "Time of that commit."),
    derived("cast_failures", CAST_FAILURE_TYPE, Tier.IDENTIFIED, "Values that did not fit their column, as sent."),
    derived("schema_version", "VARCHAR", Tier.DEIDENTIFIED, "Version of the columns' meaning."),
    derived("parser_version", "VARCHAR", Tier.DEIDENTIFIED, "Version of the code that read the values."),
    derived("dagster_run_id", "VARCHAR", Tier.DEIDENTIFIED, "Run that wrote the row."),
)
_IMAGE_SET = (
    derived("datastore_id", "VARCHAR", Tier.DEIDENTIFIED, "HealthImaging data store."),
    derived("image_set_id", "VARCHAR", Tier.DEIDENTIFIED, "HealthImaging image set."),
    derived("image_set_version", "INTEGER", Tier.DEIDENTIFIED, "Version of the image set that the row was read from."),
    derived("is_primary", "BOOLEAN", Tier.DEIDENTIFIED, "False when HealthImaging found a conflict of metadata."),
    *_COMMON,
)
_OBJECT = (
    derived("object_id", "VARCHAR", Tier.DEIDENTIFIED, "One S3 object version; the ledger has the same id."),
    derived("source_uri", "VARCHAR", Tier.IDENTIFIED, "Bucket and key of the object; senders may put names into keys."),
    derived("source_version_id", "VARCHAR", Tier.DEIDENTIFIED, "S3 version of the object."),
    derived("source_etag", "VARCHAR", Tier.DEIDENTIFIED, "S3 entity tag of the object."),
    derived("size_bytes", "UBIGINT", Tier.DEIDENTIFIED, "Size of the object."),
    derived("received_at", "TIMESTAMPTZ", Tier.DEIDENTIFIED, "When a sensor took the message of the upload."),
    derived("parser", "VARCHAR", Tier.DEIDENTIFIED, "Reader of the header: lean or pydicom."),
    derived("lenient", "VARCHAR[]", Tier.DEIDENTIFIED, "Rules of the file format that the object breaks."),
    derived("pixel_complete", "BOOLEAN", Tier.DEIDENTIFIED, "False when the pixel data ends early; null when unknown."),
    derived("header_bytes_read", "BIGINT", Tier.DEIDENTIFIED, "Bytes that were read of the object."),
    *_COMMON,
)

_SERIES_DERIVED = (
    derived("n_instances", "INTEGER", Tier.DEIDENTIFIED, "Instances in the image set."),
    derived("n_frames", "BIGINT", Tier.DEIDENTIFIED, "Frames in the image set."),
    derived("sop_class_uids", "VARCHAR[]", Tier.DEIDENTIFIED, "Distinct SOP classes of the instances, sorted."),
    derived("sop_class_name", "VARCHAR", Tier.DEIDENTIFIED, "Name of the SOP class; null when there are several."),
    derived("image_types_all", "VARCHAR[]", Tier.DEIDENTIFIED, "Distinct image types, each joined by a backslash."),
    derived("is_original", "BOOLEAN", Tier.DEIDENTIFIED, "Whether the first instance's ImageType begins ORIGINAL."),
    derived("is_localizer", "BOOLEAN", Tier.DEIDENTIFIED, "Whether any ImageType holds LOCALIZER."),
    derived("transfer_syntax_uids", "VARCHAR[]", Tier.DEIDENTIFIED, "Distinct encodings as received, sorted."),
    derived("stored_transfer_syntax_uids", "VARCHAR[]", Tier.DEIDENTIFIED, "Distinct encodings as stored, sorted."),
    derived("pixel_spacing_row_mm", "DOUBLE", Tier.DEIDENTIFIED, "Distance of rows in mm, at the detector if need be."),
    derived("pixel_spacing_col_mm", "DOUBLE", Tier.DEIDENTIFIED, "Distance of columns in mm, likewise."),
    derived("body_part_normalised", "VARCHAR", Tier.DEIDENTIFIED, "BodyPartExamined in one spelling; null if unknown."),
    derived("manufacturer_normalised", "VARCHAR", Tier.DEIDENTIFIED, "Manufacturer in one spelling; null if unknown."),
    derived("source_aet", "VARCHAR", Tier.LIMITED, "Application entity that sent the instances, if all agree."),
    derived("study_datetime_utc", "TIMESTAMPTZ", Tier.LIMITED, "Start of the study; null when the offset is unknown."),
    derived("patient_age_years", "DOUBLE", Tier.LIMITED, "Age at the study, by PatientAge or else birthdays."),
    derived("instance_number_gaps", "INTEGER", Tier.DEIDENTIFIED, "InstanceNumber values missing between the ends."),
    derived("mixed_attrs", "VARCHAR[]", Tier.DEIDENTIFIED, "Columns left null because the instances differ."),
)
_INSTANCE_DERIVED = (
    derived("has_pixel_data", "BOOLEAN", Tier.DEIDENTIFIED, "Whether HealthImaging has frames of the instance."),
    derived("n_frames", "INTEGER", Tier.DEIDENTIFIED, "Frames that HealthImaging has of the instance."),
    derived("slice_position_mm", "DOUBLE", Tier.DEIDENTIFIED, "Position along the normal of the image plane, in mm."),
    derived("sop_class_name", "VARCHAR", Tier.DEIDENTIFIED, "Name of SOPClassUID; null for one that is not standard."),
    derived("stored_transfer_syntax_uid", "VARCHAR", Tier.DEIDENTIFIED, "Encoding in which HealthImaging stores it."),
    derived("checksum_type", "VARCHAR", Tier.DEIDENTIFIED, "What the frame checksums are of, as HealthImaging says."),
    derived("n_elements", "INTEGER", Tier.DEIDENTIFIED, "Attributes of the instance, those of its series left out."),
    derived("n_private_elements", "INTEGER", Tier.DEIDENTIFIED, "Private attributes of the instance."),
    derived("referenced_sop_instance_uids", "VARCHAR[]", Tier.LIMITED, "Objects that it refers to, sorted.", since="3"),
    derived("referenced_series_uids", "VARCHAR[]", Tier.LIMITED, "Series that it refers to, sorted.", since="3"),
    derived(
        "dataset_hash",
        "VARCHAR",
        Tier.LIMITED,
        "Digest of its own attributes as kept: two objects with one UID and different content have different ones.",
        since="3",
    ),
)
_SERIES_KEYS = (COLUMNS["StudyInstanceUID"], COLUMNS["SeriesInstanceUID"])
_INSTANCE_KEYS = (*_SERIES_KEYS, COLUMNS["SOPInstanceUID"])
_FRAME = (
    *_INSTANCE_KEYS,
    derived("frame_number", "INTEGER", Tier.DEIDENTIFIED, "Number of the frame in its instance, from 1."),
    derived("frame_id", "VARCHAR", Tier.DEIDENTIFIED, "Id to ask HealthImaging for the frame."),
    derived("width", "INTEGER", Tier.DEIDENTIFIED, "Columns at full resolution."),
    derived("height", "INTEGER", Tier.DEIDENTIFIED, "Rows at full resolution."),
    derived("crc32", "UINTEGER", Tier.DEIDENTIFIED, "CRC-32 of the decoded frame at full resolution."),
    derived("n_resolutions", "INTEGER", Tier.DEIDENTIFIED, "Resolution levels with a checksum."),
    derived("min_pixel_value", "DOUBLE", Tier.DEIDENTIFIED, "Smallest pixel value; null in an untouched encoding."),
    derived("max_pixel_value", "DOUBLE", Tier.DEIDENTIFIED, "Largest pixel value; null in an untouched encoding."),
    derived("frame_size_bytes", "BIGINT", Tier.LIMITED, "Size that HealthImaging states; encoded or decoded."),
)

_OWN = (
    image_set_table(
        "series",
        "One row for each version of an image set, with the attributes of its patient, study and series.",
        (
            *PATIENT,
            _PATIENT_KEY,
            _NAME_PARTS,
            *STUDY,
            *SERIES,
            *(COLUMNS[name] for name in SERIES_SUMMARY),
            *_SERIES_DERIVED,
        ),
        ("SeriesInstanceUID",),
    ),
    image_set_table(
        "instances",
        "One row for each SOP instance of a version of an image set.",
        (*_SERIES_KEYS, *INSTANCE, *_INSTANCE_DERIVED),
        ("SeriesInstanceUID", "InstanceNumber", "SOPInstanceUID"),
    ),
    image_set_table(
        "frames",
        "One row for each frame of a version of an image set.",
        _FRAME,
        ("SeriesInstanceUID", "SOPInstanceUID", "frame_number"),
    ),
    image_set_table(
        "instance_metadata",
        "One row for each SOP instance of a version of an image set, with its attributes as HealthImaging keeps them.",
        (
            *_INSTANCE_KEYS,
            derived("metadata_json", "VARCHAR", Tier.IDENTIFIED, "Attributes of the instance as JSON, untouched."),
            derived("vrs_json", "VARCHAR", Tier.IDENTIFIED, "VRs of its private attributes as JSON."),
        ),
        ("SeriesInstanceUID", "SOPInstanceUID"),
    ),
    image_set_table(
        "series_metadata",
        "One row for each version of an image set, with the attributes above its instances, as they are kept.",
        (
            *_SERIES_KEYS,
            derived("patient_json", "VARCHAR", Tier.IDENTIFIED, "Attributes of the patient as JSON, untouched."),
            derived("study_json", "VARCHAR", Tier.IDENTIFIED, "Attributes of the study as JSON, untouched."),
            derived("series_json", "VARCHAR", Tier.IDENTIFIED, "Attributes of the series as JSON, untouched."),
        ),
        ("SeriesInstanceUID",),
    ),
)

_HEADERS = Table(
    "headers",
    "One row for each uploaded object whose header could be read.",
    (*HEADER_KEYWORDS.values(), _PATIENT_KEY, _NAME_PARTS, *_OBJECT),
    "object_id",
    ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
)


def _with_common(table: Table) -> Table:
    """The table with the columns that every row from a document carries."""
    names = {column.name for column in table.columns}
    return replace(table, columns=(*table.columns, *(column for column in _IMAGE_SET if column.name not in names)))


TABLES: dict[str, Table] = {
    table.name: table for table in (_HEADERS, *map(_with_common, (*_OWN, *side_tables(_SERIES_KEYS), *EXPLODED)))
}


def _split_fields(text: str) -> list[str]:
    """Fields of a STRUCT, split at the commas that are not inside parentheses."""
    fields, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            fields.append(text[start:at].strip())
            start = at + 1
    return [*fields, text[start:].strip()]


def arrow_type(duckdb_type: str) -> pa.DataType:
    """Arrow type that DuckDB reads back as the given type. Raises ValueError for a type that the index does not use."""
    import pyarrow as pa

    if duckdb_type.endswith("[]"):
        return pa.list_(arrow_type(duckdb_type[:-2]))
    if duckdb_type.startswith("STRUCT("):
        fields = (field.split(" ", 1) for field in _split_fields(duckdb_type[len("STRUCT(") : -1]))
        return pa.struct([pa.field(name, arrow_type(kind)) for name, kind in fields])
    scalars: dict[str, pa.DataType] = {
        "VARCHAR": pa.string(),
        "BOOLEAN": pa.bool_(),
        "SMALLINT": pa.int16(),
        "USMALLINT": pa.uint16(),
        "INTEGER": pa.int32(),
        "UINTEGER": pa.uint32(),
        "BIGINT": pa.int64(),
        "UBIGINT": pa.uint64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "DATE": pa.date32(),
        "TIME": pa.time64("us"),
        "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
    }
    if duckdb_type not in scalars:
        message = f"No Arrow type is known for {duckdb_type}: add it to ahi.index.registry.arrow_type."
        raise ValueError(message)
    return scalars[duckdb_type]


def arrow_schema(table: Table) -> pa.Schema:
    """Arrow schema of a table; each field's metadata has its description and tier, the schema's its version."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(
                column.name,
                arrow_type(column.duckdb_type),
                metadata={"description": column.description, "tier": column.tier.value},
            )
            for column in table.columns
        ],
        metadata={"table": table.name, "schema_version": SCHEMA_VERSION},
    )
