"""One shard of an archive, counted from what planned it, from the ledger and from the files of its jobs.

Belongs here: a shard's objects by study, and those of it that cannot be queried. Does not belong here: image sets, the
index, and what is in no shard (`ahi.archive.report`).

Manifest, ledger and result files are read apart from each other and none is made from another here: what one has and
another lacks shows as counts that differ.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import chunked

from ahi import chain, ledger, results
from ahi.archive.shards import read_shard
from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.index.catalog import IN_FLIGHT, JobState, ObjectState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ahi.archive.shards import ArchiveObject
    from ahi.pipeline import Pipeline

NOT_ENTERED = "NOT_ENTERED"
"""Reason shown for an object of a started shard that no row of the ledger accounts for."""
NOT_INDEXED = "NOT_INDEXED"
"""Reason shown for an imported object that the index does not show."""

_NO = (ObjectState.FAILED, ObjectState.SET_ASIDE)
_COLUMNS = (
    *("object_id", "bucket", "key", "etag", "state", "reason_code", "reason_text", "indexed_seq", "erased_at"),
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "job_key", "input_key", "image_set_id"),
    "corrects_object_id",
)


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
    corrected_by: str | None = None
    """Object that was sent as its corrected form and is in."""


@dataclass
class ShardAccount:
    """What one shard comes to."""

    counts: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    """By study and what is counted, as `ahi.archive.report.Study` names it."""
    imported: list[tuple[str, str | None, str, str]] = field(default_factory=list)
    """Image set, study, SOP instance and object id of each object that the ledger has as imported."""
    missing: list[Missing] = field(default_factory=list)
    corrected: list[tuple[str, str]] = field(default_factory=list)
    """Object that failed, and the imported one that corrects it."""

    def add(self, study: str | None, *names: str, number: int = 1) -> None:
        """Count."""
        for name in names:
            self.counts[study, name] += number


@dataclass
class _Row:
    """An object of the ledger, and what the files of jobs say of it."""

    values: Mapping[str, Any]
    is_staged: bool
    has_line: bool = False

    @property
    def study(self) -> str | None:
        return self.values["StudyInstanceUID"]  # type: ignore[no-any-return]


def of_shard(pipeline: Pipeline, shard_key: str) -> ShardAccount:
    """Count a shard whose objects are in the ledger. Holds one shard in memory."""
    account, table = ShardAccount(), catalog.objects
    with pipeline.index.engine.connect() as connection:
        query = sa.select(*(table.c[name] for name in _COLUMNS)).where(table.c.shard_key == shard_key)
        rows = [_Row(dict(one), bool(one["job_key"])) for one in connection.execute(query).mappings()]
    _count_planned(pipeline, shard_key, rows, account)
    _count_lines(pipeline, shard_key, rows, account)
    for row in rows:
        _count_row(row, account)
    return account


def _count_planned(pipeline: Pipeline, shard_key: str, rows: list[_Row], account: ShardAccount) -> None:
    """Every object that the manifest names, by the study that its ledger row gives."""
    by_place = {(row.values["bucket"], row.values["key"], row.values["etag"]): row for row in rows}
    by_id = {row.values["object_id"]: row for row in rows}
    others: dict[str, ArchiveObject] = {}
    for item in read_shard(pipeline, shard_key):
        object_id = ledger.object_id_of(item.bucket, item.key, None, item.etag)
        # Of an erased object only the id is left.
        row = by_place.get((item.bucket, item.key, item.etag)) or by_id.get(object_id)
        if row is None:
            others[object_id] = item
        else:
            account.add(row.study, "inventory")
    elsewhere = dict(_elsewhere(pipeline, others))
    _count_known(pipeline, elsewhere.values(), account)
    nowhere = {object_id: item for object_id, item in others.items() if object_id not in elsewhere}
    account.add(None, "inventory", number=len(nowhere))
    account.missing += [
        Missing(None, None, None, NOT_ENTERED, "in no row of the ledger", object_id, item.bucket, item.key)
        for object_id, item in nowhere.items()
    ]


def _count_known(pipeline: Pipeline, found: Iterable[Mapping[str, Any]], account: ShardAccount) -> None:
    """What came by another way is held against its job's lines and the index as well."""
    by_job: defaultdict[str | None, list[Mapping[str, Any]]] = defaultdict(list)
    for values in found:
        study = values["StudyInstanceUID"]
        account.add(study, "inventory", "known")
        if values["state"] in IN_FLIGHT:
            account.add(study, "in_flight")
        elif values["state"] in _NO:
            account.missing.append(_missing(values))
        else:
            account.add(study, "known_imported")
            _count_imported(values, account)
            by_job[values["job_key"]].append(values)
    for some in chunked(sorted(filter(None, by_job)), 500):
        for job in chain.jobs(pipeline.index, SERVICE, catalog.jobs.c.job_key.in_(some)):
            _, lines = results.output(pipeline, job)
            for values in by_job[job.job_key]:
                line = lines.get(values["input_key"])
                # Of an erased object only the id is left.
                if values["erased_at"] or (line and line.image_set_id):
                    account.add(values["StudyInstanceUID"], "known_lines")


