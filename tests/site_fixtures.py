"""A site: one deployment of the pipeline on the session's embedded AWS, driven as the runs drive it.

Belongs here: sending, driving to rest, and the tables in a form in which two outcomes can be compared. Does not belong
here: Dagster; what it adds is tested beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from ahi import image_sets, imports, inbox, indexing, results, service_events, sweep, uploads
from ahi.closure import Closure, closure
from ahi.healthlake import events as healthlake_events
from ahi.healthlake import results as healthlake_results
from ahi.inbox import Batch, Queue
from ahi.index import catalog
from ahi.index.registry import TABLES
from ahi.pipeline import Pipeline, connect
from ahi.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = REPOSITORY / "samples" / "dicom"

SET = (
    *("pydicom/CT2/17106", "pydicom/CT2/17136", "pydicom/CT2/17166", "pydicom/CT2/17196"),
    *("pydicom/MR2/15970", "pydicom/MR2/4950", "pydicom/MR2/4981", "pydicom/MR700/4467"),
    *("pydicom/rtplan.dcm", "pydicom/reportsi.dcm", "pydicom/chrGreek.dcm", "highdicom/seg_image_ct_binary.dcm"),
    *("bad/picture.png", "bad/empty.dcm", "bad/missing_sop_uid.dcm", "bad/trunc_in_meta.dcm"),
)
"""Samples that trouble is tried on: several series, a few kinds, four of them bad."""

VOLATILE = {
    "object_id",
    "image_set_id",
    "frame_id",
    "batch_id",
    "indexed_at",
    "received_at",
    "landed_at",
    "dagster_run_id",
    "datastore_id",
    "source_version_id",
    "source_etag",
    "source_uri",
    "patient_key",
}


@dataclass
class Site:
    """One deployment."""

    stack: Any
    home: Path
    datastore_id: str
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this deployment is started with."""
        values = {f"AHI_{name.upper()}": str(value) for name, value in self.overrides.items()}
        return self.stack.env | {"AHI_HOME": str(self.home), "AHI_DATASTORE_ID": self.datastore_id} | values

    @property
    def settings(self) -> Settings:
        """Settings, quick where the service's own pace is not the matter."""
        return Settings()

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline of this process."""
        return connect(self.settings, run_id=f"run-{uuid.uuid4().hex[:8]}")

    def put(self, key: str, body: bytes) -> str | None:
        """Upload an object as a sender does; returns its version id."""
        answer = self.stack.client("s3").put_object(Bucket=self.stack.env["AHI_LANDING_BUCKET"], Key=key, Body=body)
        version: str | None = answer.get("VersionId")
        return version

    def send(self, names: Iterable[str] = SET, *, under: str = "in/") -> None:
        """Upload samples under a prefix."""
        for name in names:
            self.put(under + name, (SAMPLES / name).read_bytes())

    def collect(self) -> list[Batch]:
        """One tick of every sensor."""
        pipeline = self.pipeline
        found = [inbox.collect(pipeline, queue, listen_seconds=0) for queue in Queue]
        return [batch for batch in found if batch]

    def work(self) -> int:
        """One run for each pending batch, then what every sweep does. Returns how many batches there were."""
        pipeline, done = self.pipeline, 0
        for queue in Queue:
            for batch in inbox.pending(pipeline, queue):
                run_batch(pipeline, batch)
                done += 1
        results.settle_ended(pipeline, patience_seconds=1)
        imports.advance(pipeline)
        indexing.catch_up(pipeline)
        return done

    def drive(self, *, seconds: float = 60.0) -> Closure:
        """Collect and work until nothing is open any more, as sensors and runs do; then publish."""
        engine = self.pipeline.index.engine
        wait_for_rest = self.stack.wait_for

        def at_rest() -> bool:
            came = len(self.collect())
            return not (came + self.work()) and closure(engine).at_rest and not self._queued()

        wait_for_rest(at_rest, seconds=seconds, what="rest")
        self.pipeline.index.publish()
        return closure(engine)

    def _queued(self) -> bool:
        sqs = self.stack.client("sqs")
        for name in ("UPLOAD", "IMPORT", "IMAGE_SET", "HEALTHLAKE"):
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            url = self.stack.env[f"AHI_{name}_QUEUE_URL"]
            counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            if any(int(value) for value in counts.values()):
                return True
        return False

    def sweep(self) -> dict[str, int]:
        """A thorough sweep."""
        return dict(sweep.sweep(self.pipeline, thorough=True))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query on the published index."""
        return list(self.pipeline.index.query(sql).rows)

    def ledger(self) -> list[dict[str, Any]]:
        """Every row of the ledger."""
        with self.pipeline.index.engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.select(catalog.objects)).mappings()]

    def tables(self) -> dict[str, list[str]]:
        """Everything that two outcomes are compared by, without what differs from one calm run to the next."""
        views = ("patients", "studies", "series_all", "instances_all", *TABLES)
        # One look for all: opening the file costs more than most of its views.
        with duckdb.connect(str(self.pipeline.index.path), read_only=True) as connection:
            outcome = {view: _lasting(connection.execute(f'SELECT * FROM "{view}"')) for view in views}
        kept = ("key", "state", "reason_code", "SOPInstanceUID", "is_primary")
        outcome["objects"] = sorted(repr([row[name] for name in kept]) for row in self.ledger())
        return outcome

    def run(self, code: str, *, expect: int | None = None) -> int:
        """Run code in a process of its own, where `pipeline` is made; returns the exit status."""
        head = "from ahi.pipeline import connect\nfrom ahi.settings import Settings\npipeline = connect(Settings())\n"
        done = subprocess.run(
            [sys.executable, "-c", head + code], env=os.environ | self.environment, capture_output=True, check=False
        )
        if expect is not None:
            assert done.returncode == expect, done.stderr.decode()
        return done.returncode


