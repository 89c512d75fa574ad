"""What a finished job wrote to S3: its manifest and its FAILURE lines.

Belongs here: reading both, in every form they were seen in (developer guide, "Import job manifest file"; live uses).
Does not belong here: what follows from them (`ahi.healthlake.results`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from botocore.exceptions import ClientError

from ahi.aws import GONE, error_code
from ahi.healthlake.diagnostics import template
from ahi.healthlake.failures import Failure, Stage
from ahi.healthlake.lines import split_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ahi.pipeline import Pipeline

NAMES = ("Manifest.json", "manifest.json")
"""Live uses found the first, documents write the second."""

FIRST_SERVER_ERROR = 500
CHUNK = 2**20
TRACKED = frozenset({"Endpoint", "ImagingStudy", "Patient"})
# The sample in the guide has a key without quotes.
_BARE = re.compile(rb"([{,]\s*)(UpdateResourceResponse)\s*:")


@dataclass(frozen=True)
class Manifest:
    """Counts of a job. None: the manifest does not say."""

    scanned: int | None
    imported: int | None
    customer_errors: int | None
    server_errors: int | None

    @property
    def failed(self) -> int:
        """Resources that are not in."""
        return (self.customer_errors or 0) + (self.server_errors or 0)

    @property
    def adds_up(self) -> bool:
        """Whether every resource that was read went in or failed."""
        return self.scanned is not None and self.scanned == (self.imported or 0) + self.failed


@dataclass(frozen=True)
class FailureLine:
    """One line of FAILURE."""

    file: str
    """Name of the file that HealthLake read, below the batch's prefix."""
    line_id: int | None
    resource_type: str
    resource_id: str | None
    status: int
    diagnostic: str


@dataclass
class Failed:
    """What a job's FAILURE files tell, in bounded memory."""

    rows: list[Failure] = field(default_factory=list)
    """The first of them."""
    rest: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How many more, by stage, type and diagnostic."""
    by_stage: Counter[str] = field(default_factory=Counter)
    """Resources by who failed on them; a line that does not say which resource it means counts as one."""
    told: set[int] = field(default_factory=set)
    """Hashes of the references of those of which it is known which they are."""
    tracked: dict[str, bool] = field(default_factory=dict)
    """References of types that `ahi.healthlake.sent` keeps, with whether HealthLake itself failed on it."""
    n_unreadable: int = 0

    @property
    def n_lines(self) -> int:
        """Lines that could be read, of those about one resource the first alone."""
        return self.by_stage.total()

    def add(self, one: Failure, limit: int) -> None:
        """Count a line."""
        reference = f"{one.resource_type}/{one.resource_id}" if one.resource_type and one.resource_id else ""
        if reference and hash(reference) in self.told:
            return
        self.by_stage[one.stage] += 1
        if reference:
            self.told.add(hash(reference))
        if one.resource_type in TRACKED and reference:
            self.tracked[reference] = one.stage == Stage.SERVER
        if reference and len(self.rows) < limit:
            self.rows.append(one)
        else:
            self.rest[one.stage, one.resource_type, one.diagnostic] += 1


def read_manifest(pipeline: Pipeline, folder: str) -> Manifest | None:
    """The manifest in a job's folder; None when there is none (yet), or it cannot be read."""
    for name in NAMES:
        body = _body(pipeline, folder + name)
        if body is None:
            continue
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return Manifest(
                _int(found.get("numberOfResourcesScanned")),
                _int(found.get("numberOfResourcesImportedSuccessfully")),
                _int(found.get("numberOfResourcesWithCustomerError")),
                _int(found.get("numberOfResourcesWithServerError")),
            )
    return None


def read_failures(pipeline: Pipeline, folder: str, prefix_uri: str, *, limit: int) -> Failed:
    """Every line below FAILURE, one file at a time.

    Args:
        pipeline: Of the deployment.
        folder: The job's own folder.
        prefix_uri: What HealthLake read: what a line does not say itself is read from the line that was sent.
        limit: Lines to keep as they are; the rest is counted.
    """
    found = Failed()
    bucket, _, prefix = f"{folder}FAILURE/".removeprefix("s3://").partition("/")
    for page in pipeline.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            file, lines = entry["Key"].removeprefix(prefix), list[FailureLine]()
            for line in _stream(pipeline, f"s3://{bucket}/{entry['Key']}"):
                if line is not None and not line.strip():
                    continue
                parsed = parse_failure(line, file) if line else None
                if parsed is None:
                    found.n_unreadable += 1
                else:
                    lines.append(parsed)
            for one in _placed(pipeline, f"{prefix_uri}{file}", lines):
                found.add(one, limit)
    return found


