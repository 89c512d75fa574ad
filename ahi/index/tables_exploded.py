"""Tables made from the inside of sequences. Belongs here: those that any object may have rows in, and the geometry.

Does not belong here: tables of one kind of object (`tables_objects`, `tables_reports`), their rows (`ahi.exploded`).
Free text, names and UIDs never reach the de-identified tier; nor do code meanings and private values of any attribute.
"""

from __future__ import annotations

from functools import partial

from ahi.index.columns import Column, Table, Tier, derived, dicom, image_set_table
from ahi.index.keywords_instance import INSTANCE
from ahi.index.keywords_series import SERIES
from ahi.index.keywords_study import STUDY
from ahi.index.tables_objects import OBJECTS
from ahi.index.tables_reports import REPORTS

_col = partial(dicom, "Instance")
_I, _L, _D = Tier.IDENTIFIED, Tier.LIMITED, Tier.DEIDENTIFIED
_KNOWN = {column.name: column for column in (*STUDY, *SERIES, *INSTANCE)}

SERIES_IDS: tuple[Column, ...] = (_KNOWN["StudyInstanceUID"], _KNOWN["SeriesInstanceUID"])
IDS: tuple[Column, ...] = (*SERIES_IDS, _KNOWN["SOPInstanceUID"])
_LEVEL = derived("level", "VARCHAR", _D, "instance; or series, study, patient: said of all, without SOPInstanceUID.")
_INSTANCES = derived("n_instances", "INTEGER", _D, "Instances that say so: of a series, when all say the same.")
_PATH = derived(
    "sequence_path",
    "VARCHAR",
    _D,
    "Keywords of the sequences around it, outermost first, with dots; one that stands inside its like is named once.",
)

REFERENCES = image_set_table(
    "object_references",
    "One row for each object that an object refers to, by sequence and purpose; frames of repeated references are one.",
    (
        *IDS,
        _LEVEL,
        _PATH,
        derived("sequence", "VARCHAR", _D, "Keyword of the sequence that holds the reference."),
        _col("ReferencedSOPClassUID", 0x00081150, "UI", "1", _D, "Kind of the object referred to."),
        _col("ReferencedSOPInstanceUID", 0x00081155, "UI", "1", _L, "The object referred to."),
        derived("referenced_series_uid", "VARCHAR", _L, "Its series, when the reference stands inside one."),
        derived("referenced_study_uid", "VARCHAR", _L, "Its study, when the reference stands inside one."),
        derived("purpose_code", "VARCHAR", _D, "Code of the purpose of the reference."),
        derived("purpose_scheme", "VARCHAR", _D, "Coding scheme of that code."),
        derived("purpose_meaning", "VARCHAR", _L, "Meaning of that code as sent."),
        _col("ReferencedFrameNumber", 0x00081160, "IS", "1-n", _D, "Frames referred to; null for the whole object."),
        _col("ReferencedSegmentNumber", 0x0062000B, "US", "1-n", _D, "Segments referred to."),
        derived("n_references", "INTEGER", _D, "How often the object refers to it in this way."),
    ),
    ("SeriesInstanceUID", "SOPInstanceUID", "sequence_path"),
)

CODES = image_set_table(
    "codes",
    "One row for each code that an attribute of an object, series, study or patient has; codes of people left out.",
    (
        *IDS,
        _LEVEL,
        _PATH,
        derived("keyword", "VARCHAR", _D, "Keyword of the coded attribute."),
        derived("code", "VARCHAR", _D, "Code Value, Long Code Value or URN Code Value."),
        derived("scheme", "VARCHAR", _D, "Coding Scheme Designator."),
        derived("meaning", "VARCHAR", _L, "Code Meaning as sent."),
        derived("version", "VARCHAR", _D, "Coding Scheme Version."),
        derived("n_items", "INTEGER", _D, "How often the attribute has the code at this path."),
        _INSTANCES,
    ),
    ("SeriesInstanceUID", "keyword", "code"),
)

