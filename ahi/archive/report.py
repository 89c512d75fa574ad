"""The end of an archive's import: does every study close, and what is missing.

Belongs here: counting each study in six places that know it by different ways, and naming what did not get through.
Does not belong here: where an import stands while it runs (`ahi.archive.progress`).

The six: what the look at the archive saw; what went into a job; what the jobs' summaries say; what their success and
failure lines say; the instances of the image sets; the rows of the index. The first two come from the ledger, the next
two are read again from the jobs' own files, the fifth from HealthImaging's documents, the last from the tables.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi import chain, results
from ahi.errors import PermanentError
from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import JobState, ObjectState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ahi.pipeline import Pipeline

SOME = 500


@dataclass(frozen=True)
class Study:
    """One study of an archive, counted six times."""

    study_uid: str | None
    """None: objects whose header gave none."""
    inventory: int
    staged: int
    job_summary: int
    success_lines: int
    failure_lines: int
    image_set_instances: int
    index_rows: int
    imported: int
    """SOP instances of the study that the ledger has as imported, by this archive or by another way."""
    set_down: int
    """Objects that went into no job, or came out of none, each with its reason."""

    @property
    def open(self) -> str:
        """Which of the counts do not agree; empty when all do."""
        pairs = {
            "inventory and ledger": (self.inventory, self.staged + self.set_down),
            "staged and lines": (self.staged, self.success_lines + self.failure_lines),
            "success lines and job summaries": (self.success_lines, self.job_summary),
            "imported and image sets": (self.imported, self.image_set_instances),
            "image sets and index": (self.image_set_instances, self.index_rows),
        }
        return "; ".join(f"{what}: {one} and {other}" for what, (one, other) in pairs.items() if one != other)


@dataclass(frozen=True)
class Missing:
    """One object of an archive that cannot be queried."""

    study_uid: str | None
    series_uid: str | None
    sop_uid: str | None
    reason_code: str
    reason_text: str | None
    object_id: str
    bucket: str
    key: str
    corrected_by: str | None
    """Object that was sent as its corrected form and is in."""


def studies(pipeline: Pipeline, archive_id: str) -> list[Study]:
    """Every study of an archive, by UID. Reads the files of all its jobs again, a shard at a time.

    Raises:
        PermanentError: There is no such archive.
    """
    keys = _shards(pipeline, archive_id)
    counted: dict[str | None, Counter[str]] = {}
    sets: dict[str, str | None] = {}
    for key in keys:
        for study, name, number in _of_shard(pipeline, key, sets):
            counted.setdefault(study, Counter())[name] += number
    for study, name, number in _of_image_sets(pipeline, sets):
        counted.setdefault(study, Counter())[name] += number
    names = [name for name in Study.__dataclass_fields__ if name != "study_uid"]
    return [
        Study(study, **{name: numbers[name] for name in names})
        for study, numbers in sorted(counted.items(), key=lambda pair: pair[0] or "")
    ]


def missing(pipeline: Pipeline, archive_id: str) -> Iterator[Missing]:
    """Objects of an archive that failed, were set aside, or are not in the index, by shard."""
    table, other = catalog.objects, catalog.objects.alias("corrected")
    in_ = sa.and_(other.c.corrects_object_id == table.c.object_id, other.c.state == ObjectState.IMPORTED)
    columns = (
        *(table.c.StudyInstanceUID, table.c.SeriesInstanceUID, table.c.SOPInstanceUID, table.c.state),
        *(table.c.reason_code, table.c.reason_text, table.c.object_id, table.c.bucket, table.c.key),
    )
    out = sa.or_(
        table.c.state.in_((ObjectState.FAILED, ObjectState.SET_ASIDE)),
        sa.and_(table.c.state == ObjectState.IMPORTED, table.c.indexed_seq.is_(None)),
    )
    for shard_key in _shards(pipeline, archive_id):
        query = sa.select(*columns, other.c.object_id).select_from(table.outerjoin(other, in_))
        with pipeline.index.engine.connect() as connection:
            found = connection.execute(query.where(table.c.shard_key == shard_key, out).order_by(table.c.key)).all()
        for study, series, sop, state, code, text, object_id, bucket, key, corrected_by in found:
            why = code or ("NOT_INDEXED" if state == ObjectState.IMPORTED else state)
            yield Missing(study, series, sop, why, text, object_id, bucket, key, corrected_by)


def _shards(pipeline: Pipeline, archive_id: str) -> list[str]:
    with pipeline.index.engine.connect() as connection:
        if not connection.execute(sa.select(c.archives).where(c.archives.c.archive_id == archive_id)).first():
            raise PermanentError(f"No archive {archive_id}: `ahi archive list` names those there are")
        table = c.archive_shards
        query = sa.select(table.c.shard_key).where(table.c.archive_id == archive_id).order_by(table.c.number)
        return list(connection.execute(query).scalars())


def _of_shard(pipeline: Pipeline, shard_key: str, sets: dict[str, str | None]) -> Iterator[tuple[str | None, str, int]]:
    """Counts of one shard by study, by the ledger and by the files of its jobs; notes the image sets it went into."""
    table = catalog.objects
    names = ("StudyInstanceUID", "state", "job_key", "input_key", "image_set_id")
    with pipeline.index.engine.connect() as connection:
        query = sa.select(*(table.c[name] for name in names)).where(table.c.shard_key == shard_key)
        rows = connection.execute(query).all()
    by_job: dict[str, dict[str, str | None]] = {}
    for study, state, job_key, input_key, image_set_id in rows:
        yield study, "inventory", 1
        if job_key and input_key:
            by_job.setdefault(job_key, {})[input_key] = study
        if image_set_id and state == ObjectState.IMPORTED:
            sets[image_set_id] = study
    jobs = {job.job_key: job for job in chain.jobs(pipeline.index, SERVICE, catalog.jobs.c.shard_key == shard_key)}
    lines: set[str] = set()
    for job_key, of_input in by_job.items():
        job = jobs.get(job_key)
        if job is None or job.state != JobState.SETTLED:
            continue
        summary, found = results.output(pipeline, job)
        for input_key, result in found.items():
            if input_key in of_input:
                lines.add(input_key)
                yield of_input[input_key], "success_lines" if result.image_set_id else "failure_lines", 1
                yield of_input[input_key], "staged", 1
        yield from _of_summary(summary, found, of_input)
    for study, state, _, input_key, _ in rows:
        if input_key not in lines and state in (ObjectState.FAILED, ObjectState.SET_ASIDE):
            yield study, "set_down", 1


def _of_summary(
    summary: results.Summary, found: dict[str, results.FileResult], of_input: dict[str, str | None]
) -> Iterator[tuple[str | None, str, int]]:
    """What a job's summary says of each image set, as counts of the study that it holds."""
    study_of = {
        line.image_set_id: of_input[key] for key, line in found.items() if line.image_set_id and key in of_input
    }
    for item in summary.get("imageSetsSummary") or ():
        number = item.get("numberOfMatchedSOPInstances")
        if item.get("imageSetId") in study_of and isinstance(number, int):
            yield study_of[str(item["imageSetId"])], "job_summary", number


