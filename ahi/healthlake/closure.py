"""Does every study have exactly one current ImagingStudy in HealthLake, and every one of ours its study?

Belongs here: that comparison. Does not belong here: mending it (`ahi.healthlake.from_index`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.fhir.source import study_fingerprints
from ahi.healthlake.mapping import load_rules
from ahi.healthlake.plan import INDEX
from ahi.healthlake.sent import RETRACTION
from ahi.index.catalog_fhir import BatchState, SentState, fhir_batches, fhir_sent
from ahi.index.query import open_index

if TYPE_CHECKING:
    from ahi.pipeline import Pipeline


@dataclass(frozen=True)
class StudyClosure:
    """How the index and HealthLake compare. Names are StudyInstanceUIDs or references, never of a patient."""

    studies: int
    current: int
    pending: int
    elsewhere: int
    """ImagingStudies of other origin whose study is not in the index."""
    missing: list[str] = field(default_factory=list)
    """Studies without an ImagingStudy on its way or in HealthLake."""
    stale: list[str] = field(default_factory=list)
    """Studies that have changed since their ImagingStudy was made."""
    failed: list[str] = field(default_factory=list)
    """Studies whose ImagingStudy did not go in."""
    orphans: list[str] = field(default_factory=list)
    """ImagingStudies made from the index whose study is gone, and that are not on their way back."""
    duplicates: list[str] = field(default_factory=list)
    """Studies of the index with more than one ImagingStudy in HealthLake."""
    lacking: list[str] = field(default_factory=list)
    """Patients and Endpoints made from the index that HealthLake does not have, or has out of date."""

    @property
    def closes(self) -> bool:
        """Whether nothing is missing, left over or there twice."""
        return not (self.missing or self.stale or self.failed or self.orphans or self.duplicates or self.lacking)


def study_closure(pipeline: Pipeline) -> StudyClosure:
    """Compare the published index with what was sent."""
    with open_index(pipeline.index.path) as connection:
        made_by = load_rules(pipeline).digest
        studies = {study: f"{made_by}:{state}" for study, state in study_fingerprints(connection)}
    table = fhir_sent
    # Nothing goes in with a batch that has failed.
    lost = sa.select(fhir_batches.c.batch_id).where(fhir_batches.c.state == BatchState.FAILED)
    waits_in_vain = sa.and_(table.c.state == SentState.PENDING, table.c.batch_id.in_(lost))
    is_failed = sa.or_(table.c.state == SentState.FAILED, waits_in_vain).label("is_failed")
    query = sa.select(table.c.reference, table.c.study_uid, table.c.origin, table.c.state, table.c.fingerprint)
    query = query.add_columns(is_failed).where(table.c.datastore_id == pipeline.settings.fhir_datastore_id)
    query = query.where(table.c.state != SentState.RETRACTED)
    counts, there, tried = Counter[str](), Counter[str](), set[str]()
    failed, orphans, lacking, stale = list[str](), list[str](), list[str](), list[str]()
    with pipeline.index.engine.connect() as rows:
        others = query.where(table.c.reference.not_like("ImagingStudy/%"), is_failed)
        lacking += [row.reference for row in rows.execute(others.order_by(table.c.reference))]
        query = query.where(table.c.reference.like("ImagingStudy/%"))
        for row in rows.execute(query.order_by(table.c.reference)):
            if row.study_uid not in studies:
                if row.origin != INDEX:
                    counts["elsewhere"] += 1
                elif row.fingerprint != RETRACTION or row.is_failed:
                    orphans.append(row.reference)
                continue
            if row.is_failed:
                failed += [row.study_uid] if row.origin == INDEX else []
            else:
                there[row.study_uid] += 1
                stale += [row.study_uid] if row.origin == INDEX and row.fingerprint != studies[row.study_uid] else []
                counts[row.state] += 1
            tried |= {row.study_uid} if row.origin == INDEX else set()
    return StudyClosure(
        studies=len(studies),
        current=counts[SentState.CURRENT],
        pending=counts[SentState.PENDING],
        elsewhere=counts["elsewhere"],
        missing=sorted(studies.keys() - tried),
        stale=sorted(stale),
        failed=sorted(failed),
        orphans=orphans,
        duplicates=sorted(study for study, number in there.items() if number > 1),
        lacking=lacking,
    )
