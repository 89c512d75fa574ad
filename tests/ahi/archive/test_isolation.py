"""Poison found: whatever the culprits are and however many share a job, they and nobody else are given up."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from itertools import count

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ahi.archive.isolation import COMPLETED, Verdict, alone_since, others_complete, parted, verdict
from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.index.catalog import JobState


def isolate(size: int, culprits: set[int]) -> tuple[set[int], set[int], int]:
    """Play jobs, each of which fails when a culprit is in it. Returns who is given up, who is in, and the starts."""
    given_up, imported, starts, groups = set[int](), set[int](), 0, [(list(range(size)), 0)]
    while groups:
        group, attempts = groups.pop()
        starts += 1
        if not culprits & set(group):
            imported |= set(group)
            continue
        match verdict(len(group), attempts + 1, most_attempts=3, others_complete=True):
            case Verdict.TOGETHER:
                groups.append((group, attempts + 1))
            case Verdict.PARTED:
                groups += [(part, attempts + 1) for part in parted(group)]
            case Verdict.GIVEN_UP:
                given_up |= set(group)
    return given_up, imported, starts


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=5))))
def test_the_culprits_are_given_up_and_all_others_go_in(case):
    size, culprits = case
    given_up, imported, _ = isolate(size, culprits)
    assert given_up == culprits
    assert imported == set(range(size)) - culprits


def test_one_bad_file_among_5000_takes_as_many_starts_as_it_says():
    assert isolate(5_000, {4_321})[2] == 37


def test_nobody_is_blamed_while_no_job_completes():
    for size in (1, 2, 5_000):
        judged = [verdict(size, n, most_attempts=3, others_complete=False) for n in (1, 2, 3, 9)]
        assert Verdict.GIVEN_UP not in judged
        assert judged[-1] is Verdict.STALLED


@given(
    st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1, max_size=4))),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nobody_else_is_blamed_and_all_others_go_in_whatever_order_jobs_end_in(site, case, most, order):
    size, culprits = case
    with site.pipeline.index.engine.connect() as connection:
        given_up, imported, stalled = search(connection, order, size, culprits, most=most)
        connection.rollback()
    # Where only culprits are left, nothing shows that it is not the service; no other is ever with them.
    assert (given_up | stalled, imported) == (culprits, set(range(size)) - culprits)
    assert not stalled or len(culprits) > 1 or size == 1


@given(st.integers(1, 60), st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nobody_is_blamed_while_every_job_fails(site, size, most, order):
    with site.pipeline.index.engine.connect() as connection:
        assert search(connection, order, size, set(range(size)), most=most) == (set(), set(), set(range(size)))
        connection.rollback()


def search(
    connection: sa.Connection, order: random.Random, size: int, culprits: set[int], *, most: int
) -> tuple[set[int], set[int], set[int]]:
    """Play the jobs of one shard into the catalog, one after the other in any order, as a slow service does.

    Returns who is given up, who is in, and who is left when nothing moves any more.
    """
    clock = (dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=n) for n in count())
    given_up, imported = set[int](), set[int]()
    planned = [(list(range(size)), 1, next(clock), None)]
    failed = list[tuple[list[int], int, str]]()
    while planned:
        group, attempts, planned_at, alone = planned.pop(order.randrange(len(planned)))
        name, is_bad = uuid.uuid4().hex, bool(culprits & set(group))
        alone = alone or (planned_at if len(group) == 1 else None)
        put_job(connection, name, "FAILED" if is_bad else COMPLETED, planned_at, next(clock), next(clock), alone)
        if is_bad:
            failed.append((group, attempts, name))
        else:
            imported |= set(group)
        waiting, failed = failed, []
        for group_, tried, job_key in waiting:
            works, since = others_complete(connection, job_key), alone_since(connection, job_key)
            match verdict(len(group_), tried, most_attempts=most, others_complete=works):
                case Verdict.TOGETHER:
                    planned.append((group_, tried + 1, next(clock), since))
                case Verdict.PARTED:
                    planned += [(part, tried + 1, next(clock), since) for part in parted(group_)]
                case Verdict.GIVEN_UP:
                    given_up |= set(group_)
                case Verdict.STALLED:
                    failed.append((group_, tried, job_key))
    return given_up, imported, {one for group, _, _ in failed for one in group}


def put_job(
    connection: sa.Connection,
    name: str,
    status: str,
    planned_at: dt.datetime,
    submitted_at: dt.datetime,
    ended_at: dt.datetime,
    alone: dt.datetime | None,
) -> None:
    row = {"job_key": name, "service": SERVICE, "state": JobState.SETTLED, "status": status, "shard_key": "old-00001"}
    row |= {"planned_at": planned_at, "ended_at": ended_at, "settled_at": ended_at, "day": "2026-01-01"}
    row |= {"submitted_at": submitted_at, "alone_since": alone}
    row |= dict.fromkeys(("datastore_id", "input_uri", "output_uri"), "") | {"n_objects": 1, "n_bytes": 1}
    connection.execute(catalog.jobs.insert().values(in_place=False, **row))
