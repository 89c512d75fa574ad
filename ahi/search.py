"""Image sets that no event told us of, found by searching HealthImaging and the ledger.

Belongs here: the sweep's looks at image sets. Does not belong here: looking one up or reading its document
(`ahi.image_sets`); every finding goes there by way of the inbox.

Each look works in chunks, within a budget per sweep, and goes on at the next sweep from where it was.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from ahi import findings, image_sets
from ahi.closure import explained_image_sets, is_explained, not_indexed
from ahi.findings import CHUNK, ImageSetFinding
from ahi.index import catalog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ahi.findings import Look
    from ahi.pipeline import Pipeline

TimeField = Literal["createdAt", "updatedAt"]

PAGE = 50
"""The most image sets that HealthImaging gives in one page."""

SECOND = dt.timedelta(seconds=1)


@dataclass(frozen=True)
class Listed:
    """One image set as a search shows it."""

    image_set_id: str
    version: int
    created_at: dt.datetime
    updated_at: dt.datetime


def changed_image_sets(pipeline: Pipeline, look: Look) -> int:
    """Image sets that HealthImaging changed since the last sweep and that we have not seen in that version.

    A pass looks back behind the last one, since a search may lag; the rest of a pass that was cut off does not.
    """
    budget = pipeline.settings.sweep_image_sets
    since, cut = _changed_place(pipeline)
    start = since if cut else since - dt.timedelta(seconds=pipeline.settings.sweep_overlap_seconds)
    until = max(since, look.late.replace(microsecond=0))
    pending, found, seen = list[ImageSetFinding](), 0, 0
    last, cut = start, False
    for page in _search(pipeline, "updatedAt", max(start, catalog.EPOCH), until):
        pending += _unseen(pipeline, page)
        seen, last = seen + len(page), page[-1].updated_at
        if len(pending) >= CHUNK:
            found += findings.tell(pipeline, look, pending)
            pending.clear()
        # All that share a second have to be passed at once, or the next sweep would begin before them again.
        if seen >= budget and not look.thorough and last >= start + SECOND:
            cut = True
            break
    found += findings.tell(pipeline, look, pending)
    at = last if cut else until
    findings.remember(pipeline, "changed", json.dumps({"at": at.isoformat(), "cut": cut}))
    return found


def _changed_place(pipeline: Pipeline) -> tuple[dt.datetime, bool]:
    place = json.loads(findings.place(pipeline, "changed") or "{}")
    return dt.datetime.fromisoformat(place["at"]) if place else catalog.EPOCH, bool(place.get("cut", True))


def awaited_image_sets(pipeline: Pipeline, look: Look) -> int:
    """Image sets that hold imported objects and that the index still does not show, though nothing says why.

    Each is told at ages of 1, 2, 4 ... minutes. More of them than the budget take their turns.
    """
    budget, found, seen = pipeline.settings.sweep_image_sets, 0, 0
    after = findings.place(pipeline, "awaited") or ""
    while look.thorough or seen < budget:
        size = CHUNK if look.thorough else min(CHUNK, budget - seen)
        rows = _awaited(pipeline, look, "" if look.thorough and not seen else after, size)
        found += findings.tell(pipeline, look, rows)
        seen += len(rows)
        after = rows[-1].image_set_id if len(rows) == size else ""
        if not after:
            break
    findings.remember(pipeline, "awaited", after or None)
    return found


def _awaited(pipeline: Pipeline, look: Look, after: str, limit: int) -> list[ImageSetFinding]:
    objects, verdict = catalog.objects, explained_image_sets()
    query = (
        sa.select(objects.c.image_set_id, sa.func.min(objects.c.settled_at))
        .select_from(objects.outerjoin(verdict, verdict.c.image_set_id == objects.c.image_set_id))
        .where(not_indexed(), objects.c.image_set_id > after, objects.c.settled_at <= look.late)
        .where(sa.not_(is_explained(verdict)))
        .group_by(objects.c.image_set_id)
        .order_by(objects.c.image_set_id)
        .limit(limit)
    )
    with pipeline.index.engine.connect() as connection:
        return [ImageSetFinding(image_set_id, 0, since) for image_set_id, since in connection.execute(query)]


def enumerated_image_sets(pipeline: Pipeline, look: Look) -> Counter[str]:
    """Every image set, held against the index: those it shows and HealthImaging does not list, and those we missed.

    Goes by time of creation, window by window, so that neither side is ever a list in memory. A finding is a question:
    what a search left out by mistake is looked up and stays.
    """
    budget, found, seen = pipeline.settings.sweep_image_sets, Counter[str](), 0
    place = None if look.thorough else findings.place(pipeline, "enumeration")
    low = dt.datetime.fromisoformat(place) if place else catalog.EPOCH
    window: list[Listed] = []
    for page in _search(pipeline, "createdAt", low, look.moment):
        window += page
        seen, last = seen + len(page), page[-1].created_at
        cut = seen >= budget and not look.thorough
        # The next page may hold more of the last second, so a window ends before it.
        if (cut or len(window) >= CHUNK) and last >= low + SECOND:
            found += _compare(pipeline, look, window, low, last)
            window, low = [one for one in window if one.created_at >= last], last
            if cut:
                findings.remember(pipeline, "enumeration", low.isoformat())
                return found
    found += _compare(pipeline, look, window, low, look.late)
    findings.done(pipeline, "enumeration")
    return found


def _compare(
    pipeline: Pipeline, look: Look, window: Sequence[Listed], low: dt.datetime, high: dt.datetime
) -> Counter[str]:
    """Findings among the image sets made from `low` until before `high`; of unknown time: in the first window."""
    table, listed = catalog.heads, {one.image_set_id for one in window}
    made = sa.and_(table.c.created_at >= low, table.c.created_at < high)
    if low == catalog.EPOCH:
        made = sa.or_(made, table.c.created_at.is_(None))
    query = sa.select(table.c.image_set_id).where(
        table.c.datastore_id == pipeline.settings.datastore_id, table.c.deleted_at.is_(None), made
    )
    with pipeline.index.engine.connect() as connection:
        gone = [i for i in connection.execute(query).scalars() if i not in listed]
    missed = [one for one in _unseen(pipeline, window) if one.since <= look.late]
    return Counter(
        image_sets_gone=findings.tell(pipeline, look, (ImageSetFinding(i, 0, look.moment) for i in gone)),
        image_sets_missed=findings.tell(pipeline, look, missed),
    )


def _unseen(pipeline: Pipeline, listed: Sequence[Listed]) -> list[ImageSetFinding]:
    """Those listed in a version that we have not seen, or that we were told were gone."""
    seen = image_sets.seen_versions(pipeline, (one.image_set_id for one in listed))
    return [
        ImageSetFinding(one.image_set_id, one.version, one.updated_at)
        for one in listed
        if one.version > seen.get(one.image_set_id, 0)
    ]


def _search(pipeline: Pipeline, field: TimeField, since: dt.datetime, until: dt.datetime) -> Iterator[list[Listed]]:
    """Pages of SearchImageSets between two times, oldest first. It is no access and costs no re-tiering.

    From and to whole seconds: fractions of one are rounded in several ways between us and the service.
    """
    since, until = since.replace(microsecond=0), until.replace(microsecond=0) + SECOND
    pages = pipeline.aws.imaging.get_paginator("search_image_sets").paginate(
        datastoreId=pipeline.settings.datastore_id,
        searchCriteria={
            "filters": [{"operator": "BETWEEN", "values": [{field: since}, {field: until}]}],  # type: ignore[misc]
            "sort": {"sortField": field, "sortOrder": "ASC"},
        },
        PaginationConfig={"PageSize": min(PAGE, pipeline.settings.sweep_image_sets)},
    )
    for page in pages:
        listed = []
        for summary in page["imageSetsMetadataSummaries"]:
            created = summary.get("createdAt", since)
            updated = summary.get("updatedAt", created)
            listed.append(Listed(summary["imageSetId"], int(summary.get("version", 1)), created, updated))
        if listed:
            yield listed
