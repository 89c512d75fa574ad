"""Archives for tests: a bucket with objects in it, planned into shards as asked.

Belongs here: making and importing them. Does not belong here: Dagster, and how an archive is planned.
"""

from __future__ import annotations

import io
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pydicom
import sqlalchemy as sa

from ahi.archive import control, imports
from ahi.archive.archives import find
from ahi.archive.shards import ArchiveObject, write_manifest
from ahi.clock import now
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog_archives import ShardState, Source
from ahi.pipeline import connect
from tests.site_fixtures import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ahi.archive.imports import Outcome
    from ahi.pipeline import Pipeline
    from tests.site_fixtures import Site

ROOT = "1.2.826.0.1.3680043.8.498."
QUICK = {"archive_poll_seconds": 0.05, "archive_lease_seconds": 5}
"""Settings of a site whose runs of shards look round often."""
IN_SERIES, SERIES_IN_STUDY, MAKERS = 50, 2, ("AlphaMed", "BetaScan", "GammaCT ")


def samples(names: Sequence[str]) -> dict[str, bytes]:
    """Samples by key, each folder of samples a folder of the archive."""
    return {name: (SAMPLES / name).read_bytes() for name in names}


def small_objects(count: int, *, bad_every: int = 0) -> dict[str, bytes]:
    """Small CT images in series of 50, every so-manieth of them bad: no DICOM, cut off, or without identity."""
    dataset = pydicom.dcmread(SAMPLES / "pydicom" / "CT_small.dcm")
    for keyword in [e.keyword for e in dataset if e.tag.group not in (0x8, 0x20, 0x28)]:
        if keyword not in ("PatientID", "PatientName", "PixelData", ""):
            delattr(dataset, keyword)
    dataset.remove_private_tags()
    dataset.Rows = dataset.Columns = 4
    dataset.PixelData = bytes(32)
    dataset.Manufacturer = "M" * 8
    marks = {kind: ROOT + str(kind) * 30 for kind in (7, 8, 9)}
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = marks[7], marks[8]
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = marks[9]
    dataset.save_as(body := io.BytesIO())
    template, found = body.getvalue(), {}
    for number in range(count):
        series = number // IN_SERIES
        study = series // SERIES_IN_STUDY
        one = template.replace(b"M" * 8, MAKERS[study % len(MAKERS)].encode())
        for kind, value in ((7, study), (8, series), (9, number)):
            one = one.replace(marks[kind].encode(), f"{ROOT}{kind}{value:029d}".encode())
        if bad_every and number % bad_every == bad_every - 1:
            one = (b"no DICOM", one[:300], one.replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x19\x00UI"))[
                number // bad_every % 3
            ]
        found[f"study-{study:05d}/series-{series:05d}/{number:07d}.dcm"] = one
    return found


def planned(
    pipeline: Pipeline,
    shards: Sequence[Mapping[str, bytes]],
    *,
    in_place: Sequence[str | None] = (),
    archive_id: str = "old",
) -> list[str]:
    """An archive with these shards in a bucket of its own, ready to be imported. Returns their keys."""
    s3, bucket, moment = pipeline.aws.s3, f"archive-{uuid.uuid4().hex[:10]}", now()
    s3.create_bucket(Bucket=bucket)

    def put(item: tuple[str, bytes]) -> ArchiveObject:
        answer = s3.put_object(Bucket=bucket, Key=item[0], Body=item[1])
        return ArchiveObject(bucket, item[0], None, answer["ETag"].strip('"'), len(item[1]), moment)

    with ThreadPoolExecutor(8) as pool:
        lists = [list(pool.map(put, sorted(shard.items()))) for shard in shards]
    manifest = f"archives/{archive_id}/shards/1.parquet"
    write_manifest(pipeline, manifest, lists)
    keys = [f"{archive_id}-{number:05d}" for number in range(1, len(shards) + 1)]
    archive = {"archive_id": archive_id, "uri": f"s3://{bucket}/", "bucket": bucket, "prefix": "", "created_at": moment}
    common = {"archive_id": archive_id, "generation": 1, "state": ShardState.PLANNED, "manifest_key": manifest}
    rows = [
        common
        | {"shard_key": key, "number": n + 1, "row_group": n, "n_objects": len(objects), "planned_at": moment}
        | {"n_bytes": sum(item.size_bytes for item in objects), "in_place_prefix": in_place[n] if in_place else None}
        for n, (key, objects) in enumerate(zip(keys, lists, strict=True))
    ]
    with pipeline.index.transaction() as connection:
        connection.execute(c.archives.insert().values(source=Source.LISTING, **archive))
        connection.execute(c.archive_shards.insert(), rows)
    return keys


def planned_without(site: Site, objects: Mapping[str, bytes], gone: str) -> list[str]:
    """An archive of one shard of which one object was deleted since. Returns the shard's key."""
    keys = planned(site.pipeline, [objects])
    site.pipeline.aws.s3.delete_object(Bucket=find(site.pipeline, "old").bucket, Key=gone)
    return keys


def fail_jobs_with(site: Site, objects: Mapping[str, bytes], keys: Sequence[str]) -> None:
    """Let every import job fail that has one of some objects in it."""
    for key in keys:
        uid = pydicom.dcmread(io.BytesIO(objects[key])).SOPInstanceUID
        site.stack.fault("fail_job", times=None, holding=str(uid), message="DICOM import job has failed.")


class Backfill:
    """A run of shards in a thread, as the asset makes it, while the site does the work of the live path."""

    def __init__(
        self, site: Site, shard_keys: Sequence[str], run_id: str = "backfill", *, pipeline: Pipeline | None = None
    ) -> None:
        self.site, self.outcomes = site, list[Any]()
        self.error: Exception | None = None
        self._keys, self._pipeline = list(shard_keys), pipeline or connect(site.settings, run_id=run_id)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            imports.run(self._pipeline, self._keys, self.outcomes.append)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            self.error = error

    def told(self) -> list[str]:
        """Work once. Returns the shards that are done so far."""
        self.site.collect()
        self.site.work()
        return [outcome.shard_key for outcome in self.outcomes]

    def finish(self, *, seconds: float = 60.0) -> dict[str, Outcome]:
        """Work until the run has ended. Returns outcomes by shard."""

        def over() -> bool:
            self.told()
            return not self.thread.is_alive()

        self.site.stack.wait_for(over, seconds=seconds, what="the run of shards")
        if self.error:
            raise self.error
        return {outcome.shard_key: outcome for outcome in self.outcomes}


def hold_back(pipeline: Pipeline, archive_id: str) -> None:
    """Let no job of an archive start for hours."""
    control.set_rate(pipeline.index, archive_id, 0.0001)
    spent = catalog.pacing.insert().values(bucket=f"archive:{archive_id}:start", tokens=0.0, updated_at=now())
    with pipeline.index.transaction() as connection:
        connection.execute(spent)


def shard_rows(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Every shard as the catalog has it."""
    with pipeline.index.engine.connect() as connection:
        query = sa.select(c.archive_shards).order_by(c.archive_shards.c.shard_key)
        return [dict(row) for row in connection.execute(query).mappings()]
