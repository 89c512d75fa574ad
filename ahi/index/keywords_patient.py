"""DICOM attributes of the patient level that the index keeps. Belongs here: one line for each keyword.

Does not belong here: derived columns, and which table takes which column: `ahi.index.registry`.
"""

from __future__ import annotations

from functools import partial

from ahi.index.columns import Column, Shape, Tier, dicom

_col = partial(dicom, "Patient")
_I, _L, _D = Tier.IDENTIFIED, Tier.LIMITED, Tier.DEIDENTIFIED

PATIENT: tuple[Column, ...] = (
    _col("PatientName", 0x00100010, "PN", "1", _I, "Name; the alphabetic group, then other scripts, each after a `=`."),
    _col("PatientID", 0x00100020, "LO", "1", _I, "Identifier of the patient; not unique across sites."),
    _col("IssuerOfPatientID", 0x00100021, "LO", "1", _I, "Who issued PatientID."),
    _col("TypeOfPatientID", 0x00100022, "CS", "1", _L, "Kind of PatientID, such as TEXT, RFID or BARCODE."),
    _col("PatientBirthDate", 0x00100030, "DA", "1", _I, "Date of birth."),
    _col("PatientBirthTime", 0x00100032, "TM", "1", _I, "Time of birth."),
    _col("PatientSex", 0x00100040, "CS", "1", _D, "Sex of the patient as sent: M, F or O."),
    _col("OtherPatientIDsSequence", 0x00101002, "SQ", "1", _I, "Other identifiers of the patient.", Shape.PATIENT_ID),
    _col("EthnicGroup", 0x00102160, "SH", "1", _L, "Ethnic group as sent."),
    _col("PatientSpeciesDescription", 0x00102201, "LO", "1", _D, "Species, for animals."),
    _col("PatientSpeciesCodeSequence", 0x00102202, "SQ", "1", _D, "Coded species, for animals."),
    _col("ResponsiblePerson", 0x00102297, "PN", "1", _I, "Person responsible for a child or an animal."),
    _col("PatientIdentityRemoved", 0x00120062, "CS", "1", _D, "YES when the sender removed the identity."),
    _col("DeidentificationMethod", 0x00120063, "LO", "1-n", _D, "How the sender removed the identity, in words."),
    _col("DeidentificationMethodCodeSequence", 0x00120064, "SQ", "1", _D, "Coded profile of the removal."),
)
