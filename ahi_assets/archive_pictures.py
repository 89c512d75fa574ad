"""How far an archive is, as metadata with pictures. Belongs here: the form. The counting is `ahi.archive.progress`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi_assets.pictures import line, stacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.archive.progress import Progress
    from ahi.index.store import Index


def pictures(index: Index, seen: Progress) -> Mapping[str, dg.MetadataValue]:
    """Percent, rate, expected end with its error so far, states, and the way there."""
    from ahi.archive.progress import course
    from ahi.archive.trouble import trouble

    found: dict[str, dg.MetadataValue] = {
        "archive: percent": dg.MetadataValue.float(round(100 * seen.share, 1)),
        "archive: states": stacked("Objects by state", {seen.archive_id: {**seen.states}}),
    }
    if seen.objects_per_second:
        found["archive: objects a second"] = dg.MetadataValue.float(round(seen.objects_per_second, 2))
    if seen.ends_at:
        found["archive: expected end"] = dg.MetadataValue.timestamp(seen.ends_at)
    if seen.eta_error is not None:
        found["archive: error of that so far, percent"] = dg.MetadataValue.float(round(100 * seen.eta_error, 1))
    failed: dict[str, dict[str, float]] = {}
    for one in trouble(index, seen.archive_id):
        failed.setdefault(one.reason_code, {})[one.manufacturer or "unknown"] = one.objects
    if failed:
        found["archive: failures"] = stacked("Failed objects by reason and maker", failed)
    points = course(index, seen.archive_id)
    if len(points) > 1:
        found["archive: course"] = line("Objects through, by minutes since the start", points, most=seen.objects)
    return found
