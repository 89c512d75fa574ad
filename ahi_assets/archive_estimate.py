"""What a plan of an archive takes, as metadata with tables and pictures. Belongs here: the form.

Does not belong here: the numbers and their formulas (`ahi.archive.estimate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi.archive.choices import Period
from ahi.reasons import Reason
from ahi_assets.pictures import stacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.archive.estimate import Estimate
    from ahi.archive.plan import Plan


def shown(made: Plan, taken: Estimate) -> Mapping[str, dg.RawMetadataValue]:
    """A plan and what it takes as entries of metadata: counts, two tables and two pictures."""
    name = made.archive.archive_id
    aside = {f"set aside: {reason}": some.n_objects for reason, some in sorted(made.set_aside.items())}
    steps: list[dict[str, str | float]] = [
        {"step": s.name, "seconds": round(s.seconds, 1), "formula": s.formula} for s in taken.steps
    ]
    items: list[dict[str, str]] = [
        {
            "item": item.name,
            "USD": "not known" if item.usd is None else f"{item.usd:,.4f}",
            "paid": str(item.period),
            "formula": item.formula,
        }
        for item in taken.items
    ]
    bill = {item.name: {str(item.period): item.usd} for item in taken.items if item.usd}
    entries: dict[str, dg.RawMetadataValue] = {
        "objects": taken.n_objects,
        "bytes": taken.n_bytes,
        "import jobs": taken.n_jobs,
        "import jobs in place": taken.n_jobs_in_place,
        "copies": taken.n_copies,
        "in shards before": made.known.n_objects,
        **aside,
        "to restore first": cold.n_objects if (cold := made.set_aside.get(Reason.ARCHIVED)) else 0,
        "expected image sets": f"{taken.n_image_sets:,} = {taken.image_sets_formula}; "
        "{:,} to {:,} as the sample tells".format(*taken.image_sets_range),
        "hours": round(taken.seconds / 3_600, 2),
        "USD once": round(taken.usd(Period.ONCE), 4),
        "USD first month": round(taken.usd(Period.FIRST_MONTH, Period.EACH_MONTH), 4),
        "USD each unread month": round(taken.usd(Period.LATER_MONTHS, Period.EACH_MONTH), 4),
        "prices": f"{taken.prices_region}, {taken.prices_as_of}. {taken.note}",
        "time": dg.MetadataValue.table([dg.TableRecord(row) for row in steps]),
        "time as a picture": stacked(
            f"Hours of each step; {taken.seconds / 3_600:.3g} in all, as every shard goes through all of them",
            {step.name: {"": step.seconds / 3_600} for step in taken.steps},
            " h",
        ),
        "cost": dg.MetadataValue.table([dg.TableRecord({**row}) for row in items]),
        "cost as a picture": stacked("USD by item", bill, " USD"),
    }
    return {f"{name}: {entry}": value for entry, value in entries.items()}
