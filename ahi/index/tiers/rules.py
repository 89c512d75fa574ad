"""What becomes of each column in each tier. Belongs here: the rules, and how they follow from the registry.

Does not belong here: doing it (`transform`), lists of values (`terms`).

A column crosses into a tier only if a rule is found for it. What the registry says (tier, VR, type) decides; where that
is not enough, a line below does. A new column of text thus stays out of the de-identified tier until somebody decides.

**limited** follows the limited data set of HIPAA (45 CFR 164.514(e)): columns that the registry keeps to the identified
tier are left out (names, record and account numbers, addresses of people), so are long texts and every person name;
serial numbers, names and application titles of devices, numbers of procedure steps, UIDs that reports hold as values
and the patient key are keyed hashes. Numbers and times of reports stay unless their concept names somebody or a birth.
Codes and references inside private sequences are out, like values of private elements. Dates, UIDs and short
descriptions stay: whoever sends names in a SeriesDescription sends them into this tier, which is why it asks for a data
use agreement.

**deidentified** shows numbers, words of the standard, and keyed hashes of UIDs. What is claimed, and no more:

- No column holds names, addresses, record, account, serial or accession numbers, UIDs, or text that is not in a list
  here or in the standard. Text, codes and UIDs are checked by value. Birth dates are out.
- Of nobody who is 90 or more by the end of the year in which the tier was built is there an age, of no study: 85 in
  2015 and a study in 2025 are 95. So of a study ten years old all ages of 79 and more are null, those of 90 and more
  are null always, not a class of their own. Reports give no age. This holds as far as ages and dates were sent right.
- A number of a report crosses only under a code of the standard whose meaning is no identifier, age, date or time of
  day, and none that begins as a day does. Labels such as SeriesNumber cross up to 99,999. No other number is checked:
  who keys a record number into PatientWeight, or calls it a Length in a report, sends it into this tier.
- It is **not Safe Harbor** (45 CFR 164.514(b)(2)): the join keys are keyed hashes *derived* from identifiers, which
  164.514(c) allows nobody to call so, and the operator must know of nothing else that identifies. To give it out is an
  expert's determination under (b)(1).
- It does not hide anybody from whoever has the object, the limited tier or another release of this one: positions,
  weights, doses and counts are exact and find the row again. Of a rare weight, code or body part there may be one.

Dates:

Only dates of DICOM (VR DA) cross: days of the clock on the wall. Times of day, moments and the offset from UTC are out.
Moments are kept in UTC: where their day or year is not that of the date beside them, the two tell the hour, and at a
turn of the year the day.

- `year` (default): of each date the year, as its 1 January. Where two dates of one study have different years, the
  study or its processing went on from one year into the other: of a short one that tells the day.
- `shift`: dates of a patient moved back by the same 1 to 365 whole days, from a keyed hash of the patient. Dates that
  are not of the patient (calibration, creation of the object) and those of an unknown patient are out: their real year
  beside a moved date would narrow the shift, with each study more. In PS3.15 annex E this is the Retain Longitudinal
  Temporal Information with Modified Dates Option. Whoever knows the day of one event of a patient knows the shift, and
  if an event was on the same day for many (a batch of derived series), their shifts beside each other. Do not give out
  both kinds: the year narrows the shift.

The folder of a tier also tells when files appear and which rows came together, and its views in which columns nobody
has sent a value: give out copies (`ahi export --tier`).
A copy has one file for each table, sorted by the hashes, and tells when the tier was built and when it was copied.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from ahi.index.columns import Column, Shape, Table, Tier, struct_type
from ahi.index.tiers.terms import TERMS

if TYPE_CHECKING:
    from collections.abc import Mapping


class How(StrEnum):
    """What is done to a value."""

    KEEP = "as in the identified tier"
    HASH = "keyed hash, of this tier only"
    DATE = "by the date rule of the tier"
    AGE = "whole years; null for whoever may be 90 by the end of the year in which the tier was built"
    TERMS = "null unless one of the known terms"
    PATTERN = "null unless of the expected form"
    VENDOR = "present name of a known maker, else null"
    STANDARD = "null unless a UID that the standard defines"
    YEAR = "year only, as its 1 January"
    LABEL = "null above 99,999"
    NUMBER = "null unless under a standard concept that names no date, no age and nobody"
    NAMELESS = "null under a concept that names somebody or a birth, or that says nothing"
    MOMENT = "null unless a date or time of DICOM; null under a concept that names somebody or a birth"
    DATETIME = "null unless a date and time of DICOM"
    KEYWORDS = "null unless keywords of the data dictionary"
    CREATOR = "null unless a known private creator"
    PRIVATE_NAME = "null unless a known name of a private element"
    CODED = "codes of the standard's context groups with the standard's meaning; others null"
    CODE = "null unless a code of the standard's context groups"
    SCHEME = "coding scheme of that code"
    MEANING = "meaning that the standard gives the code"


class Dates(StrEnum):
    """Date rule of the de-identified tier."""

    YEAR = "year"
    SHIFT = "shift"


@dataclass(frozen=True)
class Rule:
    """How a column crosses.

    Attributes:
        how: What is done.
        terms: Values that pass, for TERMS; reviewed values that pass besides, for CREATOR and PRIVATE_NAME.
        pattern: Regular expression of values that pass, for PATTERN.
        code: Columns with code and coding scheme, for CODE, SCHEME and MEANING; for NUMBER those of the concept;
            for NAMELESS and MOMENT those of the concept and its meaning, for MOMENT also the kind of item; for AGE
            the date at which somebody was that old.
    """

    how: How
    terms: frozenset[str] = frozenset()
    pattern: str = ""
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """What an operator decides about the de-identified tier: the date rule, and values reviewed by hand, by column."""

    dates: Dates = Dates.YEAR
    reviewed: Mapping[str, frozenset[str]] = field(default_factory=dict)


ROW_VERSION = "row_version"
LOWER = (Tier.LIMITED, Tier.DEIDENTIFIED)
_KEEP, _HASH = Rule(How.KEEP), Rule(How.HASH)
_CODE_TYPE = struct_type(Shape.CODE)
_NUMBERS = frozenset(
    ("BOOLEAN", "SMALLINT", "USMALLINT", "INTEGER", "UINTEGER", "BIGINT", "UBIGINT", "FLOAT", "DOUBLE")
)
# Of a row, in no lower tier: `row_version` is there instead.
_OUT = frozenset({"batch_id", "cast_failures", "dagster_run_id"})

_WHOSE = frozenset(
    (
        "datastore_id",
        "image_set_id",
        "image_set_version",
        "is_primary",
        "indexed_at",
        "schema_version",
        "parser_version",
    )
)

# A person's name, and text without a limit of length or words, crosses nowhere.
_PROSE = frozenset(("PN", "ST", "LT", "UT", "UC", "UR", "UN"))
_LIMITED = dict.fromkeys(
    (
        *("patient_key", "DeviceSerialNumber", "GantryID", "StationName", "device_serial_number", "device_uid"),
        # The title of a device's application is mostly the name of the device.
        *("source_aet", "SourceApplicationEntityTitle", "PerformedProcedureStepID"),
    ),
    _HASH,
)
# Of reports, in the limited tier too: a sender may put a record number or a birth date under a concept that says so.
_REPORTED = {
    ("sr_content", "numeric_value"): Rule(How.NAMELESS, code=("concept_code", "concept_scheme", "concept_meaning")),
    ("measurements", "value"): Rule(How.NAMELESS, code=("quantity_code", "quantity_scheme", "quantity_meaning")),
    ("sr_content", "datetime_value"): Rule(
        How.MOMENT, code=("concept_code", "concept_scheme", "concept_meaning", "ValueType")
    ),
    ("dose_events", "started_at"): Rule(How.DATETIME),
    # The device and the subject among them: as sent, one join with `device_uid` undid its hash.
    ("sr_content", "uid_value"): _HASH,
}
# Dates of what happened to the patient, which a shift moves. Any other is the device's or the archive's, the same for
# many patients: moved, it would tell how far the shifts of two patients lie apart.
_OF_THE_PATIENT = frozenset(
    (
        "StudyDate",
        "SeriesDate",
        "ContentDate",
        "AcquisitionDate",
        "PerformedProcedureStepStartDate",
        "RTPlanDate",
    )
)
# Numbers whose meaning a code in the same row says: columns of that code.
_MEASURED = {
    ("sr_content", "numeric_value"): ("concept_code", "concept_scheme"),
    ("measurements", "value"): ("quantity_code", "quantity_scheme"),
}
# Labels that a sender is free to choose; a day or a record number would fit in. Some are kept as _min and _max.
_LABELS = frozenset(
    (
        *("SeriesNumber", "AcquisitionNumber", "InstanceNumber", "instance_number_gaps", "ROINumber", "EchoNumbers"),
        *("TemporalPositionIdentifier", "TemporalPositionIndex", "DimensionIndexValues", "InStackPositionNumber"),
        *("FrameAcquisitionNumber", "ReferencedFrameNumber", "SegmentNumber", "ReferencedSegmentNumber"),
        "segment_numbers",
    )
)

_DEIDENTIFIED: dict[str, Rule | None] = {
    "patient_key": _HASH,
    "datastore_id": _HASH,
    "image_set_id": _HASH,
    "patient_age_years": Rule(How.AGE, code=("StudyDate",)),
    # The region, and beside a moment or a change of the offset the hour. No reviewed value opens it.
    "TimezoneOffsetFromUTC": None,
    "Manufacturer": Rule(How.VENDOR),
    "schema_version": Rule(How.PATTERN, pattern=r"\d{1,4}"),
    "parser_version": Rule(How.PATTERN, pattern=r"(documents|headers)-\d{1,4}"),
    "keyword": Rule(How.KEYWORDS),
    "sequence": Rule(How.KEYWORDS),
    "sequence_path": Rule(How.KEYWORDS),
    # The block is the sender's choice and means nothing; creator, group and element say which element it is.
    "tag": None,
    "private_group": Rule(How.PATTERN, pattern="[0-9A-F]{3}[13579BDF]"),
    "private_element": Rule(How.PATTERN, pattern="[0-9A-F]{2}"),
    **dict.fromkeys(
        ("item_path", "parent_path", "group_path", "referenced_item_path"),
        Rule(How.PATTERN, pattern=r"\d{1,6}(\.\d{1,6}){0,60}"),
    ),
    "device_manufacturer": Rule(How.VENDOR),
    # Whoever has the pixels or the object could find the row by these.
    "crc32": None,
    "frame_size_bytes": None,
    "n_bytes": None,
    "frame_id": None,
    "source_etag": None,
    # Times of the pipeline say when a patient was there, and would give a shift away.
    "indexed_at": None,
    "received_at": None,
}

# Tables of what stands anywhere in an object, and their columns that say where. What stands in a private sequence is
# the value of a private element, which crosses nowhere: a code's meaning once came into the limited tier as sent.
_PLACES = {"codes": ("sequence_path", "keyword"), "object_references": ("sequence_path", "sequence")}

# Lists that only doing it needs: whoever asks which column crosses, as each publication does, loads no pydicom.
_PRIVATE = {"creator": How.CREATOR, "decoded_name": How.PRIVATE_NAME}


def rule_for(table: Table, column: Column, tier: Tier, policy: Policy | None = None) -> Rule | None:
    """How a column crosses into a tier; None: it does not."""
    if tier is Tier.IDENTIFIED:
        return _KEEP
    if column.tier is Tier.IDENTIFIED or column.name in _OUT or column.vr in _PROSE:
        return None
    if tier is Tier.LIMITED:
        return _REPORTED.get((table.name, column.name)) or _LIMITED.get(column.name, _KEEP)
    return _deidentified(table, column, policy or Policy())


def _deidentified(table: Table, column: Column, policy: Policy) -> Rule | None:
    if column.name in _DEIDENTIFIED:
        return _DEIDENTIFIED[column.name]
    kind = column.duckdb_type.replace("[]", "")
    if kind == _CODE_TYPE:
        return Rule(How.CODED) if column.tier is Tier.DEIDENTIFIED else None
    if kind == "VARCHAR":
        return _text(table, column, policy)
    if kind == "DATE":
        return _date(column, policy)
    return _number(table, column) if kind in _NUMBERS else None


def _date(column: Column, policy: Policy) -> Rule | None:
    # Derived dates need a line of their own above: they may tell of the pipeline instead of the patient. A TIMESTAMPTZ
    # has no rule at all: its year in UTC once stood beside that of the local StudyDate, and told New Year's morning.
    if column.tag is None:
        return None
    if column.name in _OF_THE_PATIENT:
        return Rule(How.DATE)
    return Rule(How.YEAR) if policy.dates is Dates.YEAR else None


def _number(table: Table, column: Column) -> Rule | None:
    if column.tier is not Tier.DEIDENTIFIED:
        return None
    if measured := _MEASURED.get((table.name, column.name)):
        return Rule(How.NUMBER, code=measured)
    return Rule(How.LABEL) if column.name.removesuffix("_min").removesuffix("_max") in _LABELS else _KEEP


def _text(table: Table, column: Column, policy: Policy) -> Rule | None:
    if column.vr == "UI" or column.name.endswith(("_uid", "_uids")):
        return Rule(How.STANDARD) if column.tier is Tier.DEIDENTIFIED else _HASH
    if coded := _code_part(table, column):
        return coded
    reviewed = policy.reviewed.get(column.name, frozenset())
    if column.name in _PRIVATE:
        return Rule(_PRIVATE[column.name], reviewed) if column.tier is Tier.DEIDENTIFIED else None
    terms = _terms(table).get(column.name, frozenset()) | reviewed
    return Rule(How.TERMS, terms) if terms and column.tier is Tier.DEIDENTIFIED else None


def _code_part(table: Table, column: Column) -> Rule | None:
    """Rule of a column that holds the code, the scheme or the meaning of a code that stands in columns of its own."""
    names = {one.name for one in table.columns if one.duckdb_type == "VARCHAR"}
    for part, how in (("code", How.CODE), ("scheme", How.SCHEME), ("meaning", How.MEANING)):
        if column.tag is None and (column.name == part or column.name.endswith(f"_{part}")):
            stem = column.name.removesuffix(part)
            if {f"{stem}code", f"{stem}scheme"} <= names:
                return Rule(how, code=(f"{stem}code", f"{stem}scheme"))
    return None


def _terms(table: Table) -> dict[str, frozenset[str]]:
    # Of a series with two offsets, that it has them tells the night when the clocks changed.
    columns = frozenset(column.name for column in table.columns) - {"TimezoneOffsetFromUTC"}
    return TERMS | {"mixed_attrs": columns, "reason_not_regular": columns}


def places(table: Table) -> tuple[str, ...]:
    """Columns with keywords and tags by which rows stay out of the lower tiers: those inside private sequences."""
    return _PLACES.get(table.name, ())


def rules_of(table: Table, tier: Tier, policy: Policy | None = None) -> dict[str, Rule]:
    """Rules of the columns that cross, in the order of the table."""
    found = ((column.name, rule_for(table, column, tier, policy)) for column in table.columns)
    return {name: rule for name, rule in found if rule is not None}


def crosses(table: Table, tier: Tier, policy: Policy | None = None) -> bool:
    """Whether a tier has the table: rows of image sets, and something in them besides what says whose they are."""
    if table.row_key != "image_set_id":
        return False
    return any(column.vr != "UI" and column.name not in _WHOSE for column in _crossing(table, tier, policy))


def lowest_tiers(table: Table) -> dict[str, Tier]:
    """The lowest tier that really has each column, as long as the operator lets no reviewed values cross.

    `Column.tier` says what may cross: rules may keep more out, as they do with most text.
    """
    found = {column.name: Tier.IDENTIFIED for column in table.columns}
    for tier in LOWER:
        if crosses(table, tier):
            found |= dict.fromkeys(rules_of(table, tier), tier)
    return found


def _crossing(table: Table, tier: Tier, policy: Policy | None) -> list[Column]:
    rules = rules_of(table, tier, policy)
    return [column for column in table.columns if column.name in rules]


def tier_table(table: Table, tier: Tier, policy: Policy | None = None) -> Table:
    """The table as a tier has it: the columns that cross, described, and `row_version`."""
    rules = rules_of(table, tier, policy)
    columns = [
        replace(column, description=_described(column, rules[column.name], policy))
        for column in _crossing(table, tier, policy)
    ]
    columns.append(Column(ROW_VERSION, "VARCHAR", "Same in all rows of one version of an image set.", tier))
    return replace(
        table,
        columns=tuple(columns),
        row_key=ROW_VERSION,
        sort_by=tuple(name for name in table.sort_by if name in rules),
    )


def _described(column: Column, rule: Rule, policy: Policy | None) -> str:
    if rule.how is How.KEEP:
        return column.description
    note: str = rule.how
    if rule.how is How.DATE:
        dates = (policy or Policy()).dates
        note = "year only, as its 1 January" if dates is Dates.YEAR else "moved by whole days, the same for a patient"
    return f"{column.description} Here: {note}."


def digest_of(table: Table, tier: Tier, policy: Policy, year: int) -> str:
    """Digest of everything that decides what a file of the tier holds that is made in a year."""
    import pydicom

    rules = {
        name: (rule.how, sorted(rule.terms), rule.pattern, rule.code, year if rule.how is How.AGE else None)
        for name, rule in rules_of(table, tier, policy).items()
    }
    types = [(column.name, column.duckdb_type) for column in table.columns]
    made_by = (rules, types, places(table), policy.dates, pydicom.__version__)
    return hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]
