"""FHIR from the index: what HealthLake does not have yet, planned as a batch; what is gone, taken back.

Belongs here: finding changed and deleted studies, comparing resources with those sent before. Does not belong here:
how rows become resources (`ahi.fhir`), what happens to the batch after (`ahi.healthlake.freeze`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from more_itertools import chunked, constrained_batches, take

from ahi import quarantine
from ahi.clock import now
from ahi.fhir.changes import Comparison, retired_patient, retraction
from ahi.fhir.resources import Resource, study_id
from ahi.fhir.source import fhir_patients, fhir_resources, one_study_each, study_fingerprints
from ahi.healthlake import failures, sent
from ahi.healthlake.mapping import load_rules
from ahi.healthlake.plan import INDEX, Part, SourceFile, Terms, add_batch, datastore, open_import, split
from ahi.healthlake.resubmission import enter_source, next_number
from ahi.healthlake.sent import RETRACTION
from ahi.index.catalog import EPOCH
from ahi.index.catalog_fhir import Policy, SentState, fhir_imports, fhir_sent
from ahi.index.engine import locked
from ahi.index.query import open_index
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import duckdb

    from ahi.fhir.imaging_study import Omission
    from ahi.fhir.rules import Rules
    from ahi.pipeline import Pipeline

LOOKUP = 300


class _Changed(NamedTuple):
    """Studies to look at, what their states are called now, and what they belonged to when they were last sent."""

    studies: tuple[str, ...]
    fingerprints: Mapping[str, str]
    deleted: tuple[str, ...]
    subjects: frozenset[str]
    """Patients that these studies had, and those whose end HealthLake failed on."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.studies or self.deleted or self.subjects)


def plan_changes(pipeline: Pipeline) -> Counter[str]:
    """Plan a batch of what changed in the index since the last one. Returns counts; none when nothing did.

    What HealthLake failed on comes again when its time has come. At most `AHI_FHIR_STUDIES_PER_BATCH` studies at a
    time: call it again while it counts studies. One process plans at a time.
    """
    store, rules = datastore(pipeline), load_rules(pipeline)
    if not pipeline.index.path.exists():
        return Counter()
    with locked(pipeline.index.root / ".fhir.lock"):
        with pipeline.index.transaction() as catalog:
            sent.mend(catalog, pipeline.settings.fhir_retry_seconds)
        return _plan_changes(pipeline, store, rules)


def _plan_changes(pipeline: Pipeline, store: str, rules: Rules) -> Counter[str]:
    counts = Counter[str]()
    with open_index(pipeline.index.path) as connection:
        changed = _changed(pipeline, connection, store, rules)
        if changed.is_empty:
            return counts
        with tempfile.NamedTemporaryFile(prefix="ahi-fhir-") as written:
            lines = _Lines(store, written.file, counts)
            _write(pipeline, connection, changed, rules, lines)
            written.flush()
            received = _received(connection, changed.studies)
            batches = _batches(pipeline, _put(pipeline, Path(written.name))) if counts["resources"] else []
    with pipeline.index.transaction() as catalog:
        _plan(catalog, pipeline, batches, lines.rows, received)
        quarantine.enter(catalog, _left_out(lines.omitted), None)
        # A study that was never told of leaves nothing to take back.
        untold = sa.and_(fhir_sent.c.datastore_id == store, fhir_sent.c.subject.is_(None))
        for some in chunked(changed.deleted, LOOKUP):
            catalog.execute(fhir_sent.delete().where(untold, fhir_sent.c.study_uid.in_(some)))
    return counts


