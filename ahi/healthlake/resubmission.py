"""Failed lines again: taken out as they were sent, and sent corrected, linked to the batch they failed in.

Belongs here: finding the bytes of a failed line, matching corrected lines to failed ones, the batch of them. Does not
belong here: which lines failed (`ahi.healthlake.failures`).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import deque
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import sqlalchemy as sa
from botocore.exceptions import ClientError
from more_itertools import chunked

from ahi.aws import GONE, error_code
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.fhir.healthlake import ACCEPTED_TYPES
from ahi.fhir.validate import payload
from ahi.healthlake import sent
from ahi.healthlake.failures import Stage
from ahi.healthlake.freeze import prefix_of, refused_key
from ahi.healthlake.lines import split_lines
from ahi.healthlake.output import CHUNK
from ahi.healthlake.plan import Part, SourceFile, add_batch
from ahi.index.catalog_fhir import fhir_batches, fhir_failures, fhir_files, fhir_imports

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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
    wanted: dict[str, list[tuple[int, FailedLine]]] = {}
    for row in rows:
        if row["resubmitted_in"] or row["resolved_at"]:
            continue
        own = row["stage"] == Stage.VALIDATION
        key = refused_key(batch_id, row["part"]) if own else f"{prefix_of(batch_id)}{row['part']:05d}.ndjson"
        # A file of refused lines holds these alone, in their order.
        place = by_part[row["part"]].index(row["line"]) if own else row["line"] - 1
        reference = f"{row['resource_type']}/{row['resource_id']}" if row["resource_id"] else ""
        what = (row["failure_id"], row["stage"], row["part"], row["line"], reference, row["diagnostic"])
        wanted.setdefault(key, []).append((place, FailedLine(*what, b"")))
    bodies = {key: _lines(pipeline, key, {place for place, _ in lines}) for key, lines in wanted.items()}
    found = [replace(line, body=bodies[key][place]) for key, lines in wanted.items() for place, line in lines]
    return sorted(found, key=lambda line: (line.part, line.line))


def _lines(pipeline: Pipeline, key: str, places: Collection[int]) -> dict[int, bytes]:
    """Some lines of a file of the lake, by their places from 0; only these are kept."""
    try:
        body = pipeline.aws.s3.get_object(Bucket=pipeline.settings.lake_bucket, Key=key)["Body"]
    except ClientError as error:
        if error_code(error) not in GONE:
            raise
        raise PermanentError(
            f"{key} is gone: lines are kept as long as the rule of the lake bucket for fhir/ says, those of the index "
            "AHI_ERASE_AFTER_DAYS. Import the corrected lines as files of their own: `ahi fhir import`."
        ) from None
    with Path(os.devnull).open("wb") as nowhere:
        # Whoever asks for a line gets it, however long it is.
        lines = islice(split_lines(body.iter_chunks(CHUNK), nowhere, longest=sys.maxsize), max(places) + 1)
        return {n: line for n, line in enumerate(lines) if n in places and line is not None}


def resubmit(pipeline: Pipeline, batch_id: str, corrected: bytes | None) -> str:
    """Plan a batch of corrected lines, next in the chain after the one they failed in. Returns its id.

    Args:
        pipeline: Of the deployment.
        batch_id: Batch in which the lines failed.
        corrected: NDJSON: failed lines that keep their type and id, and those without a legal id in the order in which
            `ahi fhir failures --export` gave them. None: the lines that HealthLake itself failed on, unchanged.

    Raises:
        PermanentError: Nothing of the batch has failed, or a line is none of those that did.
    """
    with pipeline.index.engine.connect() as connection:
        store = _store_of(connection, batch_id)
    if corrected is None:
        chosen = [(line, line.body) for line in failed_lines(pipeline, batch_id, Stage.SERVER)]
        if not chosen:
            raise PermanentError(f"HealthLake itself failed on no line of {batch_id}; give a file of corrected lines.")
    else:
        chosen = _matched(failed_lines(pipeline, batch_id), [one for one in corrected.split(b"\n") if one.strip()])
    with pipeline.index.engine.connect() as connection:
        old = sent.superseded(connection, store, batch_id, {line.reference for line, _ in chosen if line.reference})
    chosen = [(line, body) for line, body in chosen if line.reference not in old]
    if not chosen:
        raise PermanentError(f"A later batch has what failed in {batch_id}, in a newer state: nothing is to be sent.")
    body = b"".join(line.rstrip(b"\r") + b"\n" for _, line in chosen)
    key = f"fhir/corrected/{batch_id}/{hashlib.sha256(body).hexdigest()[:16]}.ndjson"
    file = put_source(pipeline, key, body)
    with pipeline.index.transaction() as connection:
        if sent.superseded(connection, store, batch_id, {line.reference for line, _ in chosen if line.reference}):
            raise PermanentError("A newer state of these lines was planned just now: run the command again.")
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
        bodies = ((_reference(one), hashlib.sha256(payload(one)).hexdigest()) for _, one in chosen)
        sent.carry(connection, store, new, {reference: digest for reference, digest in bodies if reference})
    return new


def _store_of(connection: sa.Connection, batch_id: str) -> str:
    """HealthLake data store of a batch. Raises PermanentError when there is no such batch."""
    query = sa.select(fhir_imports.c.datastore_id).join(
        fhir_batches, fhir_batches.c.import_id == fhir_imports.c.import_id
    )
    found: str | None = connection.execute(query.where(fhir_batches.c.batch_id == batch_id)).scalar_one_or_none()
    if found is None:
        raise PermanentError(f"There is no batch {batch_id}: see `ahi fhir status`.")
    return found


def _matched(failed: Sequence[FailedLine], corrected: Sequence[bytes]) -> list[tuple[FailedLine, bytes]]:
    """Corrected lines with the failed ones that they stand for.

    Type and id tell; of a type that HealthLake does not take, the id alone. Only lines without a legal id are told by
    their order, and then all of them must be there.
    """
    if not failed:
        raise PermanentError("No failed line of this batch is open: see `ahi fhir failures`.")
    by_name: dict[str, deque[FailedLine]] = {}
    for line in failed:
        kind, _, name = line.reference.partition("/")
        if name:
            by_name.setdefault(line.reference if kind in ACCEPTED_TYPES else name, deque()).append(line)
    nameless = deque(line for line in failed if not line.reference)
    chosen, rest = list[tuple[FailedLine, bytes]](), list[tuple[int, bytes]]()
    for number, body in enumerate(corrected, 1):
        reference = _reference(body)
        own = by_name.get(reference) or by_name.get(reference.partition("/")[2])
        if own:
            chosen.append((own.popleft(), body))
        else:
            rest.append((number, body))
    if rest and len(rest) != len(nameless):
        raise PermanentError(
            f"Line {rest[0][0]} is none of the {len(failed)} failed lines: keep type and id. {len(nameless)} of them "
            "have no legal id: give all of these in the order of `ahi fhir failures --export`, or none."
        )
    return [*chosen, *((nameless.popleft(), body) for _, body in rest)]


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
