"""Rows of the index into rows of a tier. Belongs here: doing what `rules` says, on Arrow arrays, in bounded memory.

Does not belong here: which rule a column has, and files (`build`).

Each distinct value of a part is looked at once, so a hash costs its microsecond by UID and not by row.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ahi.index.columns import Tier
from ahi.index.normalise import manufacturer
from ahi.index.registry import arrow_type
from ahi.index.tiers.reports import is_moment, measured, moments, nameless
from ahi.index.tiers.rules import ROW_VERSION, Dates, How, Policy, places, rules_of, tier_table
from ahi.index.tiers.terms import keywords, meanings, private_creators, private_names, standard_uids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pyarrow as pa

    from ahi.index.columns import Table
    from ahi.index.tiers.rules import Rule

    # The stubs know neither the kinds of nested arrays nor most functions on them.
    Array = Any
    Patients = Callable[[Sequence[str]], Mapping[str, str]]

# 128 bits: two of 10 billion UIDs are the same with a probability of 1 in 10^19.
HASH_LETTERS = 32
MAX_SHIFT_DAYS = 365
LARGEST_LABEL = 99_999
# A tag of an odd group in a path of keywords and tags.
_PRIVATE_TAG = re.compile(r"(^|.*\.)[0-9A-F]{3}[13579BDF][0-9A-F]{4}(\..*|$)", re.IGNORECASE | re.DOTALL)
# The age from which on the law has one class of all (45 CFR 164.514(b)(2)(i)(C)).
OLDEST = 90
# Of values whose meaning other columns of the row say.
_BY_CONCEPT: Mapping[How, Callable[..., Array]] = {
    How.NUMBER: measured,
    How.NAMELESS: nameless,
    How.MOMENT: moments,
}


class Keys:
    """Keyed hashes of one tier. Each tier and purpose has a key of its own, so no hash of one joins with another's.

    Args:
        secret: The secret behind `patient_key`.
        tier: The tier.
    """

    def __init__(self, secret: bytes, tier: Tier) -> None:
        if not secret:
            raise ValueError("The secret of the tiers is empty: set AHI_PATIENT_KEY_SECRET.")
        self._keyed = {
            purpose: hmac.new(hmac.digest(secret, f"ahi tier {tier} {purpose}".encode(), "sha256"), None, "sha256")
            for purpose in ("id", "row", "days", "file")
        }

    def digest(self, purpose: str, text: str) -> bytes:
        """The keyed hash of a text for one purpose."""
        one = self._keyed[purpose].copy()
        one.update(text.encode("utf-8", "surrogatepass"))
        return one.digest()

    def name(self, text: str) -> str:
        """What stands for an identifier."""
        return self.digest("id", text).hex()[:HASH_LETTERS]

    def version(self, row_key: str, batch_id: str) -> str:
        """What stands for the rows that a commit wrote of an image set."""
        return self.digest("row", f"{len(row_key)}:{row_key}{batch_id}").hex()[:HASH_LETTERS]

    def days(self, patient_key: str) -> int:
        """Whole days by which the dates of a patient are moved back."""
        return 1 + int.from_bytes(self.digest("days", patient_key)[:8]) % MAX_SHIFT_DAYS


@dataclass(frozen=True)
class Projection:
    """One table into one tier.

    Attributes:
        table: The registry's table.
        tier: The tier.
        keys: Its hashes.
        policy: What the operator decided.
        patients: Gives the patient key of image sets, for tables whose rows do not say it.
        year: At whose end nobody is 90 or more whose age is shown.
    """

    table: Table
    tier: Tier
    keys: Keys
    policy: Policy
    patients: Patients
    year: int

    @property
    def output(self) -> Table:
        """The table as the tier has it."""
        return tier_table(self.table, self.tier, self.policy)

    def schema(self) -> pa.Schema:
        """Arrow schema of the output, without metadata."""
        import pyarrow as pa

        return pa.schema([(column.name, arrow_type(column.duckdb_type)) for column in self.output.columns])

    def sources(self) -> list[str]:
        """Columns of the index that are read."""
        rules = rules_of(self.table, self.tier, self.policy)
        needed = {
            *rules,
            self.table.row_key,
            "batch_id",
            *places(self.table),
            *(name for rule in rules.values() for name in rule.code),
        }
        if self._shifts(rules.values()):
            needed.add("patient_key")
        return [column.name for column in self.table.columns if column.name in needed]

    def apply(self, batch: Mapping[str, Array], dead: frozenset[tuple[str, str]]) -> pa.RecordBatch:
        """Rows that count, as the tier shows them.

        Args:
            batch: The columns of `sources`, with the types of the registry.
            dead: Row key and batch of the rows that do not count any more.
        """
        import pyarrow as pa

        for place in places(self.table):
            is_public = _mapped(batch[place], lambda path: not _PRIVATE_TAG.fullmatch(path), pa.bool_()).fill_null(True)
            batch = {name: array.filter(is_public) for name, array in batch.items()}
        versions = list(zip(batch[self.table.row_key].to_pylist(), batch["batch_id"].to_pylist(), strict=True))
        if dead and not dead.isdisjoint(versions):
            kept = pa.array([version not in dead for version in versions])
            batch = {name: array.filter(kept) for name, array in batch.items()}
            versions = [version for version in versions if version not in dead]
        names = {version: self.keys.version(*version) for version in set(versions)}
        rules = rules_of(self.table, self.tier, self.policy)
        days = self._days(batch) if self._shifts(rules.values()) else None
        columns = {name: self._column(rule, name, batch, days) for name, rule in rules.items()}
        columns[ROW_VERSION] = pa.array([names[version] for version in versions], pa.string())
        schema = self.schema()
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _shifts(self, rules: Iterable[Rule]) -> bool:
        shifts = self.tier is Tier.DEIDENTIFIED and self.policy.dates is Dates.SHIFT
        return shifts and any(rule.how is How.DATE for rule in rules)

    def _days(self, batch: Mapping[str, Array]) -> Array:
        """Days to move each row's dates by; null where its patient is not known."""
        import pyarrow as pa

        if "patient_key" in batch:
            return _mapped(batch["patient_key"], self.keys.days, pa.int32())
        sets = batch[self.table.row_key]
        known = self.patients([name for name in sets.unique().to_pylist() if name])
        shifts = {name: self.keys.days(patient) for name, patient in known.items()}
        return _mapped(sets, shifts.get, pa.int32())

    def _column(self, rule: Rule, name: str, batch: Mapping[str, Array], days: Array | None) -> Array:
        if rule.how in (How.CODE, How.SCHEME, How.MEANING):
            code, scheme = (batch[part].to_pylist() for part in rule.code)
            return _coded(code, scheme)[(How.CODE, How.SCHEME, How.MEANING).index(rule.how)]
        if rule.how is How.AGE:
            return ages(batch[name], batch[rule.code[0]], self.year)
        if how := _BY_CONCEPT.get(rule.how):
            return how(batch[name], *(batch[part].to_pylist() for part in rule.code))
        return self._value(rule, batch[name], days)

    def _value(self, rule: Rule, array: Array, days: Array | None) -> Array:
        """The array by a rule; of lists, each element by it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if pa.types.is_list(array.type) and rule.how is not How.KEEP:
            inner = None if days is None else days.take(pc.list_parent_indices(array))
            return _relisted(array, self._value(rule, array.flatten(), inner))
        match rule.how:
            case How.KEEP:
                shown = array
            case How.CODED:
                fields = [array.field(part).to_pylist() for part in range(2)]
                shown = pa.StructArray.from_arrays(_coded(*fields), fields=list(array.type), mask=array.is_null())
            case How.DATE:
                shown = _dates(array, days)
            case How.YEAR:
                shown = _dates(array, None)
            case How.LABEL:
                # Wider first: the smallest of 32 bits has no absolute value in them.
                is_small = pc.less_equal(pc.abs(array.cast(pa.int64())), pa.scalar(LARGEST_LABEL))
                shown = pc.if_else(is_small, array, pa.scalar(None, array.type))
            case _:
                shown = _mapped(array, self._word(rule), pa.string())
        return shown

    def _word(self, rule: Rule) -> Callable[[str], str | None]:
        """What a rule makes of one text."""
        if rule.how is How.HASH:
            return self.keys.name
        if rule.how is How.VENDOR:
            return manufacturer
        passes = _passes(rule)
        return lambda value: value if passes(value) else None


def _passes(rule: Rule) -> Callable[[str], object]:
    """Which texts a rule lets through as they are."""
    lists = {How.STANDARD: standard_uids, How.CREATOR: private_creators, How.PRIVATE_NAME: private_names}
    if listed := lists.get(rule.how):
        return (listed() | rule.terms).__contains__
    match rule.how:
        case How.TERMS:
            return rule.terms.__contains__
        case How.PATTERN:
            return lambda value: re.fullmatch(rule.pattern, value, re.ASCII)
        case How.DATETIME:
            return lambda value: is_moment(value, "DATETIME")
        case How.KEYWORDS:
            return lambda value: keywords().issuperset(value.split("."))
    raise NotImplementedError(f"Nothing is known to do for the rule {rule.how.name}.")


def _mapped(array: Array, how: Callable[[str], object], kind: pa.DataType) -> Array:
    """A function on the distinct values of an array."""
    import pyarrow as pa

    encoded = array.dictionary_encode()
    return pa.array([how(value) for value in encoded.dictionary.to_pylist()], kind).take(encoded.indices)


def _relisted(lists: Array, values: Array) -> Array:
    """Lists of the same lengths with other values."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    counted: Any = pc.list_value_length(lists)
    lengths = pc.fill_null(counted, 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, type=lists.type, mask=lists.is_null())


