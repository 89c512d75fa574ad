"""What a finished job wrote to S3: its manifest and its FAILURE lines.

Belongs here: reading both, in every form they were seen in (developer guide, "Import job manifest file"; live uses).
Does not belong here: what follows from them (`ahi.healthlake.results`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from botocore.exceptions import ClientError

from ahi.aws import GONE, error_code
from ahi.healthlake.diagnostics import template
from ahi.healthlake.failures import Failure, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ahi.pipeline import Pipeline

NAMES = ("Manifest.json", "manifest.json")
"""Live uses found the first, documents write the second."""

FIRST_SERVER_ERROR = 500
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


def failure_lines(pipeline: Pipeline, folder: str) -> tuple[list[FailureLine], int]:
    """Every line below FAILURE, and how many could not be read."""
    found, unreadable = list[FailureLine](), 0
    bucket, _, prefix = f"{folder}FAILURE/".removeprefix("s3://").partition("/")
    for page in pipeline.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            body = pipeline.aws.s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            for line in body.split(b"\n"):
                if not line.strip():
                    continue
                parsed = parse_failure(line, entry["Key"].removeprefix(prefix))
                if parsed is None:
                    unreadable += 1
                else:
                    found.append(parsed)
    return found, unreadable


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


def failures_of(pipeline: Pipeline, prefix_uri: str, lines: Sequence[FailureLine]) -> list[Failure]:
    """Failures by type and id. What a line does not say itself is read from the line that was sent."""
    found = []
    by_file: dict[str, list[FailureLine]] = {}
    for line in lines:
        by_file.setdefault(line.file, []).append(line)
    for file, own in by_file.items():
        sent = list(_references(pipeline, f"{prefix_uri}{file}"))
        base = _base(sent, own)
        part = int(file[:5]) if file[:5].isdigit() else None
        for line in own:
            kind, name, number = line.resource_type, line.resource_id, None
            if line.line_id is not None and 0 <= line.line_id - base < len(sent):
                number = line.line_id - base + 1
            if number and not (kind and name):
                kind, _, name = sent[number - 1].partition("/")
            elif kind and name and (number is None or sent[number - 1] != f"{kind}/{name}"):
                # The id counts before the number.
                number = sent.index(f"{kind}/{name}") + 1 if f"{kind}/{name}" in sent else None
            stage = Stage.SERVER if line.status >= FIRST_SERVER_ERROR else Stage.IMPORT
            found.append(Failure(stage, kind, name, line.diagnostic, part, number))
    return found


def _base(sent: Sequence[str], lines: Sequence[FailureLine]) -> int:
    """Whether lines count from 0 or 1, which is not documented: what fits more lines that name their resource."""
    fits = [0, 0]
    for line in lines:
        if line.line_id is None or not (line.resource_type and line.resource_id):
            continue
        for base in (0, 1):
            place = line.line_id - base
            fits[base] += 0 <= place < len(sent) and sent[place] == f"{line.resource_type}/{line.resource_id}"
    if fits[0] != fits[1]:
        return 0 if fits[0] > fits[1] else 1
    # Nothing tells: a line 0, or one past the last, does.
    return 0 if any(line.line_id == 0 for line in lines) else 1


def _references(pipeline: Pipeline, uri: str) -> Iterator[str]:
    """`Type/id` of each line of a frozen file."""
    for line in (_body(pipeline, uri) or b"").split(b"\n"):
        if line:
            content: dict[str, Any] = orjson.loads(line)
            yield f"{content['resourceType']}/{content['id']}"


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
