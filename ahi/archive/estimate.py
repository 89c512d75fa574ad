"""What the import of a plan takes: time under the quotas and cost by item, each with its formula.

Belongs here: the formulas. Does not belong here: the plan (`plan`), prices (`prices`), and how it is shown.
"""

from __future__ import annotations

import heapq
import statistics
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.archive.choices import Period
from ahi.archive.imports import RUNS, SHARDS_OF_A_RUN
from ahi.archive.jobs import most_in_flight
from ahi.archive.prices import PriceTable, price_table
from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_archives import Source

if TYPE_CHECKING:
    from ahi.archive.plan import Plan
    from ahi.pipeline import Pipeline

GB = 2**30
MONTH_DAYS = 30
LIST_KEYS = 1_000
FEWEST_JOBS, MOST_JOBS = 5, 500
"""Ended jobs from which, and newest of them of which, the duration of a job is learnt."""


@dataclass(frozen=True)
class Step:
    """One thing that all of the import has to pass, and how long that takes by itself."""

    name: str
    seconds: float
    formula: str


@dataclass(frozen=True)
class Item:
    """One line of the bill."""

    name: str
    quantity: float
    unit: str
    usd: float | None
    """None: billed, but the price table does not know at what."""
    formula: str
    period: Period


@dataclass(frozen=True)
class Estimate:
    """What an import takes. Counts are of the plan; image sets, time and cost are expected values."""

    n_objects: int
    n_bytes: int
    n_jobs: int
    n_jobs_in_place: int
    n_copies: int
    copied_bytes: int
    n_image_sets: int
    image_sets_range: tuple[int, int]
    """Between which the number lies, at 95 %, as far as the sample tells."""
    image_sets_formula: str
    seconds: float
    """From the first header to the last document: every shard goes through all steps, one behind another."""
    steps: tuple[Step, ...]
    items: tuple[Item, ...]
    prices_as_of: str
    prices_region: str
    note: str

    @property
    def longest(self) -> str:
        """Name of the step that takes longest by itself."""
        return max(self.steps, key=lambda step: step.seconds).name

    def usd(self, *periods: Period) -> float:
        """Sum of the lines of some periods whose price is known."""
        return sum(item.usd or 0.0 for item in self.items if item.period in periods)


@dataclass(frozen=True)
class _Duration:
    """Seconds of an import job: some for itself and some for each object."""

    base: float
    per_object: float
    source: str

    def of(self, n_objects: int) -> float:
        return self.base + self.per_object * n_objects


def estimate(pipeline: Pipeline, plan: Plan) -> Estimate:
    """What the shards of a plan take to import."""
    table = price_table()
    n_image_sets, likely, formula = _image_sets(plan)
    copied, duration = plan.copied, _duration(pipeline, table)
    pace = _pace(pipeline, plan, table)
    return Estimate(
        plan.n_objects,
        plan.n_bytes,
        len(plan.shards),
        sum(shard.in_place_prefix is not None for shard in plan.shards),
        copied.n_objects,
        copied.n_bytes,
        n_image_sets,
        likely,
        formula,
        _whole(plan, pace, duration, n_image_sets),
        tuple(_steps(plan, pace, duration, n_image_sets)),
        tuple(_items(plan, table, n_image_sets)),
        table.as_of,
        table.region,
        table.note,
    )


def _image_sets(plan: Plan) -> tuple[int, tuple[int, int], str]:
    """Image sets, one a series: a folder begins one, and so does an object of another series than the one before."""
    others = max(0, plan.n_objects - plan.n_folders)
    pairs, changes = plan.series.n_pairs, plan.series.n_changes
    if not pairs:
        whole = plan.n_folders, plan.n_folders + others
        return plan.n_folders, whole, f"{plan.n_folders:,} folders; no neighbours in a folder were read"
    share = changes / pairs
    # Where all neighbours were read nothing is guessed.
    low, high = _likely(changes, pairs) if pairs < others else (share, share)
    number, *likely = (plan.n_folders + round(others * one) for one in (share, low, high))
    formula = f"{plan.n_folders:,} folders + {others:,} further objects x {changes} series begun in {pairs} sampled"
    return number, (likely[0], likely[1]), formula