def _lasting(result: duckdb.DuckDBPyConnection) -> list[str]:
    """Rows without the ids and times that a service hands out."""
    names = [str(column[0]) for column in result.description or ()]
    kept = [n for n, name in enumerate(names) if name not in VOLATILE and not name.endswith("_at")]
    return sorted(repr([row[n] for n in kept]) for row in result.fetchall())


def run_batch(pipeline: Pipeline, batch: Batch) -> None:
    """What the run of one batch does, asset by asset."""
    match batch.queue:
        case Queue.UPLOADS:
            uploads.process(pipeline, batch)
        case Queue.IMPORT_EVENTS:
            opened = service_events.open_batch(pipeline, batch)
            results.follow(pipeline, opened.import_jobs)
            results.settle_ended(pipeline, patience_seconds=1)
            inbox.finish(pipeline, batch)
        case Queue.HEALTHLAKE_EVENTS:
            _note_healthlake(pipeline, batch)
        case Queue.IMAGE_SET_EVENTS:
            opened = service_events.open_batch(pipeline, batch)
            image_sets.sight(pipeline, (event.image_set_id for event in opened.image_sets))
            indexing.catch_up(pipeline, [batch])


def _note_healthlake(pipeline: Pipeline, batch: Batch) -> None:
    healthlake_results.follow(pipeline, healthlake_events.open_batch(pipeline, batch).import_jobs)
    inbox.finish(pipeline, batch)


def clear_bucket(s3: Any, bucket: str) -> None:
    """Delete every object version of a bucket."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            s3.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])


@pytest.fixture
def make_site(
    aws_stack: Any, index_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Site]]:
    """Makes deployments one after the other: each with empty buckets and queues and a data store of its own."""
    imaging, s3 = aws_stack.client("medical-imaging"), aws_stack.client("s3")

    def make(**overrides: Any) -> Site:
        for name in ("LANDING", "LAKE", "STAGING"):
            clear_bucket(s3, aws_stack.env[f"AHI_{name}_BUCKET"])
        aws_stack.reset()
        name = f"site-{uuid.uuid4().hex[:8]}"
        datastore_id = imaging.create_datastore(datastoreName=name)["datastoreId"]
        aws_stack.wait_for(
            lambda: (
                imaging.get_datastore(datastoreId=datastore_id)["datastoreProperties"]["datastoreStatus"] == "ACTIVE"
            ),
            what="the data store",
        )
        # Its events are none of the test's.
        aws_stack.wait_for(
            lambda: any(m["detail-type"] == "Data Store Created" for m in aws_stack.drain("IMPORT")),
            what="the events of the data store",
        )
        quick = {
            "job_starts_per_second": 1_000,
            "linger_seconds": 0,
            "patient_key_secret": "test",
            "claim_seconds": 1,
            "retry_seconds": 0,
            "failed_job_seconds": 1,
            "image_set_looks_per_second": 1_000,
            "metadata_reads_per_second": 1_000,
            "association_prefix": "associations/",
        }
        site = Site(aws_stack, tmp_path / name, datastore_id, quick | overrides)
        (site.home / "index").mkdir(parents=True)
        shutil.copy(index_template, site.home / "index")
        for variable, value in site.environment.items():
            monkeypatch.setenv(variable, value)
        return site

    yield make
    aws_stack.reset()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """One deployment."""
    return make_site()
