"""Upkeep of the mirrored tables' files. Belongs here: folding slices into the base, by DuckDB in bounded memory.

Does not belong here: writing slices (`mirror`), merging the files of Parquet tables (`compaction`).

It works beside publications and reads files only, never the catalog's tables: publishers may add slices meanwhile, and
those are newer than all that is folded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.mirror import SLICES, is_slice, mirror_files, newest_select
from ahi.index.parquet import spilling
from ahi.index.sql import text
from ahi.index.writer import DataFile, copied_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.index.mirror import Mirror
    from ahi.index.store import Index

File = sa.Row[Any]
# Slices are borne beside the base while they are below this part of it, so a row is written again O(log) often.
SLICE_SHARE = 0.1
# More slices than this become one.
MAX_SLICES = 8


def fold(index: Index, mirror: Mirror, *, whole: bool = False) -> tuple[list[File], list[DataFile]]:
    """Fold the slices of a mirror into its base, or into one slice while they are few rows beside it.

    Call it under the lock of compaction. Only the parts of the base that the slices touch are written again.

    Args:
        index: The index.
        mirror: The table.
        whole: Fold however few they are, so that no file has an older state of a row.

    Returns:
        Files that were retired, and files that took their place; nothing when it was not worth it.
    """
    with index.snapshot() as connection:
        live = list(
            connection.execute(
                sa.select(c.files)
                .where(c.files.c.table_name == mirror.name, c.files.c.retired_seq.is_(None))
                .order_by(c.files.c.first_seq)
            )
        )
    slices = [row for row in live if is_slice(row)]
    if not slices:
        return [], []
    touched = _touched(index, mirror, slices)
    base = [row for row in live if not is_slice(row) and _part(row) in touched]
    if whole or sum(row.n_rows for row in slices) > SLICE_SHARE * sum(row.n_rows for row in base):
        old, new = [*base, *slices], _rebase(index, mirror, base, slices, touched)
        first = 0
    elif len(slices) > MAX_SLICES:
        old, new = slices, _copy(index, mirror, newest_select(index, mirror, slices), SLICES)
        first = slices[0].first_seq
    else:
        return [], []
    _swap(index, old, new, first, max(row.last_seq for row in slices))
    return old, new


def _part(row: File) -> str:
    """Part of the base that a file holds, which is its folder."""
    return str(row.path).split("/")[2]


def _touched(index: Index, mirror: Mirror, slices: Sequence[File]) -> list[str]:
    with spilling(index.root) as connection:
        sql = f"SELECT DISTINCT {mirror.part} AS part FROM ({mirror_files(index, mirror, slices)}) ORDER BY part"
        return [str(row[0]) for row in connection.execute(sql).fetchall()]


def _rebase(
    index: Index, mirror: Mirror, base: Sequence[File], slices: Sequence[File], touched: Sequence[str]
) -> list[DataFile]:
    new: list[DataFile] = []
    for part in touched:
        rows = newest_select(index, mirror, [*(row for row in base if _part(row) == part), *slices])
        new += _copy(index, mirror, f"SELECT * FROM ({rows}) WHERE {mirror.part} = {text(part)}", part)
    return new


def _copy(index: Index, mirror: Mirror, select: str, folder: str) -> list[DataFile]:
    with spilling(index.root) as connection:
        file = copied_file(
            connection,
            index.root,
            f"{mirror.name}/{folder}",
            select,
            table=mirror.name,
            columns=mirror.columns,
        )
    return [file] if file else []


def _swap(index: Index, old: Sequence[File], new: Sequence[DataFile], first_seq: int, last_seq: int) -> None:
    from ahi.index.store import file_row

    with index.commit(kind="fold") as commit:
        retired = commit.connection.execute(
            c.files.update()
            .where(c.files.c.path.in_([row.path for row in old]), c.files.c.retired_seq.is_(None))
            .values(retired_seq=commit.seq, retired_at=now())
        )
        if retired.rowcount != len(old):
            raise RuntimeError("Files were retired while they were merged: compact in one place only.")
        if new:
            commit.connection.execute(
                c.files.insert(), [file_row(file, first_seq, last_seq, commit.seq) for file in new]
            )
