"""The plan of an archive: which import jobs it takes, as shards.

Belongs here: making a plan of a look, keeping its shards. Does not belong here: the choice of folders (`packing`), what
a plan costs (`estimate`), and importing.

A plan covers what the look has and no shard holds yet: new keys, and keys whose content changed. Shards that are there
stay as they are, so no object ever moves from one shard to another. A folder that was planned to be used in place and
has changed since is copied instead, unless its shard has started: an import job takes all that lies below its prefix.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import chunked

from ahi.archive import archives, inventory, shards
from ahi.archive.choices import Screen
from ahi.archive.keys import KNOWN, Keys, Totals, open_keys
from ahi.archive.packing import Limits, Packer, Shard
from ahi.archive.screening import Sample, sample, screen
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog_archives as c
from ahi.index.catalog_archives import ShardState

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from ahi.archive.archives import Archive
    from ahi.archive.inventory import Look
    from ahi.pipeline import Pipeline

SHARDS_PER_FILE = 200
"""Shards whose objects one manifest names: a few files for a million objects, and a footer that is read at once."""


MOST_PARTITIONS = 100_000
"""Partitions that Dagster takes of one asset: shards of all archives together."""


class OutdatedPlanError(Exception):
    """Another plan of the archive was kept while this one was made; plan again."""


@dataclass(frozen=True)
class PlannedShard:
    """One shard of a plan: an import job."""

    shard_key: str
    number: int
    n_objects: int
    n_bytes: int
    in_place_prefix: str | None


@dataclass(frozen=True)
class Plan:
    """What an import of the archive, or of the rest of it, would be."""

    archive: Archive
    look: Look
    limits: Limits
    shards: tuple[PlannedShard, ...]
    set_aside: dict[str, Totals]
    """By reason."""
    known: Totals
    """In shards of earlier plans."""
    n_folders: int
    """Folders that hold objects of this plan."""
    n_headers_read: int
    series: Sample
    is_kept: bool

    @property
    def n_objects(self) -> int:
        """Objects that its shards import."""
        return sum(shard.n_objects for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Their size."""
        return sum(shard.n_bytes for shard in self.shards)

    @property
    def copied(self) -> Totals:
        """What is packed by server-side copies."""
        packed = [shard for shard in self.shards if shard.in_place_prefix is None]
        return Totals(sum(shard.n_objects for shard in packed), sum(shard.n_bytes for shard in packed))


