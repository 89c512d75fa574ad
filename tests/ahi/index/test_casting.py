"""Casting a column at once gives what casting value by value gives."""

from __future__ import annotations

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from ahi.index.casting import Caster
from ahi.index.columns import _SCALAR_TYPES, Tier, dicom
from ahi.index.values import cast

UTC = dt.UTC
TEXTS = st.one_of(
    st.text("0123456789.+-eE \\^=_naif:/Yé\0", max_size=8),
    st.sampled_from(
        ["1 ", " 1.5", "+07", "1e400", "nan", "1_0", "20240229", "101530.5", "045Y", "A\\B", "2", "1.0", "70000"]
    ),
)
SCALARS = st.one_of(TEXTS, st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none())
VALUES = st.one_of(SCALARS, st.lists(TEXTS, max_size=3), st.lists(SCALARS, max_size=3), st.just([{"CodeValue": "1"}]))
# What a series usually has: values of one kind, many of them the same.
COLUMN = st.one_of(
    st.lists(VALUES, min_size=1, max_size=6),
    st.lists(TEXTS, min_size=1, max_size=6),
    st.lists(st.integers(-5, 70_000), min_size=1, max_size=6),
    st.lists(st.lists(st.sampled_from(["1", "2.5 ", "-3e2"]), min_size=3, max_size=3), min_size=1, max_size=6),
    st.tuples(VALUES, st.integers(1, 5)).map(lambda one: [one[0]] * one[1]),
)
# Every VR that a column may have, and sequences.
VRS = [*sorted(_SCALAR_TYPES.keys() - {"US or SS"}), "SQ"]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    vr=st.sampled_from([*VRS, "US or SS"]),
    vm=st.sampled_from(["1", "1-n", "3", "1-2", "2-n", "2-2n"]),
    values=COLUMN,
    zone=st.sampled_from([None, UTC]),
    again=st.booleans(),
)
def test_a_column_is_cast_as_its_values_are(vr, vm, values, zone, again):
    column = dicom("Instance", "Thing", 0x00280010, vr, vm, Tier.LIMITED, "A thing.")
    one, offsets = Caster(column), [zone] * len(values)
    for _ in range(1 + again):
        failures: dict = {}
        is_constant, found = one.all(values, failures, offsets)
        cells = [found] * len(values) if is_constant else found
        for position, value in enumerate(values):
            expected: list = []
            typed = cast(column, value, expected, zone)
            assert repr(cells[position]) == repr(typed)
            assert failures.get(position, []) == expected
