"""FHIR search: parameters of a request into resources, page by page.

Belongs here: what a search asks. Does not belong here: what resources are found by (`terms.py`), HTTP (`rest.py`).

R4, "Search"; developer guide, "Search parameters", "Search modifiers", "Search comparators".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from local_aws.healthlake.outcomes import FhirError
from local_aws.healthlake.resources import Version
from local_aws.healthlake.resources import parameter as number_of
from local_aws.healthlake.terms import DATES, NAMES, REFERENCES, STRINGS, moment, terms
from local_aws.healthlake.types import TYPES
from local_aws.protocol.errors import ServiceError
from local_aws.protocol.paging import Listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_aws.healthlake.shared import Shared

LISTING = Listing("fhir", ((int, float), (int,)), token="page", most="size")  # noqa: S106 -- a name
MOST = 100
# They change what an answer looks like, or nothing.
RESULT = frozenset({"_count", "page", "_total", "_sort", "_summary", "_include", "_revinclude", "_format", "_pretty"})
COMPARATORS = {"eq": "=", "ne": "!=", "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "sa": ">", "eb": "<"}
Pairs = list[tuple[str, str]]
# A condition and its values.
Clause = tuple[str, list[Any]]


@dataclass(frozen=True)
class Page:
    """What a search found.

    Attributes:
        matches: Resources that match.
        included: Resources that `_include` and `_revinclude` bring with them.
        total: How many match in all; None when nobody wants to know.
        following: Token of the next page.
    """

    matches: Sequence[Version]
    included: Sequence[Version]
    total: int | None
    following: str | None


class Search:
    """Searches one type of a data store."""

    def __init__(self, shared: Shared) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock

    def run(self, store: int, kind: str, pairs: Pairs) -> Page:
        """One page.

        Args:
            store: Number of the data store.
            kind: Type that is searched.
            pairs: Parameters as they came.

        Raises:
            FhirError: A parameter that is not known, or a value that cannot be.
        """
        given = dict(pairs)
        size = self._size(given)
        where, values = self._where(store, kind, pairs)
        total = None
        if given.get("_total") != "none":
            total = int(self._store.rows(f"SELECT count(*) AS n FROM resources WHERE {where}", values)[0]["n"])  # noqa: S608
        if given.get("_summary") == "count" or size == 0:
            return Page((), (), total, None)
        # The size of a page is part of the question here: a page belongs to the _count that it was asked with.
        question = sorted(pair for pair in pairs if pair[0] not in {"page", "_count"})
        asked = {"kind": kind, "pairs": question, "count": size, "page": given.get("page"), "size": size}
        column, order = self._order(given.get("_sort", ""))
        try:
            after = LISTING.start(self._store.page_secret, asked)
        except ServiceError as error:
            raise FhirError(400, "value", "The page is not one of this search, or _count has changed.") from error
        if after:
            where += f" AND ({column}, number) {'>' if order == 'ASC' else '<'} (?, ?)"
            values += after
        rows = self._store.rows(
            f"SELECT number, id, version, updated, body, {column} AS place FROM resources WHERE {where}"  # noqa: S608 -- ours
            f" ORDER BY place {order}, number {order} LIMIT {size + 1}",
            values,
        )
        page, following = LISTING.turn(self._store.page_secret, asked, rows, lambda row: [row["place"], row["number"]])
        matches = [_version(kind, row) for row in page]
        included = self._included(store, kind, matches, pairs)
        return Page(matches, included, total, following)

    def _size(self, given: dict[str, str]) -> int:
        text = given.get("_count")
        if text is None:
            return self._settings.fhir_page_size
        if not text.isascii() or not text.isdigit() or int(text[:9]) > MOST:
            raise FhirError(400, "value", f"_count is a number from 0 to {MOST}.")
        return int(text)

    def _order(self, sort: str) -> tuple[str, str]:
        if sort not in {"", "_lastUpdated", "-_lastUpdated"}:
            raise FhirError(400, "not-supported", "_sort takes _lastUpdated or -_lastUpdated.")
        return "updated" if sort else "0", "DESC" if sort.startswith("-") else "ASC"

    # -- conditions -----------------------------------------------------------------------------------------------

    def _where(self, store: int, kind: str, pairs: Pairs) -> tuple[str, list[Any]]:
        clauses: list[Clause] = [("store = ? AND type = ? AND deleted = 0", [store, kind])]
        lag = self._settings.fhir_search_lag_seconds
        if lag:
            clauses.append(("created <= ?", [self._clock.now() - lag]))
        for name, value in pairs:
            if name not in RESULT:
                clauses.append(self._clause(store, kind, name, value))
        return " AND ".join(f"({sql})" for sql, _ in clauses), [v for _, values in clauses for v in values]

    def _clause(self, store: int, kind: str, parameter: str, value: str) -> Clause:
        name, _, modifier = parameter.partition(":")
        alternatives = [v for v in value.split(",") if v]
        if not alternatives:
            raise FhirError(400, "value", f"The search parameter {name} has no value.")
        if name == "_id":
            return f"id IN ({_marks(alternatives)})", list(alternatives)
        if name == "_lastUpdated":
            return _any([_updated(text) for text in alternatives])
        if name not in NAMES:
            raise FhirError(400, "not-supported", "A search parameter is not known.")
        if name in DATES:
            found = _any([_dated(text) for text in alternatives])
        elif name in STRINGS:
            found = _any([_worded(text, modifier) for text in alternatives])
        elif name in REFERENCES:
            texts = [_target(text, modifier, name) for text in alternatives]
            found = f"value IN ({_marks(texts)})", texts
        elif modifier:
            raise FhirError(400, "not-supported", f"The search parameter {name} has no such modifier.")
        else:
            found = f"value IN ({_marks(alternatives)})", list(alternatives)
        sql = f"number IN (SELECT resource FROM values_found WHERE parameter = ? AND ({found[0]}))"  # noqa: S608 -- ours
        return sql, [number_of(store, kind, name), *found[1]]

    # -- what comes with the matches ------------------------------------------------------------------------------

    def _included(self, store: int, kind: str, matches: list[Version], pairs: Pairs) -> list[Version]:
        found: dict[tuple[str, str], Version] = {}
        for name, value in pairs:
            if name not in {"_include", "_revinclude"}:
                continue
            source, _, parameter = value.partition(":")
            parameter = parameter.partition(":")[0]
            if source not in TYPES or parameter not in REFERENCES or (name == "_include" and source != kind):
                raise FhirError(400, "value", f"{name} is Type:parameter, of a parameter that is a reference.")
            if name == "_include":
                rows = self._targets(store, matches, parameter)
            else:
                rows = self._sources(store, source, parameter, [f"{m.type}/{m.id}" for m in matches])
            found |= {(row["type"], row["id"]): _version(row["type"], row) for row in rows}
        there = {(match.type, match.id) for match in matches}
        return [version for key, version in found.items() if key not in there]

    def _targets(self, store: int, matches: list[Version], parameter: str) -> list[Any]:
        found = {value for match in matches for name, value in terms(orjson.loads(match.body)) if name == parameter}
        rows = []
        for kind, _, name in (value.partition("/") for value in sorted(found) if "/" in value):
            rows += self._store.rows(
                "SELECT * FROM resources WHERE store = ? AND type = ? AND id = ? AND deleted = 0", (store, kind, name)
            )
        return rows

    def _sources(self, store: int, kind: str, parameter: str, targets: list[str]) -> list[Any]:
        return self._store.rows(
            "SELECT * FROM resources WHERE number IN (SELECT resource FROM values_found WHERE parameter = ?"  # noqa: S608
            f" AND value IN ({_marks(targets)})) ORDER BY number LIMIT 1000",
            [number_of(store, kind, parameter), *targets],
        )


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _version(kind: str, row: Any) -> Version:
    return Version(kind, row["id"], row["version"], row["updated"], deleted=False, body=row["body"])


def _any(clauses: list[Clause]) -> Clause:
    return " OR ".join(f"({sql})" for sql, _ in clauses), [v for _, values in clauses for v in values]


def _compared(text: str) -> tuple[str, tuple[str, str]]:
    """Comparator, begin and end of a time."""
    prefix, rest = (text[:2], text[2:]) if text[:2] in COMPARATORS else ("eq", text)
    span = moment(rest)
    if span is None:
        raise FhirError(400, "value", "A date or time of the search is not one.")
    return prefix, span


def _range(column: str, text: str) -> Clause:
    prefix, (begin, end) = _compared(text)
    if prefix == "eq":
        return f"{column} >= ? AND {column} < ?", [begin, end]
    if prefix == "ne":
        return f"{column} < ? OR {column} >= ?", [begin, end]
    if prefix in {"gt", "sa", "le"}:
        return f"{column} {'<' if prefix == 'le' else '>='} ?", [end]
    return f"{column} {'>=' if prefix == 'ge' else '<'} ?", [begin]


def _dated(text: str) -> Clause:
    return _range("value", text)


def _updated(text: str) -> Clause:
    from datetime import datetime

    sql, values = _range("updated", text)
    return sql, [datetime.fromisoformat(value).timestamp() for value in values]


def _worded(text: str, modifier: str) -> Clause:
    folded = text.casefold()
    if modifier == "exact":
        return "value = ?", [folded]
    if modifier == "contains":
        return "instr(value, ?) > 0", [folded]
    if modifier:
        raise FhirError(400, "not-supported", "A text has the modifiers exact and contains.")
    return "value >= ? AND value < ?", [folded, folded + "\U0010ffff"]


def _target(text: str, modifier: str, name: str) -> str:
    """`Type/id` of a reference, or the id alone where no type is given."""
    if "/" in text:
        return "/".join(text.rstrip("/").split("/")[-2:])
    if modifier and modifier not in TYPES:
        raise FhirError(400, "not-supported", f"The search parameter {name} has no such modifier.")
    kind = modifier or ("Patient" if name == "patient" else "")
    return f"{kind}/{text}" if kind else text
