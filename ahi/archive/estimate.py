"""What the import of a plan takes: time under the quotas and cost by item, each with its formula.

Belongs here: the formulas. Does not belong here: the plan (`plan`), prices (`prices`), and how it is shown.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.archive.choices import Period
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
    image_sets_formula: str
    steps: tuple[Step, ...]
    items: tuple[Item, ...]
    prices_as_of: str
    prices_region: str
    note: str

    @property
    def seconds(self) -> float:
        """The steps go on side by side, so the longest decides."""
        return max(step.seconds for step in self.steps) if self.n_jobs else 0.0

    @property
    def longest(self) -> str:
        """Name of the step that decides."""
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
    n_image_sets, formula = _image_sets(plan)
    copied = plan.copied
    return Estimate(
        plan.n_objects,
        plan.n_bytes,
        len(plan.shards),
        sum(shard.in_place_prefix is not None for shard in plan.shards),
        copied.n_objects,
        copied.n_bytes,
        n_image_sets,
        formula,
        tuple(_steps(pipeline, plan, table, n_image_sets)),
        tuple(_items(plan, table, n_image_sets)),
        table.as_of,
        table.region,
        table.note,
    )


def _image_sets(plan: Plan) -> tuple[int, str]:
    """Image sets, one a series: a folder begins one, and so does an object of another series than the one before."""
    others = max(0, plan.n_objects - plan.n_folders)
    pairs, changes = plan.series.n_pairs, plan.series.n_changes
    if not pairs:
        return plan.n_folders, f"{plan.n_folders:,} folders; no neighbours in a folder were read"
    number = plan.n_folders + round(others * changes / pairs)
    formula = f"{plan.n_folders:,} folders + {others:,} further objects x {changes} series begun in {pairs} sampled"
    return number, formula


def _steps(pipeline: Pipeline, plan: Plan, table: PriceTable, n_image_sets: int) -> list[Step]:
    settings, limits, n_jobs = pipeline.settings, plan.limits, len(plan.shards)
    duration = _duration(pipeline, table)
    busy = sum(duration.of(shard.n_objects) for shard in plan.shards)
    rate, copies = limits.starts_per_second, plan.copied.n_objects
    # The rest of the slots is kept for uploads.
    flying = max(1, int(settings.max_jobs_in_flight * settings.archive_share))
    headers = table.values["headers_a_second"]
    looks, reads, sets = settings.image_set_looks_per_second, settings.metadata_reads_per_second, f"{n_image_sets:,}"
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
    return [
        look,
        line("header reads", "s3_get_request", plan.n_objects + plan.n_headers_read, "one GET an object"),
        line("copies", "s3_put_copy_list_request", copied.n_objects, f"{copied.n_objects:,} COPY requests"),
        line(
            "staged copies",
            "s3_standard_storage",
            copied.n_bytes / GB * days / MONTH_DAYS,
            f"{copied.n_bytes / GB:,.3g} GB for {days:g} of {MONTH_DAYS} days",
        ),
        line("import", "healthimaging_import", plan.n_bytes / GB, f"{plan.n_bytes / GB:,.3g} GB"),
        line("API calls", "healthimaging_api_call", calls, f"2 a job ({n_jobs:,}) + 2 an image set ({n_image_sets:,})"),
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