def make_plan(
    pipeline: Pipeline, archive: Archive, *, keep: bool, screening: Screen = Screen.DOUBTFUL, sampling: bool = True
) -> Plan:
    """Plan what no shard of the archive holds yet.

    Args:
        pipeline: The pipeline.
        archive: An archive that was looked at.
        keep: Make its shards, which can be started then; else it is a dry run and changes nothing.
        screening: Which headers are read to set non-DICOM aside.
        sampling: Read some headers to estimate how many image sets there will be.

    Raises:
        PermanentError: There was no complete look at the archive.
        OutdatedPlanError: Another plan was kept meanwhile. Nothing of this one is.
        PermanentError: Its shards and those of all archives would be more than Dagster takes.
    """
    of = inventory.newest(pipeline, archive)
    if of is None:
        raise PermanentError(f"Nobody has looked at {archive.archive_id} yet: materialize archive_inventory")
    settings = pipeline.settings
    # By the quota, whatever rate is set: that is a brake for today, and what is packed is packed for good.
    limits = Limits(
        settings.max_files_per_job,
        settings.max_bytes_per_job,
        settings.job_starts_per_second,
        settings.copies_per_second,
    )
    before = _before(pipeline, archive)
    left = MOST_PARTITIONS - before.n_shards
    # Archives grow, hour by hour: the less room is left, the more folders share a job.
    most_shards = max(1, min(settings.archive_max_shards, left // 2))
    with open_keys(pipeline, of, before.manifests) as keys:
        n_read = screen(pipeline, archive.bucket, keys, screening)
        new = keys.totals().get(None, Totals(0, 0))
        limits = limits.within(most_shards, new.n_objects, new.n_bytes)
        packer = Packer(
            limits, lambda folder: keys.cut(folder, limits), root=archive.prefix, watched=before.unstarted_folders
        )
        planned, n_folders = _pack(archive, keys, packer, before.last_number)
        totals = keys.totals()
        series = sample(pipeline, archive.bucket, keys) if sampling else Sample(0, 0)
        plan = Plan(
            archive,
            of,
            limits,
            tuple(planned),
            {str(reason): some for reason, some in totals.items() if reason not in (None, KNOWN)},
            totals.get(KNOWN, Totals(0, 0)),
            n_folders,
            n_read,
            series,
            is_kept=keep,
        )
        if keep:
            if len(planned) > left:
                raise PermanentError(
                    f"Its {len(planned):,} shards and {before.n_shards:,} of all archives are more partitions than "
                    f"Dagster takes, {MOST_PARTITIONS:,}: `ahi archive remove` an archive that is done"
                )
            _keep(pipeline, plan, keys, before, packer.grown)
    return plan


@dataclass(frozen=True)
class _Before:
    """What earlier plans made of the archive."""

    last_number: int
    manifests: list[str]
    unstarted_folders: dict[str, int]
    """Folders that planned shards use in place, with the number of their objects."""
    n_shards: int
    """Of all archives."""


def _before(pipeline: Pipeline, archive: Archive) -> _Before:
    table = c.archive_shards
    mine = table.c.archive_id == archive.archive_id
    unstarted = sa.and_(mine, table.c.state == ShardState.PLANNED, table.c.in_place_prefix.is_not(None))
    with pipeline.index.snapshot() as connection:
        last = archives.last_number(connection, archive.archive_id)
        whole = sa.select(table.c.manifest_key).where(mine).distinct()
        manifests = sorted(connection.execute(whole).scalars())
        folders = connection.execute(sa.select(table.c.in_place_prefix, table.c.n_objects).where(unstarted)).all()
        n_shards = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    return _Before(last, manifests, {str(folder): int(n) for folder, n in folders}, n_shards)


def _pack(archive: Archive, keys: Keys, packer: Packer, last: int) -> tuple[list[PlannedShard], int]:
    """Shards of all folders; which keys are whose is set down beside the keys."""
    planned, n_folders, path = list[PlannedShard](), 0, None

    def numbered() -> Iterator[tuple[int, Any]]:
        nonlocal n_folders, path
        for number, shard in enumerate(packer.pack(keys.folders()), last + 1):
            planned.append(_planned(archive, number, shard))
            for piece in shard.pieces:
                # Pieces of one folder follow each other.
                n_folders, path = n_folders + (piece.path != path), piece.path
                yield number, piece

    keys.assign(numbered())
    return planned, n_folders


def _planned(archive: Archive, number: int, shard: Shard) -> PlannedShard:
    shard_key = f"{archive.archive_id}-{number:05d}"
    return PlannedShard(shard_key, number, shard.n_objects, shard.n_bytes, shard.prefix)


def _keep(pipeline: Pipeline, plan: Plan, keys: Keys, before: _Before, grown: set[str]) -> None:
    """Write the manifests, then make all shards true in one transaction."""
    plan_id = uuid.uuid4().hex
    folder = f"{plan.archive.folder}plans/{plan_id}/"
    places = _write_manifests(pipeline, plan, keys, folder)
    aside_key = f"{folder}set_aside.parquet"
    pipeline.aws.s3.upload_file(str(keys.write_set_aside()), pipeline.settings.lake_bucket, aside_key)
    archive_id, moment = plan.archive.archive_id, now()
    rows = [
        {
            **vars(shard),
            "archive_id": archive_id,
            "generation": plan.look.generation,
            "state": ShardState.PLANNED,
            "manifest_key": place[0],
            "row_group": place[1],
            "planned_at": moment,
            "attempts": 0,
        }
        for shard, place in zip(plan.shards, places, strict=True)
    ]
    table, looked = c.archive_shards, {"archive_id": archive_id, "generation": plan.look.generation}
    with pipeline.index.transaction() as connection:
        if archives.last_number(connection, archive_id) != before.last_number:
            raise OutdatedPlanError(f"Another plan of {archive_id} was kept meanwhile: plan again")
        for some in chunked(rows, 1_000):
            connection.execute(table.insert(), some)
        for prefixes in chunked(sorted(grown), 500):
            changed = (table.c.state == ShardState.PLANNED, table.c.in_place_prefix.in_(prefixes))
            mine = table.update().where(
                table.c.archive_id == archive_id, *changed, table.c.number <= before.last_number
            )
            connection.execute(mine.values(in_place_prefix=None))
        aside = c.archive_set_aside
        connection.execute(aside.delete().where(*(aside.c[name] == value for name, value in looked.items())))
        for reason, some_ in plan.set_aside.items():
            counts = {"reason_code": reason, "n_objects": some_.n_objects, "n_bytes": some_.n_bytes}
            connection.execute(aside.insert().values(**looked, **counts, object_key=aside_key))
        of = c.archives.update().where(c.archives.c.archive_id == archive_id)
        connection.execute(of.values(planned_generation=plan.look.generation, last_planned_at=moment))


def _write_manifests(pipeline: Pipeline, plan: Plan, keys: Keys, folder: str) -> list[tuple[str, int]]:
    """Name every shard's objects in the lake. Returns the manifest and row group of each shard, in order."""
    import pyarrow.parquet as pq

    places: list[tuple[str, int]] = []
    objects = _objects_by_shard(plan, keys)
    for number, some in enumerate(chunked(plan.shards, SHARDS_PER_FILE)):
        path, key = keys.folder / "manifest.parquet", f"{folder}{number:05d}.parquet"
        with pq.ParquetWriter(path, shards.schema(), compression="zstd") as writer:
            for row_group, shard in enumerate(some):
                rows = next(objects)
                if rows.num_rows != shard.n_objects:
                    raise RuntimeError(
                        f"{shard.shard_key} was planned with {shard.n_objects} objects, not {rows.num_rows}"
                    )
                writer.write_table(rows, row_group_size=max(1, rows.num_rows))
                places.append((key, row_group))
        pipeline.aws.s3.upload_file(str(path), pipeline.settings.lake_bucket, key)
    return places


def _objects_by_shard(plan: Plan, keys: Keys) -> Iterator[pa.Table]:
    """Objects of each shard in the columns of a manifest, one shard after the other."""
    import pyarrow as pa
    import pyarrow.compute as pc

    held: list[pa.Table] = []
    current: int | None = None

    def whole() -> pa.Table:
        rows = pa.concat_tables(held)
        bucket = pa.repeat(plan.archive.bucket, rows.num_rows)
        columns: dict[str, Any] = {"bucket": bucket} | {name: rows[name] for name in rows.column_names[1:]}
        return pa.table(columns).cast(shards.schema())

    for batch in keys.assigned():
        rows = pa.Table.from_batches([batch])
        while rows.num_rows:
            number = rows["number"][0].as_py()
            if current not in (None, number):
                yield whole()
                held = []
            current = number
            # Ordered by shard: the rows of this one are the first.
            count = rows.filter(pc.field("number") == number).num_rows
            held.append(rows.slice(0, count))
            rows = rows.slice(count)
    if held:
        yield whole()


def shard_keys(pipeline: Pipeline, archive: Archive) -> list[str]:
    """Keys of all shards of an archive, in order: its partitions."""
    table = c.archive_shards
    query = sa.select(table.c.shard_key).where(table.c.archive_id == archive.archive_id).order_by(table.c.shard_key)
    with pipeline.index.engine.connect() as connection:
        return list(connection.execute(query).scalars())
