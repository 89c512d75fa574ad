"""The data dictionary: every view that analysts see, each column with its type, its DICOM attribute and its tier.

Belongs here: reading it off the views, and printing it as a page. Does not belong here: what a column means, which the
registry (`registry`), the catalog (`catalog`) and the views (`views`) say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ahi.index.columns import Tier
from ahi.index.history import SUFFIX
from ahi.index.picture import by_kind, diagram
from ahi.index.registry import TABLES
from ahi.index.tiers.rules import LOWER
from ahi.index.tiers.views import views_of, write_empty
from ahi.index.views import all_macros, public_views, template_statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import duckdb

    from ahi.index.columns import Column
    from ahi.index.view import View


@dataclass(frozen=True)
class Entry:
    """One column.

    Attributes:
        name: As in SQL.
        duckdb_type: Its type.
        description: A sentence.
        attribute: Tag, VR and VM of the DICOM attribute it holds; empty for a derived column.
        tier: Lowest tier whose view of this name has it, reviewed values (`AHI_TIER_TERMS`) aside.
    """

    name: str
    duckdb_type: str
    description: str
    attribute: str
    tier: str


@dataclass(frozen=True)
class Page:
    """One view."""

    name: str
    description: str
    columns: tuple[Entry, ...]


def dictionary(tier: Tier = Tier.IDENTIFIED) -> list[Page]:
    """All views of a tier by name, as its `index.duckdb` has them. Needs no index: they follow from the code."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("BEGIN")
        views = _made(connection, tier)
        found = connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() "
            "WHERE schema_name = 'main' AND NOT internal ORDER BY table_name, column_index"
        ).fetchall()
    columns: dict[str, list[tuple[str, str]]] = {}
    for view, name, kind in found:
        columns.setdefault(view, []).append((name, kind))
    return [
        Page(
            view.name,
            view.comment,
            tuple(_entry(view.name, name, kind, view.columns.get(name, "")) for name, kind in columns[view.name]),
        )
        for view in sorted(views, key=lambda one: one.name)
    ]


def _made(connection: duckdb.DuckDBPyConnection, tier: Tier) -> Sequence[View]:
    if tier is not Tier.IDENTIFIED:
        return write_empty(connection, TABLES, tier)
    # DuckDB knows the types; without the thousands of comments it tells them three times as fast.
    for statement in template_statements(TABLES, is_explained=False):
        connection.execute(statement.replace(" main.", " memory.main."))
    return public_views(TABLES)