def _elsewhere(pipeline: Pipeline, items: Mapping[str, ArchiveObject]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those objects that something else than their shard entered into the ledger, with their rows there."""
    table, wanted = catalog.objects, sorted(items)
    columns = [table.c[name] for name in _COLUMNS]
    for start in range(0, len(wanted), 300):
        some = wanted[start : start + 300]
        places = {(items[one].bucket, items[one].key, items[one].etag): one for one in some}
        which = sa.or_(table.c.object_id.in_(some), table.c.key.in_([key for _, key, _ in places]))
        with pipeline.index.engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).where(which)).mappings().all()
        found: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            place = places.get((row["bucket"], row["key"], row["etag"]))
            if object_id := row["object_id"] if row["object_id"] in items else place:
                found[object_id] = dict(row)
        yield from found.items()


def _count_lines(pipeline: Pipeline, shard_key: str, rows: list[_Row], account: ShardAccount) -> None:
    """What the jobs of the shard say of each file, in lines and in summaries, read from their files again."""
    # A copy is named after its object, and what lies in place by its own key.
    by_name = {row.values["object_id"]: row for row in rows} | {row.values["key"]: row for row in rows}
    for job in chain.jobs(pipeline.index, SERVICE, catalog.jobs.c.shard_key == shard_key):
        if job.state != JobState.SETTLED or job.status == chain.WITHDRAWN:
            continue
        account.add(None, "staged", number=_unaccounted(pipeline, job, rows))
        summary, found = results.output(pipeline, job)
        erased = [row for row in rows if row.values["erased_at"] and row.values["job_key"] == job.job_key]
        study_of: dict[str | None, str | None] = {}
        for input_key, line in found.items():
            row = by_name.get(input_key if job.in_place else input_key.rpartition("-")[2])
            if row is None and erased and line.image_set_id:
                row = erased.pop()  # its key was erased with all that identifies it
            study = row.study if row else None
            if row and line.image_set_id is None and row.values["job_key"] not in (None, job.job_key):
                continue  # another job tried it again, and has its own line
            if row:
                # Without a job of its own: its folder was imported as it lies, and it lies there.
                row.has_line = row.is_staged = True
            study_of[line.image_set_id] = study
            account.add(study, "success_lines" if line.image_set_id else "failure_lines")
        for item in summary.get("imageSetsSummary") or ():
            number = item.get("numberOfMatchedSOPInstances")
            if item.get("imageSetId") in study_of and isinstance(number, int):
                account.add(study_of[item["imageSetId"]], "job_summary", number=number)


def _unaccounted(pipeline: Pipeline, job: chain.Job, rows: Iterable[_Row]) -> int:
    """Objects that a job was planned with and the ledger has neither in it nor, for all we know, in a later one."""
    jobs = catalog.jobs
    query = sa.select(jobs.c.n_failed, jobs.c.n_retried).where(jobs.c.job_key == job.job_key)
    with pipeline.index.engine.connect() as connection:
        n_failed, n_retried = (int(number or 0) for number in connection.execute(query).one())
    states = [row.values["state"] for row in rows if row.values["job_key"] == job.job_key]
    gone_on = n_retried + max(0, n_failed - states.count(ObjectState.FAILED))
    gap = job.n_objects - len(states)
    return -gap if gap < 0 else max(0, gap - gone_on)


def _count_row(row: _Row, account: ShardAccount) -> None:
    """What the ledger has of an object now."""
    values, study, state = row.values, row.study, row.values["state"]
    if row.is_staged:
        account.add(study, "staged")
    if state in IN_FLIGHT:
        account.add(study, "in_flight")
    elif state in _NO:
        if not row.is_staged:
            account.add(study, "set_down")
        elif not row.has_line:
            account.add(study, "without_line")
        account.missing.append(_missing(values))
    else:
        account.add(study, "imported")
        _count_imported(values, account)
        if values["corrects_object_id"]:
            account.corrected.append((values["corrects_object_id"], values["object_id"]))


def _count_imported(values: Mapping[str, Any], account: ShardAccount) -> None:
    """What the ledger has as imported, and whether it waits for the index."""
    # Of an erased object only the id is left.
    sop = values["SOPInstanceUID"] or values["object_id"]
    account.imported.append((values["image_set_id"], values["StudyInstanceUID"], sop, values["object_id"]))
    if values["indexed_seq"] is None and values["erased_at"] is None:
        account.missing.append(_missing(values))


def _missing(values: Mapping[str, Any]) -> Missing:
    why = values["reason_code"] or (NOT_INDEXED if values["state"] == ObjectState.IMPORTED else values["state"])
    uids = (values["StudyInstanceUID"], values["SeriesInstanceUID"], values["SOPInstanceUID"])
    return Missing(*uids, why, values["reason_text"], values["object_id"], values["bucket"], values["key"])
