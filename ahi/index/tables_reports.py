"""Tables of structured reports. Belongs here: columns for content items, measurements and irradiation events.

Does not belong here: how a report's tree is read (`ahi.exploded.content`). Templates by PS3.16: TID 1500 measurement
reports, TID 10001 projection and TID 10011 CT radiation dose.
"""

from __future__ import annotations

from functools import partial

from ahi.index.columns import Column, Table, Tier, derived, dicom, image_set_table
from ahi.index.keywords_instance import INSTANCE
from ahi.index.keywords_series import SERIES
from ahi.index.keywords_study import STUDY

_col = partial(dicom, "Instance")
_I, _L, _D = Tier.IDENTIFIED, Tier.LIMITED, Tier.DEIDENTIFIED
_KNOWN = {column.name: column for column in (*STUDY, *SERIES, *INSTANCE)}
_IDS: tuple[Column, ...] = tuple(_KNOWN[name] for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
_SORT = ("SeriesInstanceUID", "SOPInstanceUID")


def _code(name: str, what: str) -> tuple[Column, ...]:
    """Columns of one code. Meanings may be words of a reader, so they stay above the de-identified tier."""
    return (
        derived(f"{name}_code", "VARCHAR", _D, f"{what}: code."),
        derived(f"{name}_scheme", "VARCHAR", _D, f"{what}: coding scheme."),
        derived(f"{name}_meaning", "VARCHAR", _L, f"{what}: meaning as sent."),
    )


SR_CONTENT = image_set_table(
    "sr_content",
    "One row for each content item of a structured report or key object selection, in order of the document.",
    (
        *_IDS,
        derived("item_path", "VARCHAR", _D, "Place in the tree: 1 is the root, 1.3 its third child."),
        derived("parent_path", "VARCHAR", _D, "Place of the item above; null for the root."),
        derived("depth", "INTEGER", _D, "Items above it."),
        _col("RelationshipType", 0x0040A010, "CS", "1", _D, "How it relates to the item above, such as CONTAINS."),
        _col("ValueType", 0x0040A040, "CS", "1", _D, "Kind of item, such as NUM, CODE, TEXT, CONTAINER."),
        *_code("concept", "Name of the item"),
        derived("numeric_value", "DOUBLE", _D, "Value of a NUM item."),
        *_code("unit", "Its unit, in UCUM as a rule"),
        *_code("qualifier", "Why a NUM item has no value, or what it means"),
        *_code("value", "Value of a CODE item"),
        derived("text_value", "VARCHAR", _I, "Value of a TEXT or PNAME item."),
        derived("datetime_value", "VARCHAR", _L, "Value of a DATE, TIME or DATETIME item as sent."),
        derived("uid_value", "VARCHAR", _L, "Value of a UIDREF item."),
        derived("graphic_type", "VARCHAR", _D, "Shape of a SCOORD or SCOORD3D item, such as POLYLINE."),
        derived("n_graphic_points", "INTEGER", _D, "Points of that shape."),
        _col("ReferencedSOPClassUID", 0x00081150, "UI", "1", _D, "Kind of the object that the item refers to."),
        _col("ReferencedSOPInstanceUID", 0x00081155, "UI", "1", _L, "Object that the item refers to."),
        _col("ReferencedFrameNumber", 0x00081160, "IS", "1-n", _D, "Frames of it; null for the whole object."),
        _col("ReferencedSegmentNumber", 0x0062000B, "US", "1-n", _D, "Segments of it."),
        derived("referenced_item_path", "VARCHAR", _D, "Place of the item that stands here by reference."),
        _col("TemplateIdentifier", 0x0040DB00, "CS", "1", _D, "Template of a container, such as 1411."),
    ),
    (*_SORT, "item_path"),
)

MEASUREMENTS = image_set_table(
    "measurements",
    "One row for each value of a measurement group of a report: numbers, and findings that are codes (TID 1500).",
    (
        *_IDS,
        derived("group_path", "VARCHAR", _D, "Place of the group in `sr_content`."),
        derived("item_path", "VARCHAR", _D, "Place of the value in `sr_content`."),
        derived("kind", "VARCHAR", _D, "quantitative or qualitative."),
        derived("tracking_id", "VARCHAR", _L, "Name by which the finding is followed; free text."),
        derived("tracking_uid", "VARCHAR", _L, "Unique identifier by which the finding is followed."),
        *_code("finding_category", "Category of the finding"),
        *_code("finding", "What was found or segmented"),
        *_code("finding_site", "Where"),
        *_code("laterality", "On which side"),
        *_code("quantity", "What was measured or judged"),
        *_code("derivation", "How the number comes from many, such as Mean"),
        *_code("method", "Method"),
        derived("value", "DOUBLE", _D, "The number; null for a qualitative finding."),
        *_code("unit", "Its unit, in UCUM as a rule"),
        *_code("qualifier", "Why there is no number, or what it means"),
        *_code("value", "The finding, when it is a code"),
        derived("source_series_uid", "VARCHAR", _L, "Series that was measured, as the group says."),
        derived("source_image_uids", "VARCHAR[]", _L, "Images that were measured, as the group says."),
        derived("segmentation_uid", "VARCHAR", _L, "Segmentation of the region that was measured."),
        derived("segment_numbers", "INTEGER[]", _D, "Segments of it."),
    ),
    (*_SORT, "item_path"),
)

DOSE_EVENTS = image_set_table(
    "dose_events",
    "One row for each irradiation event of a radiation dose report. Of several values in an event the highest counts.",
    (
        *_IDS,
        derived("item_path", "VARCHAR", _D, "Place of the event in `sr_content`."),
        derived("kind", "VARCHAR", _D, "ct or projection."),
        derived("irradiation_event_uid", "VARCHAR", _L, "Unique identifier of the event."),
        derived("started_at", "VARCHAR", _L, "Start as sent: date and time, local unless it has an offset."),
        *_code("event_type", "Type of event or acquisition, such as Spiral or Fluoroscopy"),
        *_code("target_region", "Region of the body"),
        *_code("plane", "Plane of a projection system"),
        derived("protocol", "VARCHAR", _L, "Acquisition protocol; free text."),
        derived("ctdi_vol_mgy", "DOUBLE", _D, "Mean CTDIvol in mGy."),
        derived("dlp_mgy_cm", "DOUBLE", _D, "Dose length product in mGy.cm."),
        *_code("ctdi_phantom", "Phantom of the CTDI"),
        derived("ssde_mgy", "DOUBLE", _D, "Size specific dose estimate in mGy."),
        derived("scanning_length_mm", "DOUBLE", _D, "Scanning length in mm."),
        derived("pitch_factor", "DOUBLE", _D, "Pitch factor."),
        derived("dap_gy_m2", "DOUBLE", _D, "Dose area product in Gy.m2."),
        derived("dose_rp_gy", "DOUBLE", _D, "Dose at the reference point in Gy."),
        derived("average_glandular_dose_mgy", "DOUBLE", _D, "Average glandular dose in mGy."),
        derived("entrance_exposure_rp_mgy", "DOUBLE", _D, "Entrance exposure at the reference point in mGy."),
        derived("compression_thickness_mm", "DOUBLE", _D, "Compression thickness in mm."),
        derived("kvp", "DOUBLE", _D, "Peak voltage in kV."),
        derived("tube_current_ma", "DOUBLE", _D, "Tube current in mA."),
        derived("max_tube_current_ma", "DOUBLE", _D, "Maximum tube current in mA."),
        derived("exposure_mas", "DOUBLE", _D, "Exposure in mAs."),
        derived("exposure_time_s", "DOUBLE", _D, "Exposure time in seconds."),
        derived("exposure_time_per_rotation_s", "DOUBLE", _D, "Exposure time for each rotation in seconds."),
        derived("irradiation_duration_s", "DOUBLE", _D, "Duration of the irradiation in seconds."),
        derived("n_pulses", "DOUBLE", _D, "Number of pulses."),
        derived("primary_angle_degrees", "DOUBLE", _D, "Primary angle of the positioner."),
        derived("secondary_angle_degrees", "DOUBLE", _D, "Secondary angle of the positioner."),
        derived("device_manufacturer", "VARCHAR", _D, "Maker of the irradiating device."),
        derived("device_model", "VARCHAR", _D, "Model of the irradiating device."),
        derived("device_serial_number", "VARCHAR", _L, "Serial number of the irradiating device."),
        derived("device_uid", "VARCHAR", _L, "Unique identifier of the irradiating device."),
    ),
    (*_SORT, "item_path"),
)

REPORTS: tuple[Table, ...] = (SR_CONTENT, MEASUREMENTS, DOSE_EVENTS)
