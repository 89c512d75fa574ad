"""Through all sequences of an object. Belongs here: references, codes and private elements, wherever they stand.

Does not belong here: what one kind of object means (the other modules), values of private elements (`private`).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import filterfalse
from typing import TYPE_CHECKING, Any

from ahi.exploded.notes import (
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_ROWS,
    NOT_AN_ITEM,
    NOT_ITEMS,
    TOO_DEEP,
    TOO_MANY,
    TOO_MANY_ROWS,
    Notes,
    Row,
    code_of,
    text,
)
from ahi.exploded.private import is_private, private_rows
from ahi.index.columns import Tier, dicom
from ahi.index.values import CastFailure, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ahi.exploded.notes import Item

# Codes of persons and institutions name them, so no tier may have them (PS3.3, person identification macro).
_OF_PEOPLE = frozenset({"PersonIdentificationCodeSequence", "InstitutionCodeSequence"})
# One private element for each frame would be millions of rows; the document has them.
_OF_FRAMES = "PerFrameFunctionalGroupsSequence"
_CODED = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodeMeaning")
_FRAMES = dicom("Instance", "ReferencedFrameNumber", 0x00081160, "IS", "1-n", Tier.DEIDENTIFIED, "Frames.")
_SEGMENTS = dicom("Instance", "ReferencedSegmentNumber", 0x0062000B, "US", "1-n", Tier.DEIDENTIFIED, "Segments.")

Place = tuple[str, str, str | None, str | None]
"""Path of sequences, keyword of the innermost, and study and series that it stands in."""


class Walk:
    """Rows of `object_references`, `codes` and `private_elements` of one object or level."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._left = MAX_ITEMS
        self._references: dict[tuple[object, ...], Row] = {}
        self._frames: dict[tuple[object, ...], tuple[set[int], set[int]]] = {}
        self._codes: dict[tuple[object, ...], Row] = {}
        self._private: list[Row] = []

    def tables(self) -> dict[str, list[Row]]:
        """Rows by table."""
        for key, (frames, segments) in self._frames.items():
            self._references[key]["ReferencedFrameNumber"] = sorted(frames) or None
            self._references[key]["ReferencedSegmentNumber"] = sorted(segments) or None
        found = {
            "object_references": list(self._references.values()),
            "codes": list(self._codes.values()),
            "private_elements": self._private,
        }
        return {table: rows for table, rows in found.items() if rows}

    def sequence(self, keyword: str, value: list[Any], place: Place | None = None, depth: int = 1) -> None:
        """Take in all items of a sequence, and of those inside it."""
        above, innermost, study, series = place or ("", "", None, None)
        # A tree of content items repeats one keyword: the path says which sequences, not how deep.
        path = above if innermost == keyword else f"{above}.{keyword}" if above else keyword
        if depth > MAX_DEPTH:
            self._notes.skip(path, TOO_DEEP, len(value))
            return
        for item in value:
            if item.__class__ is not dict:
                self._notes.skip(path, NOT_AN_ITEM)
                continue
            self._left -= 1
            if self._left < 0:
                self._notes.skip(path, TOO_MANY)
                return
            here = (path, keyword, text(item, "StudyInstanceUID") or study, text(item, "SeriesInstanceUID") or series)
            self._item(item, here, depth)

    def _item(self, item: Item, place: Place, depth: int) -> None:
        if "ReferencedSOPInstanceUID" in item:
            self._reference(item, place)
        if not item.keys().isdisjoint(_CODED):
            self._code(item, place)
        for key, value in item.items():
            if value.__class__ is list and value and _holds_items(value):
                self.sequence(key, value, place, depth + 1)
        if _OF_FRAMES not in place[0] and any(is_private(key) for key in item):
            self._take(private_rows(item, place[0]), place[0])

    def _take(self, more: list[Row], path: str) -> None:
        left = MAX_ROWS - len(self._private)
        self._private.extend(more[:left])
        if len(more) > left:
            self._notes.skip(path, TOO_MANY_ROWS, len(more) - left)

    def _reference(self, item: Item, place: Place) -> None:
        path, sequence, study, series = place
        uid = text(item, "ReferencedSOPInstanceUID")
        if uid is None:
            self._notes.skip(path, "a reference without a UID")
            return
        purposes = self._notes.items(item, "PurposeOfReferenceCodeSequence")
        code, scheme, meaning = code_of(purposes[0]) if purposes else (None, None, None)
        key = (path, uid, code, scheme, study, series)
        row = self._references.get(key)
        if row is None:
            if len(self._references) >= MAX_ROWS:
                self._notes.skip(path, TOO_MANY_ROWS)
                return
            row = self._references[key] = {
                "sequence_path": path,
                "sequence": sequence,
                "ReferencedSOPClassUID": text(item, "ReferencedSOPClassUID"),
                "ReferencedSOPInstanceUID": uid,
                "referenced_series_uid": series,
                "referenced_study_uid": study,
                "purpose_code": code,
                "purpose_scheme": scheme,
                "purpose_meaning": meaning,
                "n_references": 0,
            }
        row["n_references"] = int(str(row["n_references"])) + 1
        if "ReferencedFrameNumber" in item or "ReferencedSegmentNumber" in item:
            self._numbers(key, row, item)

    def _numbers(self, key: tuple[object, ...], row: Row, item: Item) -> None:
        """Frames and segments of a reference, together with those of the same reference before."""
        failures: list[CastFailure] = []
        for known, column in zip(self._frames.setdefault(key, (set(), set())), (_FRAMES, _SEGMENTS), strict=True):
            found = cast(column, item.get(column.name), failures)
            if isinstance(found, list):
                known.update(one for one in found if isinstance(one, int))
        if failures:
            earlier = row.get("cast_failures") or []
            row["cast_failures"] = [*(earlier if isinstance(earlier, list) else []), *(f.as_row() for f in failures)]

    def _code(self, item: Item, place: Place) -> None:
        path, keyword, *_ = place
        if keyword in _OF_PEOPLE:
            return
        code, scheme, meaning = code_of(item)
        if code is None:
            self._notes.skip(path, "a coded item without a code")
            return
        version = text(item, "CodingSchemeVersion")
        key = (path, code, scheme, meaning, version)
        row = self._codes.get(key)
        if row is None:
            if len(self._codes) >= MAX_ROWS:
                self._notes.skip(path, TOO_MANY_ROWS)
                return
            row = self._codes[key] = {
                "sequence_path": path,
                "keyword": keyword,
                "code": code,
                "scheme": scheme,
                "meaning": meaning,
                "version": version,
                "n_items": 0,
            }
        row["n_items"] = int(str(row["n_items"])) + 1


