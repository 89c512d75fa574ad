"""The forecast, from counts that come in lumps; and tokens of several buckets taken together."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahi import pacing
from ahi.archive.progress import SAMPLE_SECONDS, Sample, reckon
from ahi.clock import now
from ahi.index.store import Index

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def course(shards: int, seconds_of_shard: float, late: float, share: float, size: int = 500) -> list[Sample]:
    """Samples of an import that starts a job each so many seconds, the first through when it is `late` seconds old."""
    whole = late + (shards - 1) * seconds_of_shard
    points, at = [], 0.0
    while at <= whole:
        through = 0 if at < late else min(shards, 1 + int((at - late) / seconds_of_shard))
        points.append(Sample(START + dt.timedelta(seconds=at), through * size, False, None))
        if through >= share * shards:
            break
        at += SAMPLE_SECONDS
    return points


@given(st.integers(40, 200), st.floats(3, 60), st.floats(1, 300))
def test_the_forecast_at_a_quarter_is_off_by_15_percent_at_most(shards, seconds_of_shard, late):
    points = course(shards, seconds_of_shard, late, 0.25)
    rate = reckon(points)
    assert rate
    at = (points[-1].at - START).total_seconds()
    expected = at + (shards * 500 - points[-1].n_final) / rate
    whole = late + (shards - 1) * seconds_of_shard
    assert abs(expected - whole) <= 0.15 * whole


def test_a_pause_does_not_count_as_slowness():
    steady = [Sample(START + dt.timedelta(seconds=5 * n), 100 * n, False, None) for n in range(10)]
    rest = [Sample(START + dt.timedelta(seconds=45 + 5 * n), 900, True, None) for n in range(1, 100)]
    again = [Sample(START + dt.timedelta(seconds=545 + 5 * n), 900 + 100 * n, False, None) for n in range(1, 10)]
    assert reckon([*steady, *rest[:3], *again]) == pytest.approx(20, rel=0.25)


def test_tokens_of_several_buckets_are_taken_together_or_not_at_all(tmp_path):
    index = Index(tmp_path, f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    quick, slow = pacing.Want("quick", 1_000.0), pacing.Want("slow", 0.001)
    with index.transaction() as connection:
        assert pacing.take_all(connection, [quick, slow]) == 0
        wait = pacing.take_all(connection, [quick, slow])
        assert 0 < wait <= 1_000
        row = connection.exec_driver_sql("SELECT updated_at FROM pacing WHERE bucket = 'quick'").one()
    assert now().timestamp() - row[0] / 1e6 < 60