def _of_image_sets(pipeline: Pipeline, sets: dict[str, str | None]) -> Iterator[tuple[str | None, str, int]]:
    """Instances by HealthImaging's documents, by the index, and by the ledger as a whole."""
    heads, table = catalog.heads, catalog.objects
    for some in _chunks(sorted(sets)):
        with pipeline.index.engine.connect() as connection:
            live = sa.select(heads.c.image_set_id, heads.c.n_instances)
            live = live.where(heads.c.image_set_id.in_(some), heads.c.deleted_at.is_(None))
            for image_set_id, number in connection.execute(live):
                yield sets[image_set_id], "image_set_instances", number
            distinct = sa.select(table.c.image_set_id, sa.func.count(table.c.SOPInstanceUID.distinct()))
            imported = distinct.where(table.c.image_set_id.in_(some), table.c.state == ObjectState.IMPORTED)
            for image_set_id, number in connection.execute(imported.group_by(table.c.image_set_id)):
                yield sets[image_set_id], "imported", number
        wanted = ", ".join(f"'{one}'" for one in some if one.isalnum())
        sql = f"SELECT image_set_id, count(*) FROM instances_all WHERE image_set_id IN ({wanted}) GROUP BY ALL"
        for image_set_id, number in pipeline.index.query(sql).rows:
            yield sets[str(image_set_id)], "index_rows", int(str(number))


def _chunks(names: list[str]) -> Iterable[list[str]]:
    return (names[start : start + SOME] for start in range(0, len(names), SOME))
