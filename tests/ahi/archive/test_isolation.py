"""Poison found: whatever the culprits are and however many share a job, they and nobody else are given up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ahi.archive.isolation import Verdict, parted, verdict


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