def _holds_items(value: list[Any]) -> bool:
    first = value[0].__class__
    return first is dict or (first is not str and any(one.__class__ is dict for one in value))


# Names of attributes that hold no items. It grows with what comes by, so that an object without sequences costs one
# look at a set and no look at its values.
_PLAIN = {"ScanningSequence", "CompressionSequence"}
_MOST_PLAIN = 20_000
# The few sequences of the dictionary that are not called so.
_ODD_NAMES = frozenset({"SummarizedFilterLookupTable", "AnalogFilterType", "SelectorCodeSequenceValue"})
_MARK = "Sequence"


def _may_hold_items(key: str) -> bool:
    """Whether an attribute may be a sequence, by its name: a keyword, or the tag of a private element."""
    if key in _PLAIN or key.endswith(f"Pulse{_MARK}"):
        return False
    named = key.endswith((_MARK, f"{_MARK}Trial", f"{_MARK}Retired")) or key.startswith(
        (f"{_MARK}Of", "ReferencedPrint")
    )
    return named or key in _ODD_NAMES or key[:1].isdigit() or key.isupper()


def may_hold_items(keys: Iterable[str]) -> Sequence[str]:
    """Keys of attributes that may be sequences. Keys that were asked for together before cost one look."""
    return _items_among(tuple(keys))


@lru_cache(maxsize=1024)
def _items_among(keys: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for key in filterfalse(_PLAIN.__contains__, keys):
        if _may_hold_items(key):
            found.append(key)
        elif len(_PLAIN) < _MOST_PLAIN:
            _PLAIN.add(key)
    return tuple(found)


def walk(keyword: str, value: Any) -> tuple[dict[str, list[Row]], Notes]:
    """Rows by table of what one attribute holds, and what of it was skipped."""
    notes = Notes()
    if value.__class__ is not list or not value or not _holds_items(value):
        if value and keyword.endswith(_MARK):
            notes.skip(keyword, NOT_ITEMS)
        return {}, notes
    through = Walk(notes)
    through.sequence(keyword, value)
    return through.tables(), notes
