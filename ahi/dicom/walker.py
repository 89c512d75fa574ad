"""Elements of a data set in memory. Belongs here: tags, lengths, nesting, the three uncompressed encodings.

Does not belong here: where bytes come from (`source`), what values mean, and repairing what is odd: the walker stops
and says so, and pydicom takes over (`fallback`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
MAX_DEPTH = 64

# VRs with a 16-bit length, and those with two reserved bytes and a 32-bit length (PS3.5 7.1.2).
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
VRS = SHORT_VRS | LONG_VRS
MAYBE_SEQUENCE = frozenset((b"SQ", b"UN", b""))

Element: TypeAlias = "tuple[bytes, bytes | list[Elements]]"
"""VR (empty when the encoding does not say it) and the value: bytes, or the items of a sequence."""
Elements: TypeAlias = "dict[int, Element]"
Wanted: TypeAlias = "Mapping[int, bool]"
"""Tags to keep; True for a sequence, which only a dictionary tells in implicit VR and in an UN."""
UNREAD: Element = (b"", b"unread")
"""In the place of a value inside an item that nobody asked for: the item is no empty one."""


@dataclass(frozen=True)
class Encoding:
    """How a data set is written: VR implicit or explicit, byte order."""

    implicit: bool
    big: bool = False

    @property
    def order(self) -> str:
        """Byte order mark for `struct`."""
        return ">" if self.big else "<"


EXPLICIT = Encoding(implicit=False)
IMPLICIT = Encoding(implicit=True)
BIG = Encoding(implicit=False, big=True)

_HEADS = {
    EXPLICIT: Struct("<HH2sH").unpack_from,
    BIG: Struct(">HH2sH").unpack_from,
    IMPLICIT: Struct("<HHI").unpack_from,
}
_LENGTHS = {order: Struct(f"{order}I").unpack_from for order in "<>"}
_ITEM_HEADS = {order: Struct(f"{order}HHI").unpack_from for order in "<>"}


# Heads of elements that were walked over before: the same 8 bytes say the same under the same wishes. Wishes are few
# and named by their identity; they are kept here, so that no other can have it.
_Heads: TypeAlias = "dict[bytes, tuple[int, bytes, int, bool]]"
_KNOWN_HEADS: dict[tuple[bool, bool, int, int], tuple[Wanted, _Heads]] = {}
_MOST_WISHES, _MOST_HEADS = 16, 20_000
_USUAL_LENGTH = 65_536


def _known_heads(encoding: Encoding, wanted: Wanted, last: int) -> _Heads:
    key = (encoding.implicit, encoding.big, id(wanted), last)
    known = _KNOWN_HEADS.get(key)
    if known is None:
        known = (wanted, {})
        if len(_KNOWN_HEADS) < _MOST_WISHES:
            _KNOWN_HEADS[key] = known
    return known[1]


class Outcome(Enum):
    """Why the walk ended: past the last wanted tag, at the end of the bytes given, or at something odd."""

    DONE = "done"
    NEED = "need"
    ODD = "odd"


class Short(Exception):  # noqa: N818 (a signal inside this package, not an error)
    """The bytes end before the structure does."""


class Odd(Exception):  # noqa: N818
    """The structure breaks a rule of the encoding."""


@dataclass
class Walk:
    """Where a walk over one data set stands; `position` counts from the start of the bytes last given."""

    encoding: Encoding
    wanted: Wanted
    wanted_in_items: Wanted
    last: int
    found: Elements
    position: int = 0
    last_tag: int = -1

    def run(self, data: bytes) -> Outcome:  # noqa: C901, PLR0911, PLR0912, PLR0915 (the hot loop, without calls)
        """Walk on from `position`. After NEED, go on with bytes that hold `position` and what follows it.

        `position` may lie behind the end of the bytes: what lies between is not wanted and need not be read.
        """
        encoding, wanted, found, last = self.encoding, self.wanted, self.found, self.last
        head, length_of = _HEADS[encoding], _LENGTHS[encoding.order]
        implicit, end, previous = encoding.implicit, len(data), self.last_tag
        heads = _known_heads(encoding, wanted, last)
        position = self.position
        try:
            while position + 8 <= end:
                start = position + 8
                known = heads.get(data[position:start])
                if known is not None:
                    tag, vr, length, is_wanted = known
                    if tag <= previous:
                        return Outcome.ODD
                    stop = start + length
                    if is_wanted:
                        if stop > end:
                            return Outcome.NEED
                        found[tag] = (vr, data[start:stop])
                    previous, position = tag, stop
                    continue
                if implicit:
                    group, number, length = head(data, position)
                    vr, tag = b"", group << 16 | number
                else:
                    group, number, vr, length = head(data, position)
                    tag = group << 16 | number
                if tag > last:
                    return Outcome.DONE
                if vr and vr not in SHORT_VRS:
                    if vr not in LONG_VRS:
                        return Outcome.ODD
                    if start + 4 > end:
                        return Outcome.NEED
                    (length,) = length_of(data, start)
                    start += 4
                if tag <= previous:
                    return Outcome.ODD
                kind = wanted.get(tag)
                if length == UNDEFINED or (kind is not None and (vr == b"SQ" or (kind and vr in MAYBE_SEQUENCE))):
                    # The items of an UN are implicit little endian (PS3.5 6.2.2 note 2).
                    inner = IMPLICIT if vr == b"UN" else encoding
                    wanted_items = None if kind is None else self.wanted_in_items
                    stop, items = read_items(data, start, length, inner, wanted_items, 1)
                    if items is not None:
                        found[tag] = (b"SQ", items)
                elif kind is not None:
                    stop = start + length
                    if stop > end:
                        return Outcome.NEED
                    found[tag] = (vr, data[start:stop])
                else:
                    stop = start + length
                if start == position + 8 and length < _USUAL_LENGTH and vr != b"SQ" and not (kind and not vr):
                    if len(heads) >= _MOST_HEADS:
                        heads.clear()
                    heads[data[position:start]] = (tag, vr, length, kind is not None)
                previous, position = tag, stop
        except Short:
            return Outcome.NEED
        except Odd:
            return Outcome.ODD
        finally:
            self.position, self.last_tag = position, previous
        return Outcome.NEED


def read_items(
    data: bytes, start: int, length: int, encoding: Encoding, wanted: Wanted | None, depth: int
) -> tuple[int, list[Elements] | None]:
    """End of a sequence, and its items when any tags are wanted of them.

    Raises Short when the bytes end first, Odd when the structure is broken or too deep.
    """
    if depth > MAX_DEPTH:
        raise Odd
    head = _ITEM_HEADS[encoding.order]
    end = len(data) if length == UNDEFINED else start + length
    if end > len(data):
        raise Short
    items: list[Elements] | None = None if wanted is None else []
    position = start
    while position < end or length == UNDEFINED:
        if position + 8 > len(data):
            raise Short
        group, number, item_length = head(data, position)
        tag = group << 16 | number
        position += 8
        if tag == SEQUENCE_END and length == UNDEFINED:
            return position, items
        if tag != ITEM:
            raise Odd
        if item_length != UNDEFINED and wanted is None:
            position += item_length
            continue
        position, item = _read_item(data, position, item_length, encoding, wanted, depth)
        if items is not None:
            items.append(item)
    return end, items


def _read_item(  # noqa: C901, PLR0912 (the same loop for items)
    data: bytes, position: int, length: int, encoding: Encoding, wanted: Wanted | None, depth: int
) -> tuple[int, Elements]:
    head, length_of = _HEADS[encoding], _LENGTHS[encoding.order]
    end = len(data) if length == UNDEFINED else position + length
    if end > len(data):
        raise Short
    item: Elements = {}
    while position < end or length == UNDEFINED:
        if position + 8 > end:
            raise Short if length == UNDEFINED else Odd
        if encoding.implicit:
            group, number, value_length = head(data, position)
            vr, start = b"", position + 8
        else:
            group, number, vr, value_length = head(data, position)
            start = position + 8
        tag = group << 16 | number
        if tag == ITEM_END:
            return position + 8, item
        if vr and vr not in SHORT_VRS:
            if vr not in LONG_VRS:
                raise Odd
            if start + 4 > end:
                raise Short if length == UNDEFINED else Odd
            (value_length,) = length_of(data, start)
            start += 4
        kind = None if wanted is None else wanted.get(tag)
        if value_length == UNDEFINED or (kind is not None and (vr == b"SQ" or (kind and vr in MAYBE_SEQUENCE))):
            inner = IMPLICIT if vr == b"UN" else encoding
            inner_wanted = None if kind is None else wanted
            position, items = read_items(data, start, value_length, inner, inner_wanted, depth + 1)
            if items is not None:
                item[tag] = (b"SQ", items)
            elif wanted is not None and position > start + 8:
                item[tag] = UNREAD
            continue
        position = start + value_length
        if position > end:
            raise Short if length == UNDEFINED else Odd
        if kind is not None:
            item[tag] = (vr, data[start:position])
        elif wanted is not None and tag & 0xFFFF and data[start:position].strip():
            item[tag] = UNREAD
    return end, item
