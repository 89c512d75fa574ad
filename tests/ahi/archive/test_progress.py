"""The forecast, from counts that come in lumps; and tokens of several buckets taken together."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ahi import pacing
from ahi.archive import control, forecast
from ahi.archive.forecast import SAMPLE_SECONDS, Sample, reckon
from ahi.archive.progress import grown_shards, progress
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import ObjectState
from ahi.index.catalog_archives import ShardState, Source
from ahi.index.store import Index

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Import:
    """An import of equal shards, one started each so many seconds.

    Results are read `late`, those of several shards together if they `gather`; `ahead` are in the ledger before their
    start, or none is counted there.
    """

    shards: int
    seconds_of_shard: float
    late: float
    gather: float = 0.0
    ahead: int = 0
    size: int = 500

    def through(self, at: float) -> int:
        seen = at - at % self.gather if self.gather else at
        n_shards = 0 if seen < self.late else 1 + int((seen - self.late) / self.seconds_of_shard)
        return self.size * min(self.shards, n_shards)

    def entered(self, at: float) -> int:
        return self.size * min(self.shards, 1 + self.ahead + int(at / self.seconds_of_shard)) if self.ahead else 0

    @property
    def seconds(self) -> float:
        last = self.late + (self.shards - 1) * self.seconds_of_shard
        return math.ceil(last / self.gather) * self.gather if self.gather else last

    def error(self, share: float) -> float:
        """Of the first forecast that is made when a share of the objects is through, as a share of the whole time."""
        points, at = list[Sample](), 0.0
        while True:
            points.append(Sample(START + dt.timedelta(seconds=at), at, self.entered(at), self.through(at), None))
            left = forecast.remaining(points, self.shards * self.size)
            if left is not None and points[-1].n_final >= share * self.shards * self.size:
                return abs(at + left - self.seconds) / self.seconds
            at += SAMPLE_SECONDS


@given(st.integers(40, 200), st.floats(3, 60), st.floats(1, 300))
def test_the_forecast_at_a_quarter_is_off_by_15_percent_at_most(shards, seconds_of_shard, late):
    assert Import(shards, seconds_of_shard, late).error(0.25) <= 0.15


@given(st.integers(40, 200), st.floats(1.2, 60), st.floats(1, 60), st.floats(5, 20), st.integers(1, 3))
@example(40, 1.25, 1.0, 15.0, 1)
def test_so_it_is_where_the_results_of_several_shards_are_read_together(shards, seconds, late, gather, ahead):
    one = Import(shards, seconds, late, gather, ahead)
    # An import of a minute whose results are read every 15 s cannot be known better than by those 15 s.
    assert one.error(0.25) <= max(0.15, gather / one.seconds)


@pytest.fixture
def index(tmp_path) -> Index:
    return Index(tmp_path, f"sqlite:///{tmp_path / 'catalog.sqlite'}")


def noted(index: Index, course: list[tuple[float, int]], *, paused: frozenset[float] = frozenset()) -> list[Sample]:
    """Samples at so many seconds with so many objects through, as runs leave them, each with its own forecast."""
    with index.transaction() as connection:
        for seconds, n_final in course:
            rate = reckon(forecast.samples(connection, "old"))
            at = START + dt.timedelta(seconds=seconds)
            ends_at = at + dt.timedelta(seconds=(10_000 - n_final) / rate) if rate else None
            values = {"n_total": 10_000, "n_entered": 0, "n_final": n_final, "n_failed": 0, "ends_at": ends_at}
            forecast.note(connection, "old", at, values | {"is_paused": seconds in paused})
        return forecast.samples(connection, "old")


def test_a_pause_does_not_count_as_slowness(index):
    course = [(5.0 * n, 100 * n) for n in range(10)]
    rest = [(45 + 5.0 * n, 900) for n in range(1, 100)]
    course += [*rest, *((545 + 5.0 * n, 900 + 100 * n) for n in range(1, 10))]
    points = noted(index, course, paused=frozenset(seconds for seconds, _ in rest))
    assert reckon(points) == pytest.approx(20, rel=0.05)
    assert points[-1].active_seconds == 45 + 40


def test_a_forecast_is_as_new_as_what_was_counted_for_it(index):
    points = noted(index, [(5.0 * n, 50 * n) for n in range(10)])
    at = START + dt.timedelta(seconds=49)  # the last sample is of 45 s
    present = forecast.and_now(points, at, n_entered=0, n_final=490)
    assert forecast.remaining(present, 10_000) == pytest.approx(951, rel=0.001)
    assert forecast.and_now([], at, n_entered=0, n_final=490) == []
    points = noted(index, [(50.0, 500)], paused=frozenset([50.0]))
    assert forecast.and_now(points, START + dt.timedelta(seconds=54), n_entered=0, n_final=500)[-1].active_seconds == 45


def test_what_entered_before_anything_was_through_says_how_fast_it_enters():
    entered, final = [0, 10, 20, 30, 40, 50, 52], [0, 0, 0, 0, 0, 10, 12]
    course = [
        Sample(START + dt.timedelta(seconds=5 * n), 5.0 * n, into, through, None)
        for n, (into, through) in enumerate(zip(entered, final, strict=True))
    ]
    # By the last 5 s alone another 948 would take 40 minutes.
    assert forecast.remaining(course, 1_000) == pytest.approx(948 / 1.8 + 24.5, rel=0.05)


def test_between_two_ends_nothing_seems_to_take_longer(index):
    # A hundred enter each 5 s, and are through 10 s later, two lots at once.
    course = [
        Sample(START + dt.timedelta(seconds=5 * n), 5.0 * n, 100 * n, 200 * max(0, n // 2 - 1), None) for n in range(20)
    ]
    for some in (course[:17], course[:18]):
        last = some[-1]
        left = (10_000 - last.n_entered) / 20
        assert forecast.remaining(some, 10_000) == pytest.approx(left + 10, abs=0.1)


def test_idle_days_neither_slow_the_rate_nor_dilute_the_error(index):
    # Half at 10 a second, five days of nothing, the other half at 5: the forecast was off by a third of 1,500 s.
    first = [(5.0 * n, 50 * n) for n in range(101)]
    later = [(432_500 + 5.0 * n, 5_000 + 25 * n) for n in range(1, 201)]
    points = noted(index, [*first, *later])
    assert points[-1].active_seconds == pytest.approx(1_495)
    assert reckon(points) == pytest.approx(5, rel=0.02)
    off = forecast.error(points[:120], points[119].at + dt.timedelta(seconds=900))
    assert off == pytest.approx(0.33, abs=0.03)


def test_few_samples_are_kept_of_a_long_import_and_say_the_same(index, monkeypatch):
    monkeypatch.setattr(forecast, "MOST", 200)
    with index.transaction() as connection:
        for n in range(500):
            values = {"n_total": 10_000, "n_entered": 0, "n_failed": 0, "ends_at": None, "is_paused": False}
            forecast.note(connection, "old", START + dt.timedelta(seconds=5 * n), values | {"n_final": n})
        points = forecast.samples(connection, "old")
    assert len(points) <= forecast.MOST
    assert points[0].at == START
    assert points[-1].active_seconds == 5.0 * 499
    assert reckon(points) == pytest.approx(0.2)


def archived(index: Index, shards: list[dict[str, object]]) -> None:
    """An archive with shards in these states."""
    with index.transaction() as connection:
        archive = {"archive_id": "old", "uri": "s3://b/", "bucket": "b", "prefix": "", "source": Source.LISTING}
        archive |= {"created_at": START, "is_continuous": True, "generation": 0, "planned_generation": 0}
        connection.execute(c.archives.insert().values(archive))
        for number, shard in enumerate(shards, 1):
            row = {"shard_key": f"old-{number:05d}", "archive_id": "old", "number": number, "generation": 1}
            row |= {"n_objects": 1, "n_bytes": 1, "manifest_key": "m", "row_group": 0, "planned_at": START}
            connection.execute(c.archive_shards.insert().values(row | {"state": ShardState.PLANNED} | shard))


def test_nothing_is_imported_by_itself_before_somebody_launched_the_first_plan_that_was_kept(index):
    # Two looks before the first plan that was kept: a dry run confirms nothing.
    archived(index, [{"generation": 2}, {"generation": 2}, {"generation": 3}])
    assert grown_shards(index, most=9) == []
    with index.transaction() as connection:
        first = c.archive_shards.update().where(c.archive_shards.c.number == 1)
        connection.execute(first.values(run_id="by hand"))
    assert grown_shards(index, most=9) == ["old-00003"]


def test_without_a_run_at_work_no_end_is_promised(index):
    archived(index, [{"n_objects": 5_000}])
    noted(index, [(5.0 * n, 50 * n) for n in range(50)])
    seen = progress(index, "old")
    assert (seen.is_at_work, seen.objects_per_second, seen.ends_at) == (False, None, None)
    with index.transaction() as connection:
        until = now() + dt.timedelta(seconds=60)
        connection.execute(c.archive_shards.update().values(lease_until=until))
    seen = progress(index, "old")
    assert seen.is_at_work
    assert seen.objects_per_second == pytest.approx(10)
    assert seen.ends_at


def test_the_forecast_counts_from_now_and_what_was_known_has_entered(index):
    # 4 objects enter a second and 2 that are known; each is through 10 s later. The last sample is 20 s old.
    def entered(seconds: int) -> int:
        return 6 * seconds

    archived(
        index, [{"state": ShardState.STARTED, "n_objects": 600, "n_known": 80, "lease_until": now() + dt.timedelta(1)}]
    )
    begun = now() - dt.timedelta(seconds=50)
    with index.transaction() as connection:
        for seconds in range(0, 35, 5):
            through = entered(max(0, seconds - 10))
            values = {"n_total": 600, "n_entered": entered(seconds), "n_final": through, "n_failed": 0, "ends_at": None}
            forecast.note(connection, "old", begun + dt.timedelta(seconds=seconds), values | {"is_paused": False})
        row = {"bucket": "b", "key": "k", "state_since": START, "day": "2026-11-01", "attempts": 1}
        rows = [
            row | {"object_id": str(n), "shard_key": "old-00001", "state": "imported" if n < 160 else "importing"}
            for n in range(entered(50) - 80)
        ]
        connection.execute(catalog.objects.insert(), rows)
    seen = progress(index, "old")
    assert (seen.entered + seen.known, seen.final) == (entered(50), entered(40))
    assert seen.ends_at is not None
    assert (seen.ends_at - begun).total_seconds() == pytest.approx(110, abs=3)


def test_a_shard_whose_objects_are_through_is_not_shown_as_cancelled(index):
    archived(index, [{"state": ShardState.CANCELLED, "n_objects": 2}, {"state": ShardState.CANCELLED}])
    row = {"bucket": "b", "state": ObjectState.IMPORTED, "state_since": START, "day": "2026-11-01", "attempts": 1}
    with index.transaction() as connection:
        for number, shard in enumerate(("old-00001", "old-00001", "old-00002")):
            connection.execute(
                catalog.objects.insert().values(row | {"object_id": str(number), "key": "k", "shard_key": shard})
            )
    seen = progress(index, "old")
    assert (seen.share, seen.shards, seen.ended_at) == (1.0, {"done": 2}, START)
    with index.transaction() as connection:
        connection.execute(catalog.objects.delete().where(catalog.objects.c.object_id == "0"))
    # One object of it is in no row of the ledger: it is not through.
    assert progress(index, "old").shards == {"cancelled": 1, "done": 1}


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_is_a_number_of_jobs(index, rate):
    archived(index, [])
    with pytest.raises(PermanentError, match="more than 0"):
        control.set_rate(index, "old", rate)
    assert progress(index, "old").starts_per_second is None


def test_tokens_of_several_buckets_are_taken_together_or_not_at_all(tmp_path):
    index = Index(tmp_path, f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    quick, slow = pacing.Want("quick", 1_000.0), pacing.Want("slow", 0.001)
    with index.transaction() as connection:
        assert pacing.take_all(connection, [quick, slow]) == 0
        wait = pacing.take_all(connection, [quick, slow])
        assert 0 < wait <= 1_000
        row = connection.exec_driver_sql("SELECT updated_at FROM pacing WHERE bucket = 'quick'").one()
    assert now().timestamp() - row[0] / 1e6 < 60