def _changed(pipeline: Pipeline, connection: duckdb.DuckDBPyConnection, store: str, rules: Rules) -> _Changed:
    table = fhir_sent
    ours = sa.and_(table.c.datastore_id == store, table.c.origin == INDEX)
    due = sa.and_(table.c.state == SentState.FAILED, table.c.retry_at <= now())
    studies = sa.select(table.c.study_uid, table.c.fingerprint, due).where(ours, table.c.study_uid.is_not(None))
    often = sa.select(table.c.reference).where(ours, due, table.c.tries > 1).limit(1)
    with pipeline.index.engine.connect() as rows:
        before = {study: (fingerprint, bool(is_due)) for study, fingerprint, is_due in rows.execute(studies)}
        is_repeated = rows.execute(often).first() is not None
        others = sa.select(table.c.reference, table.c.fingerprint).where(ours, due, table.c.study_uid.is_(None))
        again = [(row.reference.partition("/"), row.fingerprint) for row in rows.execute(others)]
        patients = [name for (kind, _, name), fingerprint in again if kind == "Patient" and fingerprint != RETRACTION]
        wanted = set(_studies_of(rows, store, patients).values())
    if any(kind == "Endpoint" for (kind, *_), _ in again):
        wanted |= set(one_study_each(connection))
    limit, chosen, made_by = pipeline.settings.fhir_studies_per_batch, dict[str, str](), rules.digest
    once_more = dict[str, str]()
    for study, state in study_fingerprints(connection):
        fingerprint = f"{made_by}:{state}"
        known, is_due = before.pop(study, (None, False))
        if known != fingerprint and len(chosen) < limit:
            chosen[study] = fingerprint
        elif (is_due or study in wanted) and len(once_more) < limit:
            once_more[study] = fingerprint
    # What the index no longer has; what was taken back waits for its batch, or for its next try.
    deleted = sorted(study for study, (known, is_due) in before.items() if known != RETRACTION or is_due)[:limit]
    if is_repeated and (once_more or deleted):
        # One resource of which HealthLake does not tell fails all that goes with it: halves set the others free.
        chosen = dict(take((len(once_more) + 1) // 2, once_more.items()))
        deleted = deleted[: (len(deleted) + 1) // 2]
    else:
        chosen = dict(take(limit, (chosen | once_more).items()))
    subjects = {name for (kind, _, name), fingerprint in again if kind == "Patient" and fingerprint == RETRACTION}
    with pipeline.index.engine.connect() as rows:
        for some in chunked([*chosen, *deleted], LOOKUP):
            query = sa.select(table.c.subject).where(ours, table.c.study_uid.in_(some), table.c.subject.is_not(None))
            subjects |= set(rows.execute(query.where(table.c.reference.like("ImagingStudy/%"))).scalars())
    return _Changed(tuple(chosen), chosen, tuple(deleted), frozenset(subjects))


def _studies_of(
    connection: sa.Connection, store: str, patients: Iterable[str], but: Collection[str] = frozenset()
) -> dict[str, str]:
    """A study of each of some patients, as they were last sent; none of those that are left out or were taken back."""
    table, found = fhir_sent, dict[str, str]()
    ours = sa.and_(table.c.datastore_id == store, table.c.origin == INDEX, table.c.study_uid.is_not(None))
    query = sa.select(table.c.subject, table.c.study_uid).where(ours, table.c.fingerprint != RETRACTION)
    for some in chunked(patients, LOOKUP):
        rows = connection.execute(query.where(table.c.subject.in_(some)))
        found |= {row.subject: row.study_uid for row in rows if row.study_uid not in but}
    return found


@dataclass
class _Lines:
    """What goes into the batch, and the new rows of `fhir_sent`."""

    store: str
    written: IO[bytes]
    counts: Counter[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    n_bytes: int = 0
    omitted: set[tuple[str, str]] = field(default_factory=set)
    """ImagingStudies that do not list all of their study, with the reason."""

    def write(self, one: Resource, study: str | None, fingerprint: str | None) -> None:
        """A resource that is to be sent."""
        self.written.write(one.body + b"\n")
        self.counts["resources"] += 1
        self.note(one, study, fingerprint, SentState.PENDING)
        self.rows[-1]["first_byte"] = self.n_bytes
        self.n_bytes += len(one.body) + 1

    def note(self, one: Resource, study: str | None, fingerprint: str | None, state: str | None) -> None:
        """A row; without a state only the fingerprint is new."""
        self.rows.append(
            {
                "datastore_id": self.store,
                "reference": one.reference,
                "origin": INDEX,
                "study_uid": study,
                "subject": one.subject or None,
                "fingerprint": fingerprint,
                "digest": one.digest,
                "state": state,
            }
        )


def _write(
    pipeline: Pipeline, connection: duckdb.DuckDBPyConnection, changed: _Changed, rules: Rules, lines: _Lines
) -> None:
    """Write the lines of what differs from what was sent."""
    counts = lines.counts
    studies = {f"ImagingStudy/{study_id(study)}": study for study in changed.studies}
    seen = set[str]()

    def omit(omission: Omission) -> None:
        counts["instances_omitted"] += omission.n_instances
        lines.omitted.add((study_id(omission.study_uid), omission.reason))

    made = fhir_resources(connection, rules, studies=changed.studies, omit=omit) if changed.studies else ()
    for one, differs in _compared(pipeline, lines.store, made):
        study = studies.get(one.reference)
        fingerprint = changed.fingerprints.get(study or "")
        seen.add(one.reference)
        if differs:
            lines.write(one, study, fingerprint)
        elif study:
            lines.note(one, study, fingerprint, None)
    for reference, study in studies.items():
        if reference not in seen:
            # Nothing of it can be told in FHIR; the row keeps it from being tried again, and closure names it.
            nothing = Resource("ImagingStudy", reference.partition("/")[2], b"")
            lines.note(nothing, study, changed.fingerprints[study], SentState.FAILED)
            counts["studies_without_fhir"] += 1
    for one, study in _retractions(pipeline, lines.store, changed.deleted):
        lines.write(one, study, RETRACTION)
        counts["retracted"] += 1
    _write_patients_left(pipeline, connection, changed, rules, seen, lines)
    counts["studies"] = len(changed.studies)


def _write_patients_left(
    pipeline: Pipeline,
    connection: duckdb.DuckDBPyConnection,
    changed: _Changed,
    rules: Rules,
    seen: Collection[str],
    lines: _Lines,
) -> None:
    """A patient who lost a study keeps what the others say, and no more; one without any keeps nothing."""
    left = {subject for subject in changed.subjects if f"Patient/{subject}" not in seen}
    with pipeline.index.engine.connect() as catalog:
        others = _studies_of(catalog, lines.store, left, but={*changed.studies, *changed.deleted})
        ended = _known_patients(catalog, lines.store, left - others.keys())
    for one, differs in _compared(pipeline, lines.store, fhir_patients(connection, rules, tuple(others.values()))):
        if differs and one.id in left:
            lines.write(one, None, None)
    for subject in ended:
        lines.write(retired_patient(subject), None, RETRACTION)
        lines.counts["patients_retired"] += 1


def _compared(pipeline: Pipeline, store: str, made: Iterable[Resource]) -> Iterator[tuple[Resource, bool]]:
    """Resources, with whether they differ from what was sent."""
    for some in chunked(made, LOOKUP):
        known = _known(pipeline, store, [one.reference for one in some])
        differing = {one.reference for _, one in Comparison(known).changed(some)}
        for one in some:
            yield one, one.reference in differing


def _known_patients(connection: sa.Connection, store: str, patients: Iterable[str]) -> list[str]:
    """Those of some patients whom HealthLake has of us, as far as we know, or whose end is to be sent again."""
    table, found = fhir_sent, list[str]()
    query = sa.select(table.c.reference).where(table.c.datastore_id == store, table.c.origin == INDEX)
    told = sa.or_(table.c.fingerprint.is_(None), table.c.fingerprint != RETRACTION)
    again = sa.and_(table.c.state == SentState.FAILED, table.c.retry_at <= now())
    for some in chunked((f"Patient/{one}" for one in sorted(patients)), LOOKUP):
        rows = connection.execute(query.where(table.c.reference.in_(some), sa.or_(told, again)))
        found += [reference.partition("/")[2] for reference in rows.scalars()]
    return found


def _known(pipeline: Pipeline, store: str, references: Sequence[str]) -> dict[str, str]:
    table = fhir_sent
    query = sa.select(table.c.reference, table.c.digest).where(table.c.datastore_id == store)
    # What failed is sent again when its study changes, even if its own bytes do not.
    query = query.where(table.c.reference.in_(references), table.c.state != SentState.FAILED)
    with pipeline.index.engine.connect() as connection:
        return {row.reference: row.digest for row in connection.execute(query)}


def _retractions(pipeline: Pipeline, store: str, studies: Sequence[str]) -> Iterator[tuple[Resource, str]]:
    table = fhir_sent
    query = sa.select(table.c.reference, table.c.study_uid, table.c.subject, table.c.digest)
    query = query.where(table.c.datastore_id == store, table.c.origin == INDEX, table.c.subject.is_not(None))
    with pipeline.index.engine.connect() as connection:
        for some in chunked(studies, LOOKUP):
            for row in connection.execute(query.where(table.c.study_uid.in_(some))):
                yield retraction(row.reference.partition("/")[2], row.subject), row.study_uid


def _received(connection: duckdb.DuckDBPyConnection, studies: Sequence[str]) -> dt.datetime:
    """When HealthImaging had the oldest of the changes: the newest version of each study counts."""
    sql = (
        "SELECT min(newest) FROM (SELECT max(epoch_us(coalesce(updated_at, created_at, indexed_at))) AS newest "
        "FROM image_sets "
        "WHERE StudyInstanceUID IN (SELECT unnest(?::VARCHAR[])) GROUP BY StudyInstanceUID)"
    )
    row = connection.execute(sql, [list(studies)]).fetchone()
    found = row[0] if row else None
    return EPOCH + dt.timedelta(microseconds=found) if found is not None else now()


def _put(pipeline: Pipeline, path: Path) -> SourceFile:
    """The lines as a source in the lake, at an exact version."""
    with path.open("rb") as lines:
        digest = hashlib.file_digest(lines, "sha256").hexdigest()
    moment = now()
    bucket, key = pipeline.settings.lake_bucket, f"fhir/made/{moment:%Y%m%d%H%M%S}-{digest[:16]}.ndjson"
    pipeline.aws.s3.upload_file(str(path), bucket, key)
    head = pipeline.aws.s3.head_object(Bucket=bucket, Key=key)
    version = head.get("VersionId")
    kept = version if version and version != "null" else None
    return SourceFile(bucket, key, kept, head["ETag"].strip('"'), head["ContentLength"], moment)


def _left_out(omitted: Iterable[tuple[str, str]]) -> Iterator[quarantine.Item]:
    """Parts of studies that FHIR does not tell of, by the hashed id of the study."""
    for name, reason in sorted(omitted):
        text = f"a part of the study is not in its ImagingStudy: {reason}"
        yield quarantine.Item("fhir", Reason.RESOURCE_INVALID, text, f"ImagingStudy/{name}")


def _batches(pipeline: Pipeline, source: SourceFile) -> list[list[Part]]:
    """Parts of a source by batch, within the limits of a job."""
    settings = pipeline.settings
    parts = split(pipeline, source, min(settings.fhir_bytes_per_file, settings.fhir_bytes_per_job))
    most_bytes, most_files = settings.fhir_bytes_per_job, settings.fhir_files_per_job
    groups = constrained_batches(parts, most_bytes, most_files, get_len=lambda part: part.n_bytes, strict=False)
    return [list(group) for group in groups]


def _plan(
    connection: sa.Connection,
    pipeline: Pipeline,
    batches: Sequence[list[Part]],
    rows: Sequence[dict[str, Any]],
    received: dt.datetime,
) -> None:
    store = pipeline.settings.fhir_datastore_id
    ends, chain = list[tuple[int, str]](), f"index-{store[:8]}"
    if batches:
        # One refused resource must not keep all later studies out; a newer state of a study goes after an older one.
        open_import(connection, pipeline, chain, INDEX, Terms(Policy.CONTINUE, is_ordered=True))
        # This chain has no end, so that a setting that has changed since is for it as well.
        level = fhir_imports.update().where(fhir_imports.c.import_id == chain)
        connection.execute(level.values(validation_level=pipeline.settings.fhir_validation_level))
        enter_source(connection, chain, batches[0][0].file)
        first = next_number(connection, chain)
        for number, parts in enumerate(batches, first):
            name = add_batch(connection, chain, parts, number=number, received_at=received)
            ends.append((parts[-1].end_byte, name))
    same = [row for row in rows if row["state"] is None]
    new = [row for row in rows if row["state"] is not None]
    # What could not be told is in no batch.
    for row in new:
        at = row.get("first_byte")
        row["batch_id"] = sent.NOWHERE if at is None else next(name for end, name in ends if at < end)
    before = sent.put(connection, new)
    for _, batch_id in ends:
        references = {row["reference"] for row in new if row["batch_id"] == batch_id}
        failures.carried(connection, chain, references, batch_id, before - {sent.NOWHERE})
    for row in same:
        mine = sa.and_(fhir_sent.c.datastore_id == store, fhir_sent.c.reference == row["reference"])
        connection.execute(fhir_sent.update().where(mine).values(fingerprint=row["fingerprint"]))