def _coded(codes: Sequence[Any], schemes: Sequence[Any]) -> list[Array]:
    """Code, scheme and meaning where the standard lists the code. The meaning is the standard's, not the sender's."""
    import pyarrow as pa

    known = meanings()
    pairs = list(zip(schemes, codes, strict=True))
    found = {pair: known.get(pair) for pair in set(pairs)}
    listed = [found[pair] is not None for pair in pairs]
    parts: tuple[list[str | None], ...] = (
        [code if is_listed else None for code, is_listed in zip(codes, listed, strict=True)],
        [scheme if is_listed else None for scheme, is_listed in zip(schemes, listed, strict=True)],
        [found[pair] for pair in pairs],
    )
    return [pa.array(part, pa.string()) for part in parts]


def ages(array: Array, dates: Array, year: int) -> Array:
    """Whole years of those who cannot be 90 by the end of a year; null for the others, and where there is no date.

    Each row tells for itself, whatever else comes of the patient: 90 for 90 and more, row by row, told by the row of
    ten years before how much more, and to null that one later would be to make old files anew with each new one.

    Args:
        array: Ages.
        dates: When somebody was that old.
        year: The year, no date is after it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    whole: Array = pc.floor(array)
    latest, none = pa.scalar(year, pa.int64()), pa.scalar(0, pa.int64())
    since: Array = pc.max_element_wise(pc.subtract(latest, pc.year(dates)), none, skip_nulls=False)
    # One less: 79 in spring may be 80 in autumn. So whoever reaches 90 has no age in any row, and a null tells no turn.
    shown = pc.less(pc.add(whole, since), pa.scalar(OLDEST - 1))
    return pc.if_else(pc.and_(shown, pc.greater_equal(whole, pa.scalar(0))), whole, pa.scalar(None, array.type))


def _dates(array: Array, days: Array | None) -> Array:
    """The year of dates; with days, dates moved back by these, null where nobody knows by how many."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_date32(array.type):
        # The day of a moment is that of UTC, which beside a local one tells the hour.
        raise NotImplementedError(f"No date rule is known for {array.type}.")
    if days is None:
        return pc.floor_temporal(array, unit="year").cast(pa.date32())
    return pc.subtract(array.cast(pa.int32()), days).cast(pa.date32())
