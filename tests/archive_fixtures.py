"""Archives for tests: a bucket with samples in it, planned into shards as asked.

Belongs here: making and importing them. Does not belong here: Dagster, and how an archive is planned.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.archive import imports
from ahi.archive.shards import ArchiveObject, write_manifest
from ahi.clock import now
from ahi.index import catalog_archives as c
from ahi.index.catalog_archives import ShardState, Source
from ahi.pipeline import connect
from tests.site_fixtures import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ahi.archive.imports import Outcome
    from tests.site_fixtures import Site


def bucket_with(site: Site, objects: Mapping[str, bytes]) -> str:
    """A bucket of its own that holds these objects."""
    s3, bucket = site.stack.client("s3"), f"archive-{uuid.uuid4().hex[:10]}"
    s3.create_bucket(Bucket=bucket)
    for key, body in objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    return bucket


def samples(names: Sequence[str]) -> dict[str, bytes]:
    """Samples by key, each folder of samples a folder of the archive."""
    return {name: (SAMPLES / name).read_bytes() for name in names}


def planned(
    site: Site, shards: Sequence[Mapping[str, bytes]], *, in_place: Sequence[str | None] = (), archive_id: str = "old"
) -> list[str]:
    """An archive with these shards, ready to be imported. Returns their keys."""
    bucket = bucket_with(site, {key: body for shard in shards for key, body in shard.items()})
    s3, moment = site.stack.client("s3"), now()
    lists = []
    for shard in shards:
        heads = {key: s3.head_object(Bucket=bucket, Key=key) for key in sorted(shard)}
        lists.append(
            [
                ArchiveObject(bucket, key, None, head["ETag"].strip('"'), head["ContentLength"], head["LastModified"])
                for key, head in heads.items()
            ]
        )
    manifest = f"archives/{archive_id}/shards/1.parquet"
    write_manifest(site.pipeline, manifest, lists)
    keys = [f"{archive_id}-{number:05d}" for number in range(1, len(shards) + 1)]
    archive = {"archive_id": archive_id, "uri": f"s3://{bucket}/", "bucket": bucket, "prefix": "", "created_at": moment}
    common = {"archive_id": archive_id, "generation": 1, "state": ShardState.PLANNED, "manifest_key": manifest}
    rows = [
        common
        | {"shard_key": key, "number": n + 1, "row_group": n, "n_objects": len(objects), "planned_at": moment}
        | {"n_bytes": sum(item.size_bytes for item in objects), "in_place_prefix": in_place[n] if in_place else None}
        for n, (key, objects) in enumerate(zip(keys, lists, strict=True))
    ]
    with site.pipeline.index.transaction() as connection:
        connection.execute(c.archives.insert().values(source=Source.LISTING, **archive))
        connection.execute(c.archive_shards.insert(), rows)
    return keys


class Backfill:
    """A run of shards in a thread, as the asset makes it, while the site does the work of the live path."""

    def __init__(self, site: Site, shard_keys: Sequence[str], run_id: str = "backfill") -> None:
        self.site, self.outcomes, self.error = site, [], None
        self._keys, self._run_id = list(shard_keys), run_id
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            imports.run(connect(self.site.settings, run_id=self._run_id), self._keys, self.outcomes.append)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            self.error: Exception | None = error

    def finish(self, *, seconds: float = 60.0) -> dict[str, Outcome]:
        """Work until the run has ended; then bring everything to rest. Returns outcomes by shard."""

        def over() -> bool:
            self.site.collect()
            self.site.work()
            return not self.thread.is_alive()

        self.site.stack.wait_for(over, seconds=seconds, what="the run of shards")
        if self.error:
            raise self.error
        return {outcome.shard_key: outcome for outcome in self.outcomes}


def shard_rows(site: Site) -> list[dict[str, Any]]:
    """Every shard as the catalog has it."""
    with site.pipeline.index.engine.connect() as connection:
        query = sa.select(c.archive_shards).order_by(c.archive_shards.c.shard_key)
        return [dict(row) for row in connection.execute(query).mappings()]