def parse_failure(line: bytes, file: str) -> FailureLine | None:
    """One line of FAILURE; None when it cannot be read. The OperationOutcome may be an object or a text."""
    try:
        value = orjson.loads(_BARE.sub(rb'\1"\2":', line))
        response = value.get("UpdateResourceResponse") or {}
        blob = response.get("jsonBlob") or {}
        blob = orjson.loads(blob) if isinstance(blob, str) else blob
        issues = [one for one in blob.get("issue") or () if isinstance(one, dict)]
        errors = [one for one in issues if one.get("severity") in ("error", "fatal")] or issues
        texts = dict.fromkeys(template(str(one.get("diagnostics") or one.get("code") or "")) for one in errors)
        status, number = _int(response.get("statusCode")), _int(value.get("lineId"))
        kind, name = value.get("resourceType"), value.get("resourceId")
    except (orjson.JSONDecodeError, AttributeError, TypeError):
        return None
    why = "; ".join(text for text in texts if text) or "HealthLake does not say why"
    return FailureLine(file, number, str(kind or ""), str(name) if name else None, status or 400, why)


def _placed(pipeline: Pipeline, uri: str, lines: Sequence[FailureLine]) -> Iterator[Failure]:
    """Failures of one file by type, id and line. The file that was sent is read once, and not kept."""
    if not lines:
        return
    named = {f"{line.resource_type}/{line.resource_id}" for line in lines}
    numbers = {line.line_id - base for line in lines if line.line_id is not None for base in (0, 1)}
    first, at = dict[str, int](), dict[int, str]()
    n = -1
    for n, reference in enumerate(_references(pipeline, uri)):
        if reference in named:
            first.setdefault(reference, n)
        if n in numbers:
            at[n] = reference
    base = _base(at, lines, n + 1)
    file = lines[0].file
    part = int(file[:5]) if file[:5].isdigit() else None
    for line in lines:
        kind, name = line.resource_type, line.resource_id
        place: int | None = None if line.line_id is None or base is None else line.line_id - base
        place = place if place in at else None
        if place is not None and not (kind and name):
            kind, _, name = at[place].partition("/")
        elif kind and name and (place is None or at[place] != f"{kind}/{name}"):
            # The id counts before the number.
            place = first.get(f"{kind}/{name}")
        stage = Stage.SERVER if line.status >= FIRST_SERVER_ERROR else Stage.IMPORT
        yield Failure(stage, kind, name, line.diagnostic, part, None if place is None else place + 1)


def _base(at: Mapping[int, str], lines: Sequence[FailureLine], n_sent: int) -> int | None:
    """Whether lines count from 0 or 1, which is not documented: what fits more lines that name their resource.

    Args:
        at: What stands in the file at the places, from 0, that lines may mean.
        lines: Lines of FAILURE.
        n_sent: Lines of the file that was sent.

    Returns:
        None when nothing tells: a guess would call the resource beside the failed one failed, and that one current.
    """
    fits = [0, 0]
    for line in lines:
        if line.line_id is None or not (line.resource_type and line.resource_id):
            continue
        for base in (0, 1):
            fits[base] += at.get(line.line_id - base) == f"{line.resource_type}/{line.resource_id}"
    if fits[0] != fits[1]:
        return 0 if fits[0] > fits[1] else 1
    # Nothing fits: only a first line 0 tells, or a last one with the number of lines.
    numbers = {line.line_id for line in lines}
    if (0 in numbers) == (n_sent in numbers):
        return None
    return 0 if 0 in numbers else 1


def _references(pipeline: Pipeline, uri: str) -> Iterator[str]:
    """`Type/id` of each line of a frozen file; nothing when it is gone."""
    for line in _stream(pipeline, uri):
        if line:
            content: dict[str, Any] = orjson.loads(line)
            yield f"{content['resourceType']}/{content['id']}"


def _stream(pipeline: Pipeline, uri: str) -> Iterator[bytes | None]:
    """Lines of an object, without their line feed, None for one that nobody could hold; none if there is no object."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        body = pipeline.aws.s3.get_object(Bucket=bucket, Key=key)["Body"]
    except ClientError as error:
        if error_code(error) in GONE:
            return
        raise
    with Path(os.devnull).open("wb") as nowhere:
        yield from split_lines(body.iter_chunks(CHUNK), nowhere)


def _body(pipeline: Pipeline, uri: str) -> bytes | None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        body: bytes = pipeline.aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error_code(error) in GONE:
            return None
        raise
    return body


def _int(value: object) -> int | None:
    return int(str(value)) if value is not None and str(value).isdigit() else None
