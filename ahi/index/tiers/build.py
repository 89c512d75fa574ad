"""The files of a tier. Belongs here: keeping them in step with the live files of the index, and the swap.

Does not belong here: what becomes of a column (`rules`, `transform`), the views (`views`).

For each live file of the index a tier has one file, whose name is a keyed hash of the other's. So nothing has to be
remembered: what is missing is made, what has no live file behind it any more is retired. Work follows what is new, and
a builder that is killed leaves files that the next one finds or removes. The time of change of a live file is 1970, so
that it does not tell when the data came; that of a retired file is its retirement. Files with ages are made anew at the
turn of the year (`transform.ages`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import chunked

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.columns import Tier
from ahi.index.engine import locked
from ahi.index.ordering import is_large
from ahi.index.packing import ZSTD_LEVEL, group_rows, write_groups
from ahi.index.parquet import spilling
from ahi.index.registry import SCHEMA_VERSION, arrow_type
from ahi.index.relations import empty_columns, read_dead
from ahi.index.sidecar import remove_with_sidecar, write_sidecar
from ahi.index.sql import quoted, text
from ahi.index.tiers.rules import LOWER, ROW_VERSION, Policy, crosses, digest_of, rules_of, tier_table
from ahi.index.tiers.transform import Keys, Projection
from ahi.index.tiers.views import Shown, built_marker, write_index
from ahi.index.writer import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import duckdb

    from ahi.index.columns import Table
    from ahi.index.store import Index

# Rows in memory at a time.
PART_ROWS = 20_000
# Raise it when files must be made anew though no rule has changed.
BUILD = "7"
# Raise it when the views must be made anew over the same files.
VIEWS = "3"


@dataclass(frozen=True)
class TierReport:
    """What one build did, and what the tier shows now.

    Attributes:
        tier: The tier.
        seq: Newest commit that it shows.
        is_new: False when nothing was committed since.
        made: Files made.
        retired: Files that lost their live file.
        removed: Retired files that were removed after their grace.
        rows: Rows of the live files of each table, dead ones and those that stay out included.
        commits_behind: Commits that came since.
    """

    tier: Tier
    seq: int
    is_new: bool
    made: int
    retired: int
    removed: int
    rows: Mapping[str, int]
    commits_behind: int


def tier_root(root: Path, tier: Tier) -> Path:
    """Folder of a tier, under the folder of the index. For the identified tier it is the index itself."""
    return root if tier is Tier.IDENTIFIED else root / "tiers" / tier.value


def tier_files(root: Path) -> list[Path]:
    """Every Parquet file of every lower tier, retired ones too."""
    return sorted(path for tier in LOWER for path in tier_root(root, tier).glob("data/*/*.parquet"))


@dataclass(frozen=True)
class _Source:
    """A live file of the index, where its tier file is or will be, and what the catalog knows of it."""

    table: Table
    path: Path
    target: Path
    row: sa.Row[Any]


def build_tier(index: Index, tier: Tier, secret: bytes, policy: Policy | None = None) -> TierReport:
    """Bring a tier up to date with the last commit. Builders of one tier work one after the other.

    Args:
        index: The index.
        tier: Limited or de-identified.
        secret: The secret behind `patient_key`; the tier's own keys are derived from it.
        policy: What the operator decided; without it, dates by year and no reviewed values.
    """
    if tier not in LOWER:
        raise ValueError("The identified tier is the index itself: there is nothing to build.")
    policy, keys, root = policy or Policy(), Keys(secret, tier), tier_root(index.root, tier)
    (root / "data").mkdir(parents=True, exist_ok=True)
    with locked(root / ".build.lock"):
        _sweep(root)
        tables = [table for table in index.tables.values() if crosses(table, tier, policy)]
        # Where clocks are ahead of UTC, the first studies of a year come in the one before.
        year = (now() + dt.timedelta(days=1)).year
        rules = {table.name: f"{BUILD} {digest_of(table, tier, policy, year)}" for table in tables}
        with index.snapshot() as connection:
            seq = connection.scalar(sa.select(sa.func.max(c.commits.c.seq))) or 0
            sources = _sources(connection, tables, root, keys, rules)
            dead = {table.name: _dead(connection, table) for table in tables}
        missing = [source for source in sources if not source.target.exists()]
        with spilling(root) as connection:
            for source in missing:
                projection = Projection(source.table, tier, keys, policy, partial(_patients, index), year)
                _make(connection, source, projection, dead[source.table.name])
        of_table = {table.name: [one for one in sources if one.table is table] for table in tables}
        files = {name: [one.target for one in found] for name, found in of_table.items()}
        gone = {name: sorted(keys.version(*key) for key in found) for name, found in dead.items()}
        empty = {t.name: _null_columns(t, tier, policy, [one.row for one in of_table[t.name]]) for t in tables}
        shown = Shown(tier, policy, {t.name: tier_table(t, tier, policy) for t in tables}, files, gone, empty, seq)
        made_of = (VIEWS, SCHEMA_VERSION, root, rules, files, gone, {name: sorted(x) for name, x in empty.items()}, seq)
        marker = hashlib.sha256(repr(made_of).encode()).hexdigest()
        is_new = built_marker(root) != marker
        if is_new:
            write_index(root, shown, marker)
        retired, removed = _retire(root, {source.target for source in sources}, index.grace_seconds)
        with index.snapshot() as connection:
            newest = connection.scalar(sa.select(sa.func.max(c.commits.c.seq))) or 0
        rows = {name: sum(int(one.row.n_rows) for one in found) for name, found in of_table.items()}
        return TierReport(tier, seq, is_new, len(missing), retired, removed, rows, newest - seq)


def _sweep(root: Path) -> None:
    """Remove what killed builders left. Under the lock nobody is at work on it."""
    for left in [*root.glob(".index-*"), *root.glob("data/*/.new-*")]:
        left.unlink(missing_ok=True)


def _sources(
    connection: sa.Connection, tables: Sequence[Table], root: Path, keys: Keys, rules: Mapping[str, str]
) -> list[_Source]:
    by_name = {table.name: table for table in tables}
    files, found = c.files.c, []
    live = sa.select(c.files).where(files.retired_seq.is_(None), files.table_name.in_(by_name))
    for row in connection.execute(live.order_by(files.live_seq, files.path)):
        name, path = str(row.table_name), str(row.path)
        # The index of a tier lies two folders below that of the index.
        target = f"{keys.digest('file', f'{path} {rules[name]}').hex()[:32]}.parquet"
        found.append(_Source(by_name[name], root.parents[1] / path, root / "data" / name / target, row))
    return found


def _null_columns(table: Table, tier: Tier, policy: Policy, files: Sequence[sa.Row[Any]]) -> frozenset[str]:
    """Columns that are null in every row that the tier has of a table, since they are in the index."""
    empty = empty_columns(files)
    # What is made of a code has nothing to do with what stood in the column.
    return frozenset(name for name, rule in rules_of(table, tier, policy).items() if name in empty and not rule.code)


def _dead(connection: sa.Connection, table: Table) -> frozenset[tuple[str, str]]:
    keys = read_dead(connection, [table.name])[table.name].to_pydict()
    return frozenset(zip(keys["row_key"], keys["batch_id"], strict=True))


def _patients(index: Index, image_sets: Sequence[str]) -> dict[str, str]:
    """Patient key of each image set that the catalog knows one of."""
    known: dict[str, str] = {}
    query = sa.select(c.heads.c.image_set_id, c.heads.c.patient_key).where(c.heads.c.patient_key.is_not(None))
    with index.snapshot() as connection:
        for part in chunked(image_sets, 500):
            rows = connection.execute(query.where(c.heads.c.image_set_id.in_(part)))
            known.update({row.image_set_id: row.patient_key for row in rows})
    return known


def _make(
    connection: duckdb.DuckDBPyConnection, source: _Source, projection: Projection, dead: frozenset[tuple[str, str]]
) -> None:
    """Write one file of the tier. Its rows are sorted anew: by UID, the old order would still tell something."""
    import pyarrow as pa

    folder = source.target.parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".new-{uuid.uuid4().hex}"
    parts = (projection.apply(part, dead) for part in _parts(source.path, projection))
    connection.register("incoming", pa.RecordBatchReader.from_batches(projection.schema(), parts))
    order = ", ".join(quoted(name) for name in (*projection.output.sort_by, ROW_VERSION))
    about = {"table": source.table.name, "schema_version": SCHEMA_VERSION, "tier": projection.tier.value}
    rows, n_group = f"SELECT * FROM incoming ORDER BY {order}", group_rows(source.table.name)
    if is_large(source.row.n_rows, len(projection.output.columns)):
        reader = connection.sql(rows).to_arrow_reader(n_group)
        groups = (pa.Table.from_batches([batch]) for batch in reader)
        write_groups(temporary, groups, about, schema=reader.schema)
    else:
        metadata = ", ".join(f"{text(key)}: {text(value)}" for key, value in about.items())
        connection.execute(
            f"COPY ({rows}) TO {text(str(temporary))} (FORMAT parquet, KV_METADATA {{{metadata}}}, "
            f"COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL}, ROW_GROUP_SIZE {n_group})"
        )
    connection.unregister("incoming")
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
        write_sidecar(source.target, hashlib.file_digest(handle, "sha256").hexdigest())
    os.utime(temporary, (0, 0))
    temporary.replace(source.target)
    sync_folder(folder)


def _parts(path: Path, projection: Projection) -> Iterator[dict[str, Any]]:
    """Rows of a file, some at a time, with the columns as the registry has them now."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, Any] = {column.name: arrow_type(column.duckdb_type) for column in projection.table.columns}
    wanted = projection.sources()
    with pq.ParquetFile(path) as file:
        present = [name for name in wanted if name in file.schema_arrow.names]
        for batch in file.iter_batches(PART_ROWS, columns=present):
            yield {
                name: _as(batch.column(name), kinds[name]) if name in present else pa.nulls(batch.num_rows, kinds[name])
                for name in wanted
            }


def _as(array: Any, kind: Any) -> Any:
    """An array with the type that the registry gives the column now; null where a value does not fit."""
    import pyarrow as pa

    if array.type == kind:
        return array
    try:
        return array.cast(kind)
    except pa.ArrowException:
        return pa.nulls(len(array), kind)


def _retire(root: Path, wanted: set[Path], grace_seconds: float) -> tuple[int, int]:
    """Note which files nothing shows any more, and remove those that readers have had time to leave."""
    retired = removed = 0
    moment = now().timestamp()
    for path in root.glob("data/*/*.parquet"):
        since = path.stat().st_mtime
        if path in wanted:
            if since:
                os.utime(path, (0, 0))
        elif not since:
            os.utime(path, (moment, moment))
            retired += 1
        elif since < moment - grace_seconds:
            remove_with_sidecar(path)
            removed += 1
    return retired, removed
