"""One index: a folder of Parquet files and a catalog. Belongs here: the calls that the rest of the pipeline makes.

Does not belong here: how each is done (`writer`, `commit`, `publish`, `compaction`, `query`).

    index = Index(settings.index_dir, settings.catalog)
    file = index.write("headers", rows, batch_id=batch_id)          # on disk, part of nothing yet
    with index.commit(batch_id=batch_id, kind="uploads", run_id=run_id, files=[file]) as commit:
        winners = commit.raise_headers(...)                         # and the ledger, on commit.connection
    index.publish()                                                 # what analysts open
"""

from __future__ import annotations

import datetime as dt
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.columnar import write_rows
from ahi.index.commit import AlreadyCommitted, AlreadyCommittedError, Commit, Head
from ahi.index.engine import create_tables, insert_many, open_engine, snapshot, write_transaction
from ahi.index.registry import SCHEMA_VERSION, TABLES
from ahi.index.writer import DataFile, IndexWriteError, sync_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ahi.index.columns import Table
    from ahi.index.compaction import CompactionResult, ExpiryResult
    from ahi.index.publish import Publication
    from ahi.index.query import QueryResult

__all__ = ["AlreadyCommitted", "AlreadyCommittedError", "Commit", "DataFile", "Head", "Index", "IndexWriteError"]


class Index:
    """One index. Making one is cheap, keeps no connection and may happen before a fork.

    Args:
        root: Folder of the index; made on first use. Analysts open `index.duckdb` in it.
        catalog_url: SQLAlchemy URL of its catalog; its tables are made on first use.
        tables: Parquet tables; the registry's, unless a test brings its own.
        compact_files: Small files of a table that trigger compaction; fewer of those of batches may.
        small_file_bytes: A file below this size is small.
        grace_seconds: How long files stay for readers of older publications. Longer than the longest write.
        datastore_id: Data store of rows whose image set is not known yet.
    """

    def __init__(
        self,
        root: Path,
        catalog_url: str,
        *,
        tables: Mapping[str, Table] | None = None,
        compact_files: int = 24,
        small_file_bytes: int = 16 * 2**20,
        grace_seconds: float = 3_600.0,
        datastore_id: str = "",
    ) -> None:
        self.root = root.resolve()
        self.tables = dict(TABLES if tables is None else tables)
        self.compact_files = compact_files
        self.small_file_bytes = small_file_bytes
        self.grace_seconds = grace_seconds
        self.datastore_id = datastore_id
        self.engine = open_engine(catalog_url)
        self.root.mkdir(parents=True, exist_ok=True)
        create_tables(self.engine, self.root)

    @property
    def path(self) -> Path:
        """The published file, which analysts open read-only."""
        return self.root / "index.duckdb"

    def write(self, table: str, rows: Sequence[Mapping[str, object]], *, batch_id: str) -> DataFile | None:
        """Write rows of a table to one file, which a commit syncs; see `ahi.index.columnar.write_rows`."""
        return write_rows(self.root, self.tables[table], rows, batch_id=batch_id)

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """A short write transaction, alone in the catalog. It has no number: analysts see it after the next commit."""
        return write_transaction(self.engine)

    def snapshot(self) -> AbstractContextManager[sa.Connection]:
        """A read transaction in which every statement sees the same commit."""
        return snapshot(self.engine)

    @contextmanager
    def commit(
        self,
        *,
        kind: str,
        batch_id: str | None = None,
        run_id: str | None = None,
        files: Sequence[DataFile | None] = (),
    ) -> Iterator[Commit]:
        """Open the one transaction that makes a batch true; it commits at the end of the block.

        Args:
            kind: What sort of batch it is.
            batch_id: Its id; a batch is committed once. None: a change that no batch stands behind.
            run_id: Dagster run.
            files: What `write` gave for this batch; None is passed over.

        Raises:
            AlreadyCommitted: A commit of the batch is there. Nothing else was looked at.
            ValueError: A file was written for another batch; its rows could never be replaced.
        """
        batch_id = batch_id or f"{kind}:{uuid.uuid4().hex}"
        present = [file for file in files if file is not None]
        # Before the transaction: the lock is held for the catalog's own rows only.
        sync_files(self.root, [file.path for file in present])
        with self.transaction() as connection:
            before = connection.execute(_BEFORE, {"batch": batch_id}).one()
            if before.seq is not None:
                raise AlreadyCommittedError(batch_id)
            if strays := [file.path for file in present if file.batch_id != batch_id]:
                raise ValueError(f"Written for another batch than {batch_id}: {', '.join(strays)}")
            committed_at = _next_time(before.last_time)
            wrote = tuple(sorted({file.table_name for file in present}))
            row = {
                "batch_id": batch_id,
                "kind": kind,
                "run_id": run_id,
                "committed_at": committed_at,
                "tables": ",".join(wrote),
                "n_rows": sum(file.n_rows for file in present),
                "n_files": len(present),
                "schema_version": SCHEMA_VERSION,
            }
            key = connection.execute(c.commits.insert(), row).inserted_primary_key
            assert key is not None
            seq = int(key[0])
            insert_many(connection, c.files, [file_row(file, seq, seq, seq) for file in present])
            image_set_tables = tuple(t.name for t in self.tables.values() if t.row_key == "image_set_id")
            commit = Commit(connection, seq, batch_id, committed_at, image_set_tables, wrote)
            yield commit
            commit.close()

    def publish(self) -> Publication:
        """Show analysts everything committed so far; see `ahi.index.publish.publish`."""
        from ahi.index.publish import publish

        return publish(self)

    def compact(self) -> CompactionResult:
        """Merge small files; see `ahi.index.compaction.compact`."""
        from ahi.index.compaction import compact

        return compact(self)

    def compact_batches(self) -> CompactionResult:
        """Merge what commits wrote lately, if it is much; see `ahi.index.compaction.compact_batches`."""
        from ahi.index.compaction import compact_batches

        return compact_batches(self)

    def expire(self) -> ExpiryResult:
        """Remove files that nothing needs; see `ahi.index.compaction.expire`."""
        from ahi.index.compaction import expire

        return expire(self)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> QueryResult:
        """Ask the published index; see `ahi.index.query.query`."""
        from ahi.index.query import query

        return query(self.path, sql, parameters)


_LAST = sa.select(c.commits.c.committed_at).order_by(c.commits.c.seq.desc()).limit(1)
_BEFORE = sa.select(
    sa.select(c.commits.c.seq).where(c.commits.c.batch_id == sa.bindparam("batch")).scalar_subquery().label("seq"),
    _LAST.scalar_subquery().label("last_time"),
)


def _next_time(last: dt.datetime | None) -> dt.datetime:
    """Time of a new commit: now, or just after the last commit where the clock has gone back since."""
    return max(now(), last + dt.timedelta(microseconds=1)) if last else now()


def file_row(file: DataFile, first_seq: int, last_seq: int, live_seq: int) -> dict[str, object]:
    """Row of the catalog for a file that becomes live with commit `live_seq`."""
    return {
        "path": file.path,
        "table_name": file.table_name,
        "n_rows": file.n_rows,
        "n_bytes": file.n_bytes,
        "sha256": file.sha256,
        "schema_hash": file.schema_hash,
        "first_seq": first_seq,
        "last_seq": last_seq,
        "live_seq": live_seq,
        "empty_columns": None if file.empty is None else ",".join(sorted(file.empty)),
    }
