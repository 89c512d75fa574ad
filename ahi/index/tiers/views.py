"""The `index.duckdb` of a tier. Belongs here: its views and comments, over the files of the tier and nothing else.

Does not belong here: those files (`build`) and the views of the live index (`ahi.index.views`). There is no history and
no table of the pipeline's own account here: what is not named below does not cross.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ahi.clock import now
from ahi.index.parquet import empty_select, select_list, spilling
from ahi.index.publish import STORAGE
from ahi.index.registry import SCHEMA_VERSION
from ahi.index.sql import literal_path, quoted, text
from ahi.index.tiers.rules import ROW_VERSION, Policy, crosses, tier_table
from ahi.index.view import STUDY_OF_UNKNOWN, View, names
from ahi.index.writer import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import duckdb

    from ahi.index.columns import Column, Table, Tier

CONFLICTS = "conflict_attrs"
_CONFLICT_COMMENT = (
    "Columns in which the series differ, as this tier shows them: they are null. Nulls do not count as a difference."
)
# Column of a study or a patient: what it is made of, its SQL, what it is.
_STUDY = {
    "ModalitiesInStudy": ("Modality", "list_sort(list(DISTINCT Modality))", "Modalities of the series, sorted."),
    "SOPClassesInStudy": (
        "sop_class_uids",
        "list_sort(list_distinct(flatten(list(sop_class_uids))))",
        "SOP classes of the series, sorted.",
    ),
    "NumberOfStudyRelatedSeries": ("SeriesInstanceUID", "count(DISTINCT SeriesInstanceUID)", "Series, counted."),
    "NumberOfStudyRelatedInstances": ("n_instances", "sum(n_instances)::BIGINT", "Instances, counted."),
    "n_frames": ("n_frames", "sum(n_frames)::BIGINT", "Frames, counted."),
}
_PATIENT = {
    "n_studies": ("StudyInstanceUID", "count(DISTINCT StudyInstanceUID)", "Studies, counted."),
    "n_series": ("SeriesInstanceUID", "count(DISTINCT SeriesInstanceUID)", "Series, counted."),
    "n_instances": ("n_instances", "sum(n_instances)::BIGINT", "Instances, counted."),
    "first_study_date": ("StudyDate", "min(StudyDate)", "Earliest StudyDate, as this tier shows it."),
    "last_study_date": ("StudyDate", "max(StudyDate)", "Latest StudyDate, as this tier shows it."),
    "modalities": ("Modality", "list_sort(list(DISTINCT Modality))", "Modalities of the series, sorted."),
}


@dataclass(frozen=True)
class Shown:
    """What a tier shows.

    Attributes:
        tier: The tier.
        policy: What the operator decided.
        tables: Its tables.
        files: Their files.
        dead: Row versions in those that do not count any more.
        empty: Columns that are null in every row.
        seq: Newest commit of the index that it shows.
    """

    tier: Tier
    policy: Policy
    tables: Mapping[str, Table]
    files: Mapping[str, Sequence[Path]]
    dead: Mapping[str, Sequence[str]]
    empty: Mapping[str, frozenset[str]]
    seq: int


def built_marker(root: Path) -> str | None:
    """What the tier's `index.duckdb` was made of; None if there is none that can be read."""
    import duckdb

    if not (root / "index.duckdb").exists():
        return None
    try:
        with duckdb.connect(str(root / "index.duckdb"), read_only=True) as connection:
            row = connection.execute("SELECT marker FROM internal.built").fetchone()
    except duckdb.Error:
        return None
    return str(row[0]) if row else None


def write_index(root: Path, shown: Shown, marker: str) -> None:
    """Build `index.duckdb` and put it in the place of the one before, at once."""
    temporary = root / f".index-{uuid.uuid4().hex}.duckdb"
    with spilling(root) as connection:
        connection.execute(f"ATTACH {text(str(temporary))} AS published ({STORAGE})")
        connection.execute("USE published")
        connection.execute("BEGIN")
        connection.execute("CREATE SCHEMA internal")
        connection.execute("CREATE TABLE internal.built AS SELECT ? AS marker", [marker])
        for table in (table for table in shown.tables.values() if shown.dead.get(table.name)):
            _bury(connection, table, shown)
        for view in views(shown.tables, shown):
            for statement in statements(view):
                connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("USE memory")
        connection.execute("DETACH published")
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(root / "index.duckdb")
    sync_folder(root)


def write_empty(connection: duckdb.DuckDBPyConnection, registry: Mapping[str, Table], tier: Tier) -> list[View]:
    """Make the views of a tier over no files, to read off what it shows. Dates are those of the default policy."""
    shown = _empty(registry, tier)
    found = views(shown.tables, shown)
    for view in found:
        connection.execute(f"CREATE VIEW main.{quoted(view.name)} AS {view.sql}")
    return found


def views_of(registry: Mapping[str, Table], tier: Tier) -> list[View]:
    """Every view of a tier under the default policy, made nowhere."""
    shown = _empty(registry, tier)
    return views(shown.tables, shown)


def _empty(registry: Mapping[str, Table], tier: Tier) -> Shown:
    policy = Policy()
    tables = {name: tier_table(table, tier, policy) for name, table in registry.items() if crosses(table, tier, policy)}
    return Shown(tier, policy, tables, {}, {}, {}, 0)