def _likely(hits: int, tries: int) -> tuple[float, float]:
    """Between which a share lies at 95 % when it was found in so many of some tries (Wilson's interval)."""
    z2 = 1.96**2
    middle, spread = (hits + z2 / 2) / (tries + z2), hits * (tries - hits) / tries + z2 / 4
    half = 1.96 * sqrt(spread) / (tries + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class _Pace:
    """What goes on a second, and how many jobs at a time."""

    starts: float
    flying: int
    headers: float
    copies: float
    looks: float
    reads: float


def _pace(pipeline: Pipeline, plan: Plan, table: PriceTable) -> _Pace:
    settings, quota = pipeline.settings, plan.limits.starts_per_second
    return _Pace(
        min(plan.archive.rate or quota, quota),
        # The rest of the slots is kept for uploads, and runs have no more jobs under way.
        min(most_in_flight(settings), RUNS * SHARDS_OF_A_RUN),
        table.values["headers_a_second"],
        plan.limits.copies_per_second,
        settings.image_set_looks_per_second,
        settings.metadata_reads_per_second,
    )


def _whole(plan: Plan, pace: _Pace, duration: _Duration, n_image_sets: int) -> float:
    """Time of the whole import: shard by shard through all steps, each of which takes one after the other.

    The longest step decides, and before it comes what the first shard needs, behind it what the last one does. Runs
    take so many shards each, so many runs at a time, and the next begins when all shards of one are through.
    """
    sets = n_image_sets / max(1, plan.n_objects)
    headers = copies = looks = reads = 0.0
    started, ends, slots, begins, last = -1 / pace.starts, list[float](), [0.0] * RUNS, 0.0, 0.0
    for place, shard in enumerate(plan.shards):
        if place % SHARDS_OF_A_RUN == 0:
            begins, last = heapq.heappop(slots), 0.0
        headers = max(headers, begins) + shard.n_objects / pace.headers
        copied = 0 if shard.in_place_prefix is not None else shard.n_objects
        copies = max(headers, copies) + copied / pace.copies
        free = heapq.heappop(ends) if len(ends) >= pace.flying else 0.0
        started = max(copies, started + 1 / pace.starts, free)
        ended = started + duration.of(shard.n_objects)
        heapq.heappush(ends, ended)
        last = max(last, ended)
        if (place + 1) % SHARDS_OF_A_RUN == 0:
            heapq.heappush(slots, last)
        looks = max(ended, looks) + shard.n_objects * sets / pace.looks
        reads = max(looks, reads) + shard.n_objects * sets / pace.reads
    return reads


def _steps(plan: Plan, pace: _Pace, duration: _Duration, n_image_sets: int) -> list[Step]:
    limits, n_jobs = plan.limits, len(plan.shards)
    busy = sum(duration.of(shard.n_objects) for shard in plan.shards)
    rate, flying, headers, copies = pace.starts, pace.flying, pace.headers, plan.copied.n_objects
    looks, reads, sets = pace.looks, pace.reads, f"{n_image_sets:,}"
    by_files, by_bytes = ceil(plan.n_objects / limits.max_files), ceil(plan.n_bytes / limits.max_bytes)
    longest = max((shard.n_objects for shard in plan.shards), default=0)
    line = f"{duration.base:.0f} s + {duration.per_object:.2g} s an object ({duration.source})"
    return [
        Step("start rate", n_jobs / rate, f"jobs {n_jobs:,} / {rate:g} starts a second"),
        Step("jobs in flight", busy / flying, f"jobs {n_jobs:,} x ({line}) / {flying} in flight"),
        Step("one job", duration.of(longest) if n_jobs else 0.0, f"the largest, {longest:,} objects: {line}"),
        Step(
            "bytes and files a job",
            max(by_files, by_bytes) / rate,
            f"jobs at least max({plan.n_objects:,} / {limits.max_files:,} files, {plan.n_bytes / 1e9:,.3g} GB / "
            f"{limits.max_bytes / 1e9:g} GB) = {max(by_files, by_bytes):,} / {rate:g} starts a second",
        ),
        Step(
            "copies",
            copies / limits.copies_per_second,
            f"{copies:,} copies / {limits.copies_per_second:g} a second in one run",
        ),
        Step("header reads", plan.n_objects / headers, f"{plan.n_objects:,} objects / {headers:g} a second in one run"),
        Step("image set looks", n_image_sets / looks, f"{sets} image sets / {looks:g} GetImageSet a second"),
        Step("documents", n_image_sets / reads, f"{sets} image sets / {reads:g} GetImageSetMetadata a second"),
    ]


def _duration(pipeline: Pipeline, table: PriceTable) -> _Duration:
    """How long jobs take: a line through the newest jobs that ended here, or an assumption where there are few."""
    jobs = catalog.jobs
    ended = (jobs.c.service == SERVICE, jobs.c.state == JobState.SETTLED, jobs.c.submitted_at.is_not(None))
    query = sa.select(jobs.c.n_objects, jobs.c.submitted_at, jobs.c.ended_at).where(
        *ended, jobs.c.ended_at.is_not(None)
    )
    with pipeline.index.engine.connect() as connection:
        rows = connection.execute(query.order_by(jobs.c.ended_at.desc()).limit(MOST_JOBS)).all()
    sizes = [int(row.n_objects) for row in rows]
    seconds = [max(0.0, (row.ended_at - row.submitted_at).total_seconds()) for row in rows]
    if len(rows) < FEWEST_JOBS:
        values = table.values
        return _Duration(values["job_seconds"], values["job_seconds_an_object"], "assumed")
    source = f"{len(rows)} jobs here"
    if len(set(sizes)) > 1:
        line = statistics.linear_regression(sizes, seconds)
        if line.slope > 0 and line.intercept > 0:
            return _Duration(line.intercept, line.slope, source)
    return _Duration(0.0, sum(seconds) / max(1, sum(sizes)), source)


def _price(usd: float) -> str:
    """A price for as many as make it readable."""
    for text, many in (("", 1), (" a thousand", 1e3), (" a million", 1e6)):
        if not usd or usd * many >= 1e-3:  # noqa: PLR2004
            return f"{usd * many:g} USD{text}"
    return f"{usd:g} USD"


def _items(plan: Plan, table: PriceTable, n_image_sets: int) -> list[Item]:
    """Lines of the bill: what the import uses once, and what is stored each month after it."""
    values, n_jobs, copied = table.values, len(plan.shards), plan.copied

    def line(name: str, price: str, quantity: float, why: str, period: Period = Period.ONCE) -> Item:
        usd = table.usd[price]
        cost = None if usd is None else quantity * usd
        shown = "price not known" if usd is None else _price(usd)
        return Item(name, quantity, table.units[price], cost, f"{why} x {shown}", period)

    if plan.archive.source is Source.S3_INVENTORY:
        look = line("inventory", "s3_inventory_object", plan.look.n_objects, f"{plan.look.n_objects:,} keys reported")
    else:
        pages = ceil(plan.look.n_objects / LIST_KEYS)
        look = line("listing", "s3_put_copy_list_request", pages, f"{plan.look.n_objects:,} keys / {LIST_KEYS:,}")
    calls = 2 * n_jobs + 2 * n_image_sets
    smallest = values["healthimaging_smallest_image_set_bytes"]
    stored = max(plan.n_bytes, n_image_sets * smallest) / GB
    why = f"max({plan.n_bytes / GB:,.3g} GB, {n_image_sets:,} image sets x 5 MB)"
    indexed = plan.n_objects * values["healthimaging_structured_bytes_an_instance"]
    indexed = (indexed + n_image_sets * values["healthimaging_structured_bytes_a_series"]) / GB
    days = values["staging_days"]
    # Once when the job is planned and once when it is started.
    folder_pages = 2 * sum(ceil(one.n_objects / LIST_KEYS) for one in plan.shards if one.in_place_prefix is not None)
    return [
        look,
        line("header reads", "s3_get_request", plan.n_objects + plan.n_headers_read, "one GET an object"),
        line(
            "looks at folders",
            "s3_put_copy_list_request",
            folder_pages,
            f"{folder_pages:,} LIST requests, 2 x keys / {LIST_KEYS:,} a job in place",
        ),
        line("reads by HealthImaging", "s3_get_request", plan.n_objects, "one GET an object, of the archive or a copy"),
        line("copies", "s3_put_copy_list_request", copied.n_objects, f"{copied.n_objects:,} COPY requests"),
        line(
            "staged copies",
            "s3_standard_storage",
            copied.n_bytes / GB * days / MONTH_DAYS,
            f"{copied.n_bytes / GB:,.3g} GB for {days:g} of {MONTH_DAYS} days",
        ),
        line("import", "healthimaging_import", plan.n_bytes / GB, f"{plan.n_bytes / GB:,.3g} GB"),
        line("API calls", "healthimaging_api_call", calls, f"2 a job ({n_jobs:,}) + 2 an image set ({n_image_sets:,})"),
        line("result files", "s3_put_copy_list_request", 4 * n_jobs, f"4 PUT requests a job ({n_jobs:,})"),
        line("result files read", "s3_get_request", 4 * n_jobs, f"4 GET requests a job ({n_jobs:,})"),
        line("kept documents", "s3_put_copy_list_request", n_image_sets, f"{n_image_sets:,} PUT requests"),
        line("Frequent Access", "healthimaging_frequent_access", stored, why, Period.FIRST_MONTH),
        line("Archive Instant Access", "healthimaging_archive_instant_access", stored, why, Period.LATER_MONTHS),
        line(
            "structured storage",
            "healthimaging_structured_storage",
            indexed,
            "680 B an instance + 830 B a series (1,024 B a study are left out)",
            Period.EACH_MONTH,
        ),
    ]
