"""Values of structured reports, which mean what a code beside them says. Belongs here: which of them a tier shows.

Does not belong here: columns that mean the same in every row (`transform`), words of a meaning (`terms`).
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from ahi.index.columns import Tier, dicom
from ahi.index.tiers.terms import is_age, is_identifying, is_naming, meanings
from ahi.index.values import cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    # The stubs do not know the kinds of arrays.
    Array = Any

# A day as DICOM writes it, and what may follow: hours, minutes, seconds.
_DAY = re.compile(r"(18|19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\d*")
_YEARS = range(1800, 2100)
# VR of the text that a content item of each kind has.
_TIMES = {
    kind: dicom("Instance", "Moment", 0, vr, "1", Tier.LIMITED, "A moment.")
    for kind, vr in (("DATE", "DA"), ("TIME", "TM"), ("DATETIME", "DT"))
}


def measured(values: Array, codes: Sequence[Any], schemes: Sequence[Any]) -> Array:
    """Numbers under a concept of the standard under which none names somebody, an age or a day."""
    import pyarrow as pa

    pairs = list(zip(schemes, codes, strict=True))
    concepts = {pair: meanings().get(pair) for pair in set(pairs)}
    # A report does not say when somebody was that old; the series does, and has the age (`transform`).
    passing = {
        pair for pair, meaning in concepts.items() if meaning and not is_identifying(meaning) and not is_age(meaning)
    }
    rows = zip(values.to_pylist(), pairs, strict=True)
    return pa.array(
        [None if value is None or pair not in passing or reads_as_day(value) else value for value, pair in rows],
        values.type,
    )


def reads_as_day(value: float) -> bool:
    """Whether a number begins with a day as DICOM writes it, YYYYMMDD: a fraction or a time of day may follow."""
    whole, _, _ = f"{abs(value):.6f}".partition(".")
    return _DAY.fullmatch(whole) is not None


def nameless(values: Array, codes: Sequence[Any], schemes: Sequence[Any], said: Sequence[Any]) -> Array:
    """Numbers under a concept that names nobody, as the standard has it and as the sender says it."""
    import pyarrow as pa

    passing = _names_nobody(zip(schemes, codes, said, strict=True))
    return pa.array(
        [value if passes else None for value, passes in zip(values.to_pylist(), passing, strict=True)], values.type
    )


def moments(
    values: Array, codes: Sequence[Any], schemes: Sequence[Any], said: Sequence[Any], kinds: Sequence[Any]
) -> Array:
    """Texts that are a date or a time as their kind of item has it, under a concept that is no birth and no record."""
    import pyarrow as pa

    passing = _names_nobody(zip(schemes, codes, said, strict=True))
    rows = zip(values.to_pylist(), passing, kinds, strict=True)
    return pa.array(
        [value if value and passes and is_moment(value, kind) else None for value, passes, kind in rows], values.type
    )


def is_moment(text: str, kind: str | None) -> bool:
    """Whether a text is what a content item of a kind (DATE, TIME, DATETIME) should hold, of a year that may be."""
    column = _TIMES.get(kind or "")
    found = cast(column, text, [], dt.UTC) if column else None
    return found is not None and (isinstance(found, dt.time) or getattr(found, "year", None) in _YEARS)


def _names_nobody(concepts: Iterable[tuple[Any, Any, Any]]) -> list[bool]:
    """Whether each concept (scheme, code, meaning as sent) is known to be none that names somebody or their birth."""
    rows = list(concepts)
    passing = {}
    for scheme, code, said in set(rows):
        known = [meaning for meaning in (meanings().get((scheme, code)), said) if meaning]
        # Of a concept without any meaning nobody can tell.
        passing[scheme, code, said] = bool(known) and not any(map(is_naming, known))
    return [passing[row] for row in rows]