def _bury(connection: duckdb.DuckDBPyConnection, table: Table, shown: Shown) -> None:
    """Keep which row versions of a table do not count any more."""
    import pyarrow as pa

    dead = pa.table({ROW_VERSION: pa.array(shown.dead[table.name], pa.string())})
    connection.register("incoming", dead)
    connection.execute(f"CREATE TABLE {_dead(table)} AS SELECT * FROM incoming")
    connection.unregister("incoming")


def _dead(table: Table) -> str:
    return f"internal.{quoted(f'dead_{table.name}')}"


def _select(table: Table, shown: Shown) -> str:
    """SELECT of the rows of a table's files that count.

    The views are this itself: over a view of these rows, a look at one study took a tenth longer.
    """
    columns = [(column.name, column.duckdb_type) for column in table.columns if column.name != ROW_VERSION]
    files = ", ".join(text(literal_path(path)) for path in shown.files.get(table.name, ()))
    if not files:
        return f"SELECT * FROM ({empty_select(columns)})"
    gone = f" r ANTI JOIN {_dead(table)} d ON d.{ROW_VERSION} = r.{ROW_VERSION}" if shown.dead.get(table.name) else ""
    picked = select_list(columns, shown.empty.get(table.name, frozenset()))
    return f"SELECT {picked} FROM read_parquet([{files}]){gone}"


def statements(view: View) -> Iterable[str]:
    """SQL that makes a view with its comments."""
    name = f"main.{quoted(view.name)}"
    yield f"CREATE VIEW {name} AS {view.sql}"
    yield f"COMMENT ON VIEW {name} IS {text(view.comment)}"
    for column, comment in view.columns.items():
        yield f"COMMENT ON COLUMN {name}.{quoted(column)} IS {text(comment)}"


def views(tables: Mapping[str, Table], shown: Shown) -> list[View]:
    """Every view of the tier."""
    found = [view for table in tables.values() for view in _table_views(table, shown)]
    if series := tables.get("series"):
        study = [c for c in series.columns if c.level == "Study" and c.name != "StudyInstanceUID"]
        study += [c for c in series.columns if c.name in ("study_datetime_utc", "patient_age_years")]
        patient = [c for c in series.columns if c.level == "Patient"]
        found.append(_grouped("studies", series, ["datastore_id", "StudyInstanceUID"], study, _STUDY))
        found.append(_grouped("patients", series, ["datastore_id", "patient_key"], patient, _PATIENT))
    return [*found, _info(shown)]


def _table_views(table: Table, shown: Shown) -> list[View]:
    described = {column.name: column.description for column in table.columns if column.name != ROW_VERSION}
    select = _select(table, shown)
    primary = f"{table.description} Primary image sets; {table.name}_all has the others too."
    return [
        View(table.name, f"{select} WHERE is_primary", primary, described),
        View(f"{table.name}_all", select, f"{table.description} Primary or not.", of=table.name),
    ]


def _grouped(
    name: str, series: Table, keys: list[str], own: Sequence[Column], derived: Mapping[str, tuple[str, str, str]]
) -> View:
    """One row for each study or patient, from the series.

    An attribute that differs is null: the smallest values of two persons make one who does not exist.
    """
    comments = {column.name: column.description for column in series.columns}
    keys = [key for key in keys if key in comments]
    if "patient_key" in comments and "patient_key" not in keys:
        own = [column for column in series.columns if column.name == "patient_key"] + list(own)
    unknown = f", {STUDY_OF_UNKNOWN}" if "patient_key" in keys and "StudyInstanceUID" in comments else ""
    made = {column: (sql, comment) for column, (needs, sql, comment) in derived.items() if needs in comments}
    agrees = {name: f"min({name}) IS NOT DISTINCT FROM max({name})" for name in (quoted(one.name) for one in own)}
    picked = [f"CASE WHEN {same} THEN min({name}) END AS {name}" for name, same in agrees.items()]
    picked += [f"{sql} AS {quoted(column)}" for column, (sql, _) in made.items()]
    differing = ", ".join(f"CASE WHEN NOT {agrees[quoted(one.name)]} THEN {text(one.name)} END" for one in own)
    picked.append(f"list_filter([{differing}]::VARCHAR[], lambda name: name IS NOT NULL) AS {CONFLICTS}")
    described = {column: comments[column] for column in [*keys, *(column.name for column in own)]}
    return View(
        name,
        f"SELECT {', '.join([names(keys), *picked])} FROM main.series GROUP BY {names(keys)}{unknown}",
        f"One row for each of the {name} and data store, from its series; null where these differ.",
        described | {column: comment for column, (_, comment) in made.items()} | {CONFLICTS: _CONFLICT_COMMENT},
    )


def _info(shown: Shown) -> View:
    files = ", ".join(f"{text(name)}: {len(paths)}" for name, paths in shown.files.items())
    return View(
        "index_info",
        f"SELECT {text(shown.tier.value)} AS tier, {shown.seq}::BIGINT AS seq, "
        f"{text(SCHEMA_VERSION)} AS schema_version, "
        f"{text(shown.policy.dates.value)} AS dates, {text(now().isoformat())}::TIMESTAMPTZ AS built_at, "
        f"MAP {{{files}}} AS files_by_table",
        "One row: what this tier is.",
        {
            "tier": "Its name.",
            "seq": "Newest commit of the index that it shows.",
            "schema_version": "Version of the columns' meaning.",
            "dates": "Date rule of the de-identified tier: year or shift.",
            "built_at": "When its files were put together.",
            "files_by_table": "Files of each table.",
        },
    )