PRIVATE_ELEMENTS = image_set_table(
    "private_elements",
    "One row for each private element of an object, one for the series when all have the same value.",
    (
        *IDS,
        _LEVEL,
        _INSTANCES,
        _PATH,
        derived("tag", "VARCHAR", _L, "Tag as it stands in the object: eight hexadecimal digits."),
        derived("creator", "VARCHAR", _D, "Private creator that reserved the block; null when none did."),
        derived("private_group", "VARCHAR", _D, "Group: four hexadecimal digits."),
        derived("private_element", "VARCHAR", _D, "Element within the creator's block: two hexadecimal digits."),
        derived("vr", "VARCHAR", _D, "Value representation as sent; null inside sequences, where it is not told."),
        derived("decoded_name", "VARCHAR", _D, "Name by pydicom's dictionary of private elements."),
        derived("value_text", "VARCHAR", _I, "Value as text, several joined by a backslash; null for binary ones."),
        derived("value_num", "DOUBLE", _I, "The value when it is one number."),
        derived("n_values", "INTEGER", _D, "How many values or items there are."),
        derived("n_bytes", "INTEGER", _L, "Size of a binary value."),
    ),
    ("SeriesInstanceUID", "creator", "private_group", "private_element"),
)

SKIPPED_CONTENT = image_set_table(
    "skipped_content",
    "What the exploded tables could not take: one row for each object, place and reason. Without rows nothing is lost.",
    (
        *IDS,
        _LEVEL,
        _PATH,
        derived("reason", "VARCHAR", _D, "Why it was skipped."),
        derived("n_skipped", "INTEGER", _D, "How many times."),
    ),
    ("SeriesInstanceUID", "SOPInstanceUID", "sequence_path"),
)

SERIES_GEOMETRY = image_set_table(
    "series_geometry",
    "One row for each series with pixels: whether its slices are a regularly spaced volume, and if not, why.",
    (
        *SERIES_IDS,
        derived("is_regular", "BOOLEAN", _D, "Whether all checks hold: a volume that can be resampled as it is."),
        derived("reason_not_regular", "VARCHAR", _D, "Name of the first check that fails."),
        derived("has_positions", "BOOLEAN", _D, "Every slice has a position and an orientation."),
        derived("one_frame_of_reference", "BOOLEAN", _D, "All slices are in one known frame of reference."),
        derived("one_orientation", "BOOLEAN", _D, "All slices have the same orientation."),
        derived("orthonormal", "BOOLEAN", _D, "Row and column directions are unit vectors at right angles."),
        derived("one_matrix", "BOOLEAN", _D, "All slices have the same rows and columns."),
        derived("one_pixel_spacing", "BOOLEAN", _D, "All slices have the same pixel spacing."),
        derived("enough_slices", "BOOLEAN", _D, "There are at least two positions."),
        derived("unique_positions", "BOOLEAN", _D, "No position comes twice, or all come equally often (4D)."),
        derived("aligned_positions", "BOOLEAN", _D, "Positions stand on one line along the normal: no tilt, no shift."),
        derived("equal_spacing", "BOOLEAN", _D, "Positions are equally spaced along the normal."),
        derived("no_gaps", "BOOLEAN", _D, "No distance between neighbours is 1.5 times the usual one or more."),
        derived("n_slices", "INTEGER", _D, "Slices: images, or frames of enhanced objects."),
        derived("n_positions", "INTEGER", _D, "Distinct positions along the normal."),
        derived("is_4d", "BOOLEAN", _D, "Every position comes the same number of times, and more than once."),
        derived("n_per_position", "INTEGER", _D, "How often each position comes; null when that differs."),
        derived("origin", "DOUBLE[]", _D, "Position of the first slice along the normal in mm: x, y, z."),
        derived("orientation", "DOUBLE[]", _D, "Direction cosines of rows and of columns, of the first slice."),
        derived("slice_normal", "DOUBLE[]", _D, "Unit normal of the slices: rows x columns."),
        derived("plane", "VARCHAR", _D, "axial, coronal or sagittal: the plane that the slices are nearest to."),
        derived("obliqueness_degrees", "DOUBLE", _D, "Angle between the slices and that plane."),
        derived("slice_spacing_mm", "DOUBLE", _D, "Distance of neighbouring positions that fits best."),
        derived("max_spacing_error_mm", "DOUBLE", _D, "Largest distance of a position from the equally spaced grid."),
        derived("pixel_spacing_mm", "DOUBLE[]", _D, "Distance of rows and of columns."),
        derived("matrix_ijk", "INTEGER[]", _D, "Columns, rows and positions."),
        derived("gap_positions", "DOUBLE[]", _D, "Where gaps begin: mm along the normal from the first slice."),
    ),
    ("SeriesInstanceUID",),
)

EXPLODED: tuple[Table, ...] = (
    REFERENCES,
    CODES,
    PRIVATE_ELEMENTS,
    *OBJECTS,
    *REPORTS,
    SERIES_GEOMETRY,
    SKIPPED_CONTENT,
)
