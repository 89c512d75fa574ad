"""Views that sum up the ledger. Belongs here: its other name, what came together, and whether each study closes.

Does not belong here: views of single objects, jobs and image sets (`operational`).
"""

from __future__ import annotations

from ahi.index.catalog import IN_FLIGHT, ObjectState
from ahi.index.sql import text
from ahi.index.view import View

SETTLED = (ObjectState.IMPORTED, ObjectState.FAILED, ObjectState.SET_ASIDE)
FLYING = f"state IN ({', '.join(text(state) for state in IN_FLIGHT)})"
_COUNTS = ", ".join(
    [
        "count(*) AS landed",
        *(f"count(*) FILTER (state = {text(state)}) AS {state}" for state in SETTLED),
        f"count(*) FILTER ({FLYING}) AS in_flight",
    ]
)
_CLOSES = "landed = imported + failed + set_aside + in_flight AS closes"
_COMMENTS = {
    "landed": "Objects that arrived.",
    "imported": "Objects in an image set.",
    "failed": "Objects in no image set, each with its reason in objects.",
    "set_aside": "Objects that their sender overwrote or deleted before they were imported.",
    "in_flight": "Objects in a state that is not final: held, ready or importing.",
    "closes": "Whether landed = imported + failed + set_aside + in_flight.",
}
_VERDICT = (
    "CASE WHEN landed > imported + failed + set_aside THEN 'open' WHEN failed > 0 THEN 'failed' "
    "ELSE 'closed' END AS verdict"
)
# What a sender overwrote or deleted before its import is not among what it stated.
_COMPLETENESS = (
    "CASE WHEN expected_objects IS NULL THEN 'unknown' WHEN landed - set_aside < expected_objects THEN 'partial' "
    "WHEN landed - set_aside > expected_objects THEN 'over' ELSE 'complete' END AS completeness"
)
# What is stated of an association of one study is stated of the study; a manifest says no more. An object without a
# readable header is counted in its association and in no study: the study is then partial.
_EXPECTED = (
    "SELECT StudyInstanceUID, sum(n_objects)::BIGINT AS n_objects, sum(stated)::BIGINT AS expected_objects FROM ("
    "SELECT min(StudyInstanceUID) AS StudyInstanceUID, count(StudyInstanceUID) AS n_objects, "
    "max(stated_objects) AS stated FROM main.objects WHERE association_prefix IS NOT NULL "
    "GROUP BY bucket, association_prefix "
    "HAVING stated IS NOT NULL AND min(StudyInstanceUID) = max(StudyInstanceUID)) GROUP BY StudyInstanceUID"
)
_VERDICT_COMMENT = "open: some are in flight. failed: all ended, some without an image set. closed: all others."


def account_views(objects: View) -> list[View]:
    """The views that stand on `objects`."""
    return [
        View("ledger", "SELECT * FROM main.objects", f"objects by its other name. {objects.comment}", objects.columns),
        _uploads(),
        _study_closure(),
    ]


def _uploads() -> View:
    return View(
        "uploads",
        f"SELECT *, {_CLOSES}, {_VERDICT}, {_COMPLETENESS} FROM ("
        "SELECT coalesce(association_prefix, batch_id) AS upload_id, any_value(association_prefix) AS prefix, "
        "min(landed_at) AS first_object_at, max(landed_at) AS last_object_at, "
        "count(DISTINCT StudyInstanceUID) AS n_studies, sum(size_bytes)::BIGINT AS n_bytes, "
        f"max(stated_objects) AS expected_objects, {_COUNTS} "
        "FROM main.objects WHERE shard_key IS NULL GROUP BY coalesce(association_prefix, batch_id))",
        "One row for each association that a sender closed, and for each batch of objects that came without one. "
        "Objects of archives are in none.",
        {
            "upload_id": "Prefix of the association, or the id of the inbox batch.",
            "prefix": "Prefix of the association; null: a batch without one.",
            "first_object_at": "When its first object landed.",
            "last_object_at": "When its last object landed.",
            "n_studies": "Studies that its headers name.",
            "n_bytes": "Bytes of its objects.",
            "expected_objects": "Objects that the manifest of the association states; null: none does.",
            **_COMMENTS,
            "verdict": _VERDICT_COMMENT,
            "completeness": "Objects that landed and were not set aside, beside those expected: complete, partial, "
            "over; unknown without a statement. What was erased since has left its association.",
        },
    )


def _study_closure() -> View:
    return View(
        "study_closure",
        f"SELECT s.*, {_CLOSES}, {_VERDICT}, expected_objects, {_COMPLETENESS} FROM ("
        f"SELECT StudyInstanceUID, {_COUNTS}, "
        "count(*) FILTER (indexed_seq IS NOT NULL) AS indexed, "
        f"list_sort(list(DISTINCT SOPInstanceUID) FILTER (state = 'failed' OR {FLYING})) AS missing_uids, "
        "max(state_since) AS last_change_at "
        "FROM main.objects WHERE StudyInstanceUID IS NOT NULL GROUP BY StudyInstanceUID) s "
        f"LEFT JOIN ({_EXPECTED}) e ON e.StudyInstanceUID = s.StudyInstanceUID AND e.n_objects = s.landed",
        "One row for each study that headers name: do its objects add up? Objects without a readable header are in no "
        "study; closure counts them.",
        {
            "StudyInstanceUID": "Study, by the objects' headers.",
            **_COMMENTS,
            "indexed": "Objects whose rows are in the index.",
            "missing_uids": "SOPInstanceUIDs of objects that failed or are in flight, sorted; null: none.",
            "last_change_at": "When the state of one of its objects changed last.",
            "verdict": _VERDICT_COMMENT,
            "expected_objects": "Objects that the manifests of its associations state; null unless each of its objects "
            "came in an association that has a statement and no object of another study. An object whose header cannot "
            "be read counts in its association, and the study is then partial; after an erasure nothing is expected.",
            "completeness": "Objects that landed and were not set aside, beside those expected: complete, partial, "
            "over; unknown without a statement.",
        },
    )
