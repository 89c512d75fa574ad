"""Token buckets shared through the catalog."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from ahi import pacing
from ahi.index import catalog
from ahi.index.store import Index


@pytest.fixture
def index(tmp_path):
    return Index(tmp_path / "index", f"sqlite:///{tmp_path / 'catalog.sqlite'}")


def back_date(index, seconds):
    table = catalog.pacing
    with index.transaction() as connection:
        then = connection.execute(sa.select(table.c.updated_at)).scalar_one() - dt.timedelta(seconds=seconds)
        connection.execute(table.update().values(updated_at=then))


def take(index, rate=1.0, burst=2.0):
    with index.transaction() as connection:
        return pacing.take(connection, "start", rate=rate, burst=burst)


def test_a_burst_is_spent_and_then_paced(index):
    assert [take(index), take(index)] == [0.0, 0.0]
    wait = take(index)
    assert 0 < wait <= 1.0


@pytest.mark.parametrize(("seconds", "tokens"), [(0.5, 0), (1.0, 1), (2.0, 2), (3_600, 2)])
def test_tokens_come_back_at_the_rate_up_to_the_burst(index, seconds, tokens):
    take(index), take(index)
    back_date(index, seconds)
    taken = [take(index) for _ in range(4)]
    assert taken.count(0.0) == tokens


def test_a_clock_set_back_takes_nothing_away(index):
    take(index)
    back_date(index, -3_600)
    assert take(index) == 0.0
