"""Measurement groups of reports. Belongs here: what TID 1410, 1411, 1419 and 1501 of PS3.16 say of a finding.

Does not belong here: the tree (`content`). Codes come in the schemes of both ages: SNOMED CT, and SNOMED RT as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.exploded.cells import Cells, distinct
from ahi.exploded.content import Code, Node, coded, first_code, first_text, measured
from ahi.exploded.notes import text

if TYPE_CHECKING:
    from ahi.exploded.notes import Notes, Row

GROUP = frozenset({"125007"})
_TRACKING_ID, _TRACKING_UID = frozenset({"112039"}), frozenset({"112040"})
_CATEGORY = frozenset({"276214006", "G-C0F3"})
_FINDING = frozenset({"121071"})
_SITE = frozenset({"363698007", "G-C0E3"})
_LATERALITY = frozenset({"272741003", "G-C171"})
_DERIVATION = frozenset({"121401"})
_METHOD = frozenset({"370129005", "G-C306"})
_SEGMENT = frozenset({"121191", "121214"})
_SOURCE_SERIES = frozenset({"121232"})
# Children that say what the group is about, not what was judged.
_OF_THE_GROUP = _CATEGORY | _FINDING | _SITE | _LATERALITY | _METHOD | _DERIVATION


def measurement_rows(root: Node, notes: Notes) -> list[Row]:
    """Rows of `measurements`."""
    groups = (node for node in root.walk() if node.concept[0] in GROUP and node.kind == "CONTAINER")
    return [row for group in groups for row in _group_rows(group, notes)]


def _group_rows(group: Node, notes: Notes) -> list[Row]:
    about = _about(group, notes)
    site, side = _site(group, notes)
    method = first_code(group.having(_METHOD), notes)
    rows = []
    for node in group.children:
        if node.kind not in {"NUM", "CODE"} or (node.kind == "CODE" and node.concept[0] in _OF_THE_GROUP):
            continue
        own_site, own_side = _site(node, notes)
        own_method = first_code(node.having(_METHOD), notes)
        cells = Cells()
        cells.row |= about
        cells.row |= coded("finding_site", own_site if own_site[0] else site)
        cells.row |= coded("laterality", own_side if own_side[0] else side)
        cells.row |= coded("method", own_method if own_method[0] else method)
        cells.row |= {"group_path": group.path, "item_path": node.path}
        cells.row |= coded("quantity", node.concept)
        cells.row |= coded("derivation", first_code(node.having(_DERIVATION), notes))
        if node.kind == "NUM":
            cells.row |= {"kind": "quantitative", "value": measured(cells, node, notes)}
        else:
            cells.row |= {"kind": "qualitative", **coded("value", node.coded(notes))}
        rows.append(cells.done())
    return rows


def _about(group: Node, notes: Notes) -> Row:
    """What all values of a group share."""
    segments = [notes.first(node.item, "ReferencedSOPSequence") for node in group.below(_SEGMENT)]
    images = [
        text(notes.first(node.item, "ReferencedSOPSequence"), "ReferencedSOPInstanceUID")
        for child in group.children
        for node in child.walk()
        if node.kind == "IMAGE" and node.concept[0] not in _SEGMENT
    ]
    numbers = (one for item in segments for one in _numbers(item.get("ReferencedSegmentNumber")))
    return {
        "tracking_id": first_text(group.having(_TRACKING_ID)),
        "tracking_uid": first_text(group.having(_TRACKING_UID)),
        **coded("finding_category", first_code(group.having(_CATEGORY), notes)),
        **coded("finding", first_code(group.having(_FINDING), notes)),
        "source_series_uid": first_text(group.below(_SOURCE_SERIES)),
        "source_image_uids": distinct(images),
        "segmentation_uid": text(segments[0], "ReferencedSOPInstanceUID") if segments else None,
        "segment_numbers": sorted(set(numbers)) or None,
    }


def _numbers(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if type(one) is int and 0 <= one < 2**16]


def _site(node: Node, notes: Notes) -> tuple[Code, Code]:
    """Finding site, and its side: a modifier of the site, or a code beside it."""
    sites = list(node.having(_SITE))
    sides = [side for site in sites for side in site.having(_LATERALITY)] + list(node.having(_LATERALITY))
    return first_code(sites, notes), first_code(sides, notes)
