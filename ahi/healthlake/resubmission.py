"""Failed lines again: taken out as they were sent, and sent corrected, linked to the batch they failed in.

Belongs here: finding the bytes of a failed line, matching corrected lines to failed ones, the batch of them. Does not
belong here: which lines failed (`ahi.healthlake.failures`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import sqlalchemy as sa
from more_itertools import chunked

from ahi.clock import now
from ahi.errors import PermanentError
from ahi.healthlake.failures import Stage
from ahi.healthlake.freeze import prefix_of, refused_key
from ahi.healthlake.plan import Part, SourceFile, add_batch
from ahi.index.catalog_fhir import fhir_batches, fhir_failures, fhir_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.pipeline import Pipeline


@dataclass(frozen=True)
class FailedLine:
    """A line that did not go in, with its bytes."""

    failure_id: str
    stage: str
    part: int
    line: int
    reference: str
    diagnostic: str
    body: bytes


def failed_lines(pipeline: Pipeline, batch_id: str, *stages: Stage) -> list[FailedLine]:
    """Failed lines of a batch that are neither resubmitted nor resolved, by part and line, byte for byte.

    Lines past the limit of rows (`AHI_FHIR_FAILURE_ROWS`) are counted and not listed; their bytes lie in the lake.
    """
    table = fhir_failures
    query = sa.select(table).where(table.c.batch_id == batch_id, table.c.line.is_not(None))
    if stages:
        query = query.where(table.c.stage.in_(stages))
    with pipeline.index.engine.connect() as connection:
        rows = connection.execute(query.order_by(table.c.part, table.c.line)).mappings().all()
        refused = sa.select(table.c.part, table.c.line).where(table.c.batch_id == batch_id)
        refused = refused.where(table.c.stage == Stage.VALIDATION, table.c.line.is_not(None))
        by_part: dict[int, list[int]] = {}
        for part, line in connection.execute(refused.order_by(table.c.part, table.c.line)):
            by_part.setdefault(part, []).append(line)
    files: dict[str, list[bytes]] = {}
    found = []
    for row in rows:
        if row["resubmitted_in"] or row["resolved_at"]:
            continue
        own = row["stage"] == Stage.VALIDATION
        key = refused_key(batch_id, row["part"]) if own else f"{prefix_of(batch_id)}{row['part']:05d}.ndjson"
        if key not in files:
            files[key] = _lines(pipeline, key)
        # A file of refused lines holds these alone, in their order.
        place = by_part[row["part"]].index(row["line"]) if own else row["line"] - 1
        reference = f"{row['resource_type']}/{row['resource_id']}" if row["resource_id"] else ""
        what = (row["failure_id"], row["stage"], row["part"], row["line"], reference, row["diagnostic"])
        found.append(FailedLine(*what, files[key][place]))
    return found


def _lines(pipeline: Pipeline, key: str) -> list[bytes]:
    body: bytes = pipeline.aws.s3.get_object(Bucket=pipeline.settings.lake_bucket, Key=key)["Body"].read()
    return body.split(b"\n")


def resubmit(pipeline: Pipeline, batch_id: str, corrected: bytes | None) -> str:
    """Plan a batch of corrected lines, next in the chain after the one they failed in. Returns its id.

    Args:
        pipeline: Of the deployment.
        batch_id: Batch in which the lines failed.
        corrected: NDJSON: all failed lines in their order as `ahi fhir failures --export` gave them, or some of them
            that keep their type and id. None: the lines that HealthLake itself failed on, unchanged.

    Raises:
        PermanentError: Nothing of the batch has failed, or a line is none of those that did.
    """
    if corrected is None:
        chosen = [(line, line.body) for line in failed_lines(pipeline, batch_id, Stage.SERVER)]
        if not chosen:
            raise PermanentError(f"HealthLake itself failed on no line of {batch_id}; give a file of corrected lines.")
    else:
        chosen = _matched(failed_lines(pipeline, batch_id), [one for one in corrected.split(b"\n") if one.strip()])
    body = b"".join(line.rstrip(b"\r") + b"\n" for _, line in chosen)
    key = f"fhir/corrected/{batch_id}/{hashlib.sha256(body).hexdigest()[:16]}.ndjson"
    file = put_source(pipeline, key, body)
    with pipeline.index.transaction() as connection:
        parent = connection.execute(sa.select(fhir_batches).where(fhir_batches.c.batch_id == batch_id)).mappings().one()
        if connection.execute(sa.select(fhir_files.c.file_id).where(fhir_files.c.file_id == file.file_id)).first():
            raise PermanentError("These very lines are on their way already: see `ahi fhir status`.")
        enter_source(connection, parent["import_id"], file)
        # "Fix batch 3 before batch 4 overwrites it": the corrected lines go before what has not been started.
        part = [Part(file, 0, file.size_bytes)]
        new = add_batch(
            connection,
            parent["import_id"],
            part,
            number=next_number(connection, parent["import_id"]),
            priority=parent["priority"],
            position=_place_after(connection, parent),
            received_at=parent["received_at"],
            parent_batch_id=batch_id,
        )
        for some in chunked([line.failure_id for line, _ in chosen], 300):
            where = fhir_failures.c.failure_id.in_(some)
            connection.execute(fhir_failures.update().where(where).values(resubmitted_in=new))
    return new


def _matched(failed: Sequence[FailedLine], corrected: Sequence[bytes]) -> list[tuple[FailedLine, bytes]]:
    if not failed:
        raise PermanentError("No failed line of this batch is open: see `ahi fhir failures`.")
    if len(failed) == len(corrected):
        return list(zip(failed, corrected, strict=True))
    by_reference = {line.reference: line for line in failed if line.reference}
    chosen = []
    for number, body in enumerate(corrected, 1):
        reference = _reference(body)
        if reference not in by_reference:
            raise PermanentError(
                f"Line {number} is none of the {len(failed)} failed lines: keep type and id, or give all of them back "
                "in the order in which `ahi fhir failures --export` gave them."
            )
        chosen.append((by_reference.pop(reference), body))
    return chosen


def _reference(body: bytes) -> str:
    try:
        content = orjson.loads(body)
        return f"{content['resourceType']}/{content['id']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def _place_after(connection: sa.Connection, parent: sa.RowMapping) -> float:
    """A place between a batch, with what corrects it already, and the next."""
    table, place = fhir_batches, float(parent["position"])
    query = sa.select(table.c.position, table.c.parent_batch_id).where(table.c.import_id == parent["import_id"])
    following = connection.execute(query.where(table.c.position > place).order_by(table.c.position)).all()
    for row in following:
        if row.parent_batch_id != parent["batch_id"]:
            return (place + float(row.position)) / 2
        place = float(row.position)
    return place + 1.0


def next_number(connection: sa.Connection, import_id: str) -> int:
    """Number of the next batch of a chain."""
    query = sa.select(sa.func.count()).where(fhir_batches.c.import_id == import_id)
    return int(connection.execute(query).scalar_one()) + 1


def put_source(pipeline: Pipeline, key: str, body: bytes) -> SourceFile:
    """Write lines of our own making to the lake, as a source at an exact version."""
    bucket = pipeline.settings.lake_bucket
    answer = pipeline.aws.s3.put_object(Bucket=bucket, Key=key, Body=body)
    version = answer.get("VersionId")
    kept = version if version and version != "null" else None
    return SourceFile(bucket, key, kept, answer["ETag"].strip('"'), len(body), now())


def enter_source(connection: sa.Connection, import_id: str, file: SourceFile) -> None:
    """Enter a source of our own making as a file of a chain."""
    row = {**vars(file), "file_id": file.file_id, "import_id": import_id, "planned_at": now()}
    connection.execute(fhir_files.insert().values(row))
