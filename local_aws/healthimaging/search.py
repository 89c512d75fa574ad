"""SearchImageSets: filters, ranges, order, pages, and an index that may lag behind.

Belongs here: the rules of "Searching image sets". Does not belong here: the search of DICOMweb.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import LagSearch
from local_aws.healthimaging.image_sets import last_access, tier
from local_aws.protocol.errors import validation
from local_aws.protocol.paging import Listing

if TYPE_CHECKING:
    from local_aws.healthimaging.datastores import Datastores
    from local_aws.healthimaging.shared import Shared
    from local_aws.healthimaging.store import ImageSet

LISTING = Listing("search", ((str, int, float), (str,)))

_TIME = "replace(coalesce(json_extract(tags, '$.DICOMStudyTime'), ''), ':', '') || '.'"
# Study date and time as 20 digits; a missing time is midnight, missing parts of it are zero.
MOMENT = (
    "replace(coalesce(json_extract(tags, '$.DICOMStudyDate'), ''), '.', '')"
    f" || substr(substr({_TIME}, 1, instr({_TIME}, '.') - 1) || '000000', 1, 6)"
    f" || substr(replace(substr({_TIME}, instr({_TIME}, '.') + 1), '.', '') || '000000', 1, 6)"
)
# Search key or sort field: SQL of its value.
KEYS = {
    "DICOMPatientId": "json_extract(tags, '$.DICOMPatientId')",
    "DICOMAccessionNumber": "json_extract(tags, '$.DICOMAccessionNumber')",
    "DICOMStudyId": "json_extract(tags, '$.DICOMStudyId')",
    "DICOMStudyInstanceUID": "study_uid",
    "DICOMSeriesInstanceUID": "series_uid",
    "createdAt": "created",
    "updatedAt": "updated",
    "isPrimary": "is_primary",
    "DICOMStudyDateAndTime": MOMENT,
}
RANGES = frozenset({"createdAt", "updatedAt", "DICOMStudyDateAndTime"})
HALF = 0.0005
NEWEST_FIRST = {"sortField": "updatedAt", "sortOrder": "DESC"}


class Search:
    """The operation SearchImageSets."""

    def __init__(self, shared: Shared, datastores: Datastores) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._faults = shared.faults
        self._datastores = datastores

    def search(self, request: dict[str, Any]) -> dict[str, Any]:
        """SearchImageSets: at most one attribute with EQUAL; deleted sets left out."""
        self._datastores.active(request["datastoreId"])
        criteria = request.get("searchCriteria", {})
        where, values = self._filters(criteria.get("filters", []))
        where = f"datastore_id = ? AND state <> 'DELETED'{where}"
        values = [request["datastoreId"], *values]
        sort = criteria.get("sort") or NEWEST_FIRST
        key, order = KEYS[sort["sortField"]], sort["sortOrder"]
        after = LISTING.start(self._store.page_secret, request)
        if after:
            where += f" AND ({key}, id) {'>' if order == 'ASC' else '<'} (?, ?)"
            values += after
        table = self.table()
        found = self._store.rows(
            f"SELECT id, {key} AS place FROM {table} WHERE {where}"  # noqa: S608 -- all of it is ours
            f" ORDER BY {key} {order}, id {order} LIMIT {LISTING.size(request) + 1}",
            values,
        )
        page, following = LISTING.turn(self._store.page_secret, request, found, lambda row: [row["place"], row["id"]])
        sets = {i.id: i for i in self._read(table, request["datastoreId"], [row["id"] for row in page])}
        now = self._clock.now()
        return {
            "imageSetsMetadataSummaries": [_summary(sets[row["id"]], now) for row in page if row["id"] in sets],
            "sort": sort,
            "nextToken": following,
        }

    def _filters(self, filters: list[dict[str, Any]]) -> tuple[str, list[Any]]:
        where, values, equal = "", [], 0
        upper = "<" if self._settings.search_between == "half-open" else "<="
        exact = "" if self._settings.search_case_sensitive else " COLLATE NOCASE"
        for one in filters:
            keys = {next(iter(v)) for v in one["values"]}
            if len(keys) != 1:
                raise validation("The values of a filter must be of one kind.")
            key = keys.pop()
            bounds = [_bound(key, v[key]) for v in one["values"]]
            if one["operator"] == "BETWEEN":
                if key not in RANGES or len(bounds) != 2:  # noqa: PLR2004
                    raise validation("BETWEEN needs two values of createdAt, updatedAt or DICOMStudyDateAndTime.")
                if bounds[0] > bounds[1]:
                    raise validation("The first value of BETWEEN is above the second.")
                if key != "DICOMStudyDateAndTime":
                    # Times are told in milliseconds: what was told must be found by it.
                    bounds = [bounds[0] - HALF, bounds[1] + (HALF if upper == "<=" else -HALF)]
                where += f" AND {KEYS[key]} >= ? AND {KEYS[key]} {upper} ?"
                if key == "DICOMStudyDateAndTime":
                    where += " AND json_extract(tags, '$.DICOMStudyDate') <> ''"
            else:
                if len(bounds) != 1 or key in RANGES:
                    raise validation("EQUAL needs one value of an attribute or isPrimary.")
                equal += key != "isPrimary"
                where += f" AND {KEYS[key]} = ?{exact if key != 'isPrimary' else ''}"
            values += bounds
        if equal > 1 and not self._settings.search_two_attributes:
            raise validation("Only one attribute can be searched for at a time.")
        return where, values

    def _read(self, table: str, datastore_id: str, ids: list[str]) -> list[ImageSet]:
        marks = ", ".join("?" * len(ids))
        return self._store.image_sets(f"datastore_id = ? AND id IN ({marks})", [datastore_id, *ids], table=table)

    # -- the index ------------------------------------------------------------------------------------------------

    def table(self) -> str:
        """The table to search: the image sets themselves, or what they were when the index saw them last."""
        fault = self._faults.take(LagSearch)
        lag = fault.seconds if fault else self._settings.search_lag_seconds
        return self._store.image_sets_at(self._clock.now() - lag) if lag > 0 else "image_sets"


def _bound(key: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
    if key == "DICOMStudyDateAndTime":
        date, time = value["DICOMStudyDate"].replace(".", ""), value.get("DICOMStudyTime", "").replace(":", "")
        whole, _, fraction = time.partition(".")
        return f"{date}{whole:0<6.6}{fraction:0<6.6}"
    return int(value) if isinstance(value, bool) else value


def _summary(image_set: ImageSet, now: float) -> dict[str, Any]:
    return {
        "imageSetId": image_set.id,
        "version": image_set.version,
        "createdAt": image_set.created,
        "updatedAt": image_set.updated,
        "lastAccessedAt": last_access(image_set),
        "storageTier": tier(image_set, now),
        "isPrimary": image_set.is_primary,
        "DICOMTags": image_set.tags,
    }
