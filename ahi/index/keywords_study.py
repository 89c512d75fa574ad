"""DICOM attributes of the study level that the index keeps. Belongs here: one line for each keyword.

Does not belong here: derived columns, and which table takes which column: `ahi.index.registry`.
"""

from __future__ import annotations

from functools import partial

from ahi.index.columns import Column, Shape, Tier, dicom

_col = partial(dicom, "Study")
_I, _L, _D = Tier.IDENTIFIED, Tier.LIMITED, Tier.DEIDENTIFIED

STUDY: tuple[Column, ...] = (
    _col("StudyInstanceUID", 0x0020000D, "UI", "1", _L, "Unique identifier of the study."),
    _col("StudyID", 0x00200010, "SH", "1", _I, "Identifier of the study that a site or a modality gave."),
    _col("AccessionNumber", 0x00080050, "SH", "1", _I, "Number of the order that asked for the study."),
    _col("IssuerOfAccessionNumberSequence", 0x00080051, "SQ", "1", _L, "Who issued AccessionNumber.", Shape.ISSUER),
    _col("StudyDate", 0x00080020, "DA", "1", _L, "Date on which the study started."),
    _col("StudyTime", 0x00080030, "TM", "1", _L, "Local time at which the study started."),
    _col("StudyDescription", 0x00081030, "LO", "1", _L, "Description of the study as sent; free text."),
    _col("ProcedureCodeSequence", 0x00081032, "SQ", "1", _D, "Coded procedure that was performed."),
    _col("RequestedProcedureDescription", 0x00321060, "LO", "1", _L, "What was requested; free text."),
    _col("RequestedProcedureCodeSequence", 0x00321064, "SQ", "1", _D, "Coded procedure that was asked for."),
    _col("ReasonForStudy", 0x00321030, "LO", "1", _L, "Reason for the study; retired, found in archives."),
    _col("ReasonForRequestedProcedureCodeSequence", 0x0040100A, "SQ", "1", _D, "Coded reason."),
    _col("AdmittingDiagnosesDescription", 0x00081080, "LO", "1-n", _L, "Diagnoses at admission; free text."),
    _col("AdmittingDiagnosesCodeSequence", 0x00081084, "SQ", "1", _D, "Coded diagnoses at admission."),
    _col("ReferringPhysicianName", 0x00080090, "PN", "1", _I, "Name of the referring physician."),
    _col("NameOfPhysiciansReadingStudy", 0x00081060, "PN", "1-n", _I, "Names of the physicians who read the study."),
    _col("AdmissionID", 0x00380010, "LO", "1", _I, "Identifier of the visit."),
    _col("PatientAge", 0x00101010, "AS", "1", _L, "Age at the study as sent: three digits and D, W, M or Y."),
    _col("PatientSize", 0x00101020, "DS", "1", _D, "Length of the patient in metres."),
    _col("PatientWeight", 0x00101030, "DS", "1", _D, "Weight of the patient in kilograms."),
    _col("PregnancyStatus", 0x001021C0, "US", "1", _L, "1 not, 2 possibly, 3 definitely pregnant, 4 unknown."),
    _col("SmokingStatus", 0x001021A0, "CS", "1", _D, "YES, NO or UNKNOWN."),
    _col("AnatomicRegionsInStudyCodeSequence", 0x00080063, "SQ", "1", _D, "Coded body regions of the study."),
    _col("StudyStatusID", 0x0032000A, "CS", "1", _D, "Status of the study; retired, found in archives."),
)
