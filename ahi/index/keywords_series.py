"""DICOM attributes of the series level that the index keeps. Belongs here: one line for each keyword.

Does not belong here: derived columns, and which table takes which column: `ahi.index.registry`.
"""

from __future__ import annotations

from functools import partial

from ahi.index.columns import Column, Shape, Tier, dicom

_col = partial(dicom, "Series")
_I, _L, _D = Tier.IDENTIFIED, Tier.LIMITED, Tier.DEIDENTIFIED

SERIES: tuple[Column, ...] = (
    _col("SeriesInstanceUID", 0x0020000E, "UI", "1", _L, "Unique identifier of the series."),
    _col("Modality", 0x00080060, "CS", "1", _D, "Kind of equipment or document, such as CT, MR or SR."),
    _col("SeriesNumber", 0x00200011, "IS", "1", _D, "Number of the series in its study."),
    _col("SeriesDescription", 0x0008103E, "LO", "1", _L, "Description of the series as sent; free text."),
    _col("SeriesDescriptionCodeSequence", 0x0008103F, "SQ", "1", _D, "Coded description of the series."),
    _col("SeriesDate", 0x00080021, "DA", "1", _L, "Date on which the series started."),
    _col("SeriesTime", 0x00080031, "TM", "1", _L, "Local time at which the series started."),
    _col("TimezoneOffsetFromUTC", 0x00080201, "SH", "1", _D, "Offset of local times from UTC, as +HHMM or -HHMM."),
    _col("PerformedProcedureStepStartDate", 0x00400244, "DA", "1", _L, "Date of the start of the step."),
    _col("PerformedProcedureStepStartTime", 0x00400245, "TM", "1", _L, "Local time of the start of the step."),
    _col("PerformedProcedureStepID", 0x00400253, "SH", "1", _L, "Identifier of the performed step."),
    _col("PerformedProcedureStepDescription", 0x00400254, "LO", "1", _L, "What was performed; free text."),
    _col("PerformedProtocolCodeSequence", 0x00400260, "SQ", "1", _D, "Coded protocol that was performed."),
    _col("RequestAttributesSequence", 0x00400275, "SQ", "1", _I, "Orders that the series answers.", Shape.REQUEST),
    _col("ProtocolName", 0x00181030, "LO", "1", _L, "Name of the acquisition protocol; free text."),
    _col("BodyPartExamined", 0x00180015, "CS", "1", _D, "Body part as sent."),
    _col("AnatomicRegionSequence", 0x00082218, "SQ", "1", _D, "Coded body region."),
    _col("Laterality", 0x00200060, "CS", "1", _D, "Side of a paired body part: L or R."),
    _col("PatientPosition", 0x00185100, "CS", "1", _D, "Position of the patient in the machine, such as HFS."),
    _col("AnatomicalOrientationType", 0x00102210, "CS", "1", _D, "BIPED or QUADRUPED."),
    _col("InstitutionName", 0x00080080, "LO", "1", _L, "Name of the institution where the equipment stands."),
    _col("InstitutionalDepartmentName", 0x00081040, "LO", "1", _L, "Department where the equipment stands."),
    _col("StationName", 0x00081010, "SH", "1", _L, "Name of the machine."),
    _col("OperatorsName", 0x00081070, "PN", "1-n", _I, "Names of the operators."),
    _col("Manufacturer", 0x00080070, "LO", "1", _D, "Manufacturer of the equipment as sent."),
    _col("ManufacturerModelName", 0x00081090, "LO", "1", _D, "Model of the equipment."),
    _col("DeviceSerialNumber", 0x00181000, "LO", "1", _L, "Serial number of the equipment."),
    _col("SoftwareVersions", 0x00181020, "LO", "1-n", _D, "Software versions of the equipment."),
    _col("GantryID", 0x00181008, "LO", "1", _L, "Identifier of the gantry."),
    _col("DateOfLastCalibration", 0x00181200, "DA", "1-n", _L, "Dates of the last calibrations."),
    _col("FrameOfReferenceUID", 0x00200052, "UI", "1", _L, "Coordinate system; images that share it are registered."),
    _col("PositionReferenceIndicator", 0x00201040, "LO", "1", _D, "Anatomical landmark of the coordinate system."),
    _col("SynchronizationFrameOfReferenceUID", 0x00200200, "UI", "1", _L, "Shared time base."),
    _col("LongitudinalTemporalInformationModified", 0x00280303, "CS", "1", _D, "Whether dates were changed."),
)
