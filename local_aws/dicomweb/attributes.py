"""Which attributes a search matches and returns at each level.

Belongs here: the tables of the developer guide ("Searching DICOM data in HealthImaging" and its pages) and of PS3.18,
10.6.3.3. Does not belong here: matching and answering (`matching.py`, `search.py`).
"""

from __future__ import annotations

from local_aws.healthimaging import levels

# Keys of each search by level; a lower level takes those of the higher ones too (pages "all series", "all instances").
STUDY_KEYS = (
    *("StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "StudyDescription"),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime", "StudyInstanceUID", "StudyID"),
)
SERIES_KEYS = (
    *("Modality", "SeriesInstanceUID", "SeriesNumber"),
    *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
)
INSTANCE_KEYS = ("SOPClassUID", "SOPInstanceUID", "WarningReason")
KEYS = {
    "study": frozenset(STUDY_KEYS),
    "series": frozenset((*STUDY_KEYS, *SERIES_KEYS)),
    "instance": frozenset((*STUDY_KEYS, *SERIES_KEYS, *INSTANCE_KEYS)),
}

# What an answer always has, besides what is counted or made (PS3.18, tables 10.6.3-3 to 10.6.3-5). StudyDescription
# and SeriesDescription are optional there; every viewer's list shows them.
STUDY_DEFAULT = (
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
    *("TimezoneOffsetFromUTC", "PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyID"),
)
SERIES_DEFAULT = (
    *("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber"),
    *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "RequestAttributesSequence"),
)
INSTANCE_DEFAULT = (
    *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    "WarningReason",
)
# Left out of an answer when the object has none; every other default attribute is there, if need be without a value.
OPTIONAL = frozenset(
    {"TimezoneOffsetFromUTC", "RequestAttributesSequence", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"}
    | {"PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "WarningReason"}
)

# "What does includefield=all return at each level?", without the attributes that are counted or made.
STUDY_ALL = frozenset(
    {
        0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080090, 0x0008009C, 0x00080201, 0x00081030,
        0x00081048, 0x00081060, 0x00081080, 0x00100010, 0x00100020, 0x00100021, 0x00100022, 0x00100026, 0x00100027,
        0x00100028, 0x00100030, 0x00100032, 0x00100033, 0x00100034, 0x00100035, 0x00100040, 0x00100050, 0x00100101,
        0x00100102, 0x00100200, 0x00100201, 0x00100213, 0x00100214, 0x00100215, 0x00100217, 0x00100219, 0x00100223,
        0x00100229, 0x00101001, 0x00101005, 0x00101010, 0x00101020, 0x00101021, 0x00101022, 0x00101023, 0x00101024,
        0x00101030, 0x00101040, 0x00101060, 0x00101080, 0x00101081, 0x00102000, 0x00102110, 0x00102150, 0x00102152,
        0x00102154, 0x00102160, 0x00102180, 0x001021A0, 0x001021C0, 0x001021D0, 0x001021F0, 0x00102201, 0x00102202,
        0x00102203, 0x00102210, 0x00102292, 0x00102293, 0x00102295, 0x00102296, 0x00102297, 0x00102298, 0x00102299,
        0x00109431, 0x0020000D, 0x00200010, 0x00321032, 0x00321033, 0x00321060, 0x00321070, 0x00380010, 0x00380016,
        0x00380020, 0x00380021, 0x00380050, 0x00380060, 0x00380062, 0x00380300, 0x00380400, 0x00380500, 0x00400244,
        0x00400245, 0x00400250, 0x00400251, 0x00400253, 0x00081032, 0x00100024, 0x00321034, 0x00321064, 0x00401012,
    }
)  # fmt: skip
SERIES_ALL = STUDY_ALL | {
    0x00080021, 0x00080031, 0x00080060, 0x00080064, 0x00080068, 0x00080070, 0x00080080, 0x00080082, 0x00081010,
    0x0008103E, 0x0008103F, 0x00081040, 0x00081041, 0x00081050, 0x00081070, 0x00081090, 0x00180010, 0x00180015,
    0x00180050, 0x00180088, 0x00181000, 0x00181016, 0x00181018, 0x00181019, 0x00181020, 0x00181030, 0x00181050,
    0x00181200, 0x00181201, 0x00185100, 0x0020000E, 0x00200011, 0x00200052, 0x00200060, 0x00540081, 0x00540101,
    0x00541000,
}  # fmt: skip

# A single attribute can be included where it belongs: an attribute of an image is none of its study.
INCLUDABLE = {
    "study": STUDY_ALL | levels.PATIENT | levels.STUDY,
    "series": SERIES_ALL | levels.PATIENT | levels.STUDY | levels.SERIES,
}