def _entry(view: str, name: str, kind: str, comment: str) -> Entry:
    column = _registered(view, name)
    attribute = ""
    if column is not None and column.tag is not None:
        attribute = f"({column.tag >> 16:04X},{column.tag & 0xFFFF:04X}) {column.vr} {column.vm}"
    tier = next((tier for tier in reversed(LOWER) if name in _shown(tier).get(view, ())), Tier.IDENTIFIED)
    return Entry(name, kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"), comment, attribute, tier.value)


@cache
def _shown(tier: Tier) -> dict[str, frozenset[str]]:
    """Columns of each view of a lower tier, which are fewer than those that the registry would let it have."""
    found = {view.name: view for view in views_of(TABLES, tier)}
    return {name: frozenset(found[view.of or name].columns) for name, view in found.items()}


def only_above(tier: Tier, name: str, columns_of: Iterable[str] = ()) -> str:
    """A sentence if only higher tiers have a view or a macro of a name, or a column in one of some views; else empty.

    Args:
        tier: The tier that was asked and has it not.
        name: A view or macro; with `columns_of`, a column.
        columns_of: Views.
    """
    above = list(Tier)[: list(Tier).index(tier)]
    for one in reversed(above):
        views = _of_tier(one)
        if any(name.lower() in views.get(view, ()) for view in columns_of) or (
            not columns_of and name.lower() in views
        ):
            having = [tier.value for tier in above[: above.index(one) + 1]]
            return f"{name} is in the {' and '.join(having)} {'tier' if len(having) == 1 else 'tiers'} only."
    return ""


def _of_tier(tier: Tier) -> dict[str, frozenset[str]]:
    """Columns of each view of a tier in lower case, and its macros, which have none."""
    if tier is not Tier.IDENTIFIED:
        return {view: frozenset(map(str.lower, columns)) for view, columns in _shown(tier).items()}
    views = {view.name: view for view in public_views(TABLES)}
    found = {signature.split("(")[0]: frozenset[str]() for signature, _, _ in all_macros(TABLES)}
    return found | {name: frozenset(map(str.lower, views[view.of or name].columns)) for name, view in views.items()}


def _registered(view: str, name: str) -> Column | None:
    """The registry's column behind a column of a view: of the view's own table, or of the series it is made from."""
    summary = TABLES["series"] if view in ("patients", "studies") else None
    table = TABLES.get(view.removesuffix("_all").removesuffix(SUFFIX), summary)
    return next((column for column in table.columns if column.name == name), None) if table else None


def markdown(pages: Iterable[Page]) -> str:
    """The dictionary as a page of Markdown."""
    lines = [
        "# The tables",
        "",
        "Made by `ahi schema --markdown`; a test holds it against the code. The index has the descriptions as well:",
        "`SELECT column_name, comment FROM duckdb_columns() WHERE schema_name = 'main' AND table_name = 'series'`.",
        "A view `..._all` has the columns of the view without `_all`, and the rows of image sets that are not primary",
        "besides. A view `..._history` has every row that ever was, with `valid_from` and `valid_to`. What is in their",
        "columns the index says at the view that they are of.",
        "",
        "Any view of image sets, `headers`, `studies` and `patients` can be asked as it was, by its indexed documents:",
        "`FROM series_as_of(TIMESTAMPTZ '2026-11-21 12:00:00Z')`, and what changed between two moments:",
        "`FROM series_diff(TIMESTAMPTZ '2026-11-20', now())`, counted by table `FROM diff(...)` or `ahi diff`. Where a",
        "file is attached under a name and not in use, they take the name: `FROM idx.series_as_of(..., db := 'idx')`;",
        "`diff` needs `USE idx`. Rows shown by their header, before their document was indexed, are in neither: what",
        "headers there were is `headers_as_of`. Differences are of the image sets that the view shows, the primary",
        "ones; `FROM series_diff(..., all_sets := true)` has the others, too.",
        "",
        "A column's tier is the lowest one that has it: `deidentified`, `limited`, `identified`. In a lower tier",
        "values may be hashed, coarser or null: `ahi schema series --tier deidentified` says which.",
        "",
        "The de-identified tier shows text only where it is a word of the standard. More crosses where you have read",
        "it: `AHI_TIER_TERMS` names a JSON file of values by column, such as",
        '`{"ManufacturerModelName": ["SIGNA Premier"], "ConvolutionKernel": ["B30f", "STANDARD"]}`. The next build of',
        "the tier then has these columns, with other values null. It opens no column that the registry itself keeps to",
        "a higher tier, such as SeriesDescription.",
    ]
    shown = [page for page in pages if not page.name.endswith(("_all", SUFFIX))]
    lines += ["", "Columns that join the tables:", "", *diagram(shown)]
    for heading, found in by_kind(shown):
        lines += ["", f"## {heading}"]
        for page in found:
            lines += _section(page)
    return "\n".join(lines) + "\n"


def _section(page: Page) -> list[str]:
    rows = (
        f"| `{one.name}` | `{one.duckdb_type}` | {one.attribute} | {one.tier} | {one.description} |"
        for one in page.columns
    )
    head = ["| column | type | DICOM | tier | |", "|---|---|---|---|---|"]
    return ["", f"### {page.name}", "", page.description, "", *head, *rows]
