"""A chain of its own on the session's embedded AWS: sources put, events taken, steps made as runs make them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi import inbox
from ahi.healthlake import events, results
from ahi.healthlake.advance import Progress, advance
from ahi.healthlake.plan import Planned, Terms, plan_import
from ahi.healthlake.starts import next_job
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_fhir import fhir_batches
from ahi.pipeline import Pipeline, connect
from ahi.settings import Settings
from dagster_project.demo_fhir import get
from tests.conftest import AwsStack


def patient(name: str, **more: Any) -> bytes:
    return json.dumps({"resourceType": "Patient", "id": name, **more}).encode()


def lines(*resources: bytes) -> bytes:
    return b"".join(line + b"\n" for line in resources)


@dataclass
class Chain:
    """One deployment with a HealthLake data store of its own."""

    stack: AwsStack
    pipeline: Pipeline
    datastore_id: str
    bucket: str
    progress: list[Progress] = field(default_factory=list)

    def put(self, key: str, body: bytes) -> None:
        self.stack.client("s3").put_object(Bucket=self.bucket, Key=key, Body=body)

    def put_each(self, *files: bytes) -> str:
        """Put files under a prefix that nothing else is under, which is returned."""
        prefix = f"{uuid.uuid4().hex[:8]}/"
        for number, body in enumerate(files, 1):
            self.put(f"{prefix}{number}.ndjson", body)
        return prefix

    def plan(self, prefix: str = "history/", **terms: Any) -> Planned:
        return plan_import(self.pipeline, f"s3://{self.bucket}/{prefix}", Terms(**terms))

    def take_events(self) -> int:
        """One tick of the sensor and the runs it asks for."""
        inbox.collect(self.pipeline, Queue.HEALTHLAKE_EVENTS, listen_seconds=0)
        pending = inbox.pending(self.pipeline, Queue.HEALTHLAKE_EVENTS)
        for batch in pending:
            results.follow(self.pipeline, events.open_batch(self.pipeline, batch).import_jobs)
            inbox.finish(self.pipeline, batch)
        return len(pending)

    def step(self, *, patience: float = 0.0) -> Progress:
        self.take_events()
        done = advance(self.pipeline, patience_seconds=patience)
        self.progress.append(done)
        return done

    def jobs(self, of: Planned | None = None) -> list[dict[str, Any]]:
        query = sa.select(catalog.jobs).where(catalog.jobs.c.service == "healthlake")
        return self.rows(query.where(catalog.jobs.c.job_key.startswith(of.import_id if of else "")))

    def batches(self, of: Planned | None = None) -> list[dict[str, Any]]:
        query = sa.select(fhir_batches).order_by(fhir_batches.c.batch_id)
        return self.rows(query.where(fhir_batches.c.batch_id.startswith(of.import_id if of else "")))

    def rows(self, query: Any) -> list[dict[str, Any]]:
        with self.pipeline.index.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def drive(self, *, seconds: float = 60.0) -> None:
        """Step until nothing of a chain that is not stopped is open."""

        def at_rest() -> bool:
            done = self.step(patience=0.5)
            open_ = any(job["state"] not in (JobState.SETTLED, JobState.PLANNED) for job in self.jobs())
            return not (open_ or self.rows(next_job()) or done.frozen or done.started or done.settled)

        self.stack.wait_for(at_rest, seconds=seconds, what="the end of the chain")

    def all_jobs(self) -> list[dict[str, Any]]:
        """Every import job that HealthLake knows of this data store, whoever started it."""
        lake, found, more = self.stack.client("healthlake"), [], {}
        while True:
            page = lake.list_fhir_import_jobs(DatastoreId=self.datastore_id, MaxResults=100, **more)
            found += page["ImportJobPropertiesList"]
            if not page.get("NextToken"):
                return found
            more = {"NextToken": page["NextToken"]}

    def starts(self, of: Planned | None = None) -> list[str]:
        """Names of the jobs that HealthLake started, in order."""
        names = [job["JobName"] for job in sorted(self.all_jobs(), key=lambda job: job["SubmitTime"])]
        return [name for name in names if name.startswith(of.import_id if of else "")]

    def get(self, path: str) -> dict[str, Any]:
        """A read or a search over FHIR REST."""
        return get(self.stack.env | {"AHI_FHIR_DATASTORE_ID": self.datastore_id}, path)


def deploy(stack: AwsStack, home: Path, patch: pytest.MonkeyPatch, **overrides: Any) -> Chain:
    """Make a deployment with a data store and a bucket of its own."""
    name = f"chain-{uuid.uuid4().hex[:8]}"
    lake = stack.client("healthlake")
    store = lake.create_fhir_datastore(DatastoreName=name, DatastoreTypeVersion="R4")["DatastoreId"]
    s3 = stack.client("s3")
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    quick = {"linger_seconds": 0, "claim_seconds": 1, "failed_job_seconds": 1, "fhir_look_seconds": 3_600}
    quick |= {"fhir_starts_per_second": 1_000, "fhir_slot_scope": "datastore", "fhir_datastore_id": store}
    for variable, value in stack.env.items():
        patch.setenv(variable, value)
    for option, value in (quick | overrides).items():
        patch.setenv(f"AHI_{option.upper()}", str(value))
    patch.setenv("AHI_HOME", str(home / name))
    return Chain(stack, connect(Settings(), run_id=f"run-{name}"), store, name)


@contextmanager
def deployments(stack: AwsStack, home: Path) -> Iterator[Callable[..., Chain]]:
    """Makes deployments. An account has few data stores, so theirs are deleted in the end."""
    made = list[Chain]()

    def make(**overrides: Any) -> Chain:
        stack.reset()
        made.append(deploy(stack, home, patch, **overrides))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        yield make
    stack.reset()
    for chain in made:
        # One that a job still works on stays.
        with suppress(ClientError):
            stack.client("healthlake").delete_fhir_datastore(DatastoreId=chain.datastore_id)


@pytest.fixture
def make_chain(ahead_stack: AwsStack, tmp_path: Path) -> Iterator[Callable[..., Chain]]:
    """Makes deployments of a test's own."""
    with deployments(ahead_stack, tmp_path) as make:
        yield make


@pytest.fixture
def chain(make_chain: Callable[..., Chain]) -> Chain:
    """One deployment."""
    return make_chain()


@pytest.fixture(scope="module")
def shared_deployment(ahead_stack: AwsStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One deployment for the tests of a module: each looks at its own imports only."""
    with deployments(ahead_stack, tmp_path_factory.mktemp("chain")) as make:
        yield make()


@pytest.fixture
def shared(shared_deployment: Chain) -> Chain:
    """The same, without the faults and calls of the test before."""
    shared_deployment.stack.reset()
    return shared_deployment
