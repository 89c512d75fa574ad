"""Random searches against a model of a few lines: matching, order and pages agree."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from tests.local_aws.conftest import make_object
from tests.local_aws.dicomweb.conftest import Plane, new_plane

IDS = ("A1", "A12", "AB", "B1", "B12", "a1")
DATES = ("20200101", "20200131", "20200201", "20201231", "20210101")
TIMES = ("000000", "095959.999999", "100000", "100000.5", "235959")
MODALITIES = ("CT", "MR", "CR")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows(aws_stack: Any) -> Iterator[tuple[Plane, list[Row]]]:
    """Forty series of twenty studies, as they were stored, in the order of their storing."""
    plane, made = new_plane(aws_stack, "dicomweb-model"), []
    draw = random.Random(20)
    for study in range(20):
        shared: Row = {
            "StudyInstanceUID": generate_uid(),
            "StudyID": str(study),
            "PatientID": draw.choice(IDS),
            "StudyDate": draw.choice(DATES),
            "StudyTime": draw.choice(TIMES),
            "AccessionNumber": draw.choice(("X", "Y")),
        }
        series = [
            shared | {"SeriesInstanceUID": generate_uid(), "Modality": draw.choice(MODALITIES), "SeriesNumber": n}
            for n in draw.sample(range(1, 9), 2)
        ]
        assert plane.store(*(make_object(**one) for one in series)).status_code == 200
        made += series
    yield plane, made
    plane.session.close()


def pattern() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(IDS), st.text("AB12a*?", min_size=1, max_size=4))


def span(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, str]]:
    """A range by its ends, either of them open."""
    ends = st.tuples(st.sampled_from(("", *values)), st.sampled_from(("", *values)))
    return ends.filter(lambda pair: pair != ("", ""))


def moment(time: str, *, last: bool = False) -> str:
    whole, _, fraction = time.partition(".")
    return f"{whole}.{fraction.ljust(6, '9' if last else '0')}"


def matches(row: Row, query: Row, studies: dict[str, set[str]]) -> bool:
    """What a search means, key by key."""
    any_day, any_time = ("", ""), ("", "")
    first_day, last_day = query.get("StudyDate", any_day)
    first, last = query.get("StudyTime", any_time)
    time = moment(row["StudyTime"])
    return (
        fnmatch.fnmatchcase(row["PatientID"], query.get("PatientID", "*"))
        and query.get("AccessionNumber", row["AccessionNumber"]) == row["AccessionNumber"]
        and first_day <= row["StudyDate"] <= (last_day or "9")
        and (not first or moment(first) <= time)
        and (not last or time <= moment(last, last=True))
        and query.get("ModalitiesInStudy", row["Modality"]) in studies[row["StudyInstanceUID"]]
        and query.get("Modality", row["Modality"]) == row["Modality"]
    )


STUDY_QUERY = {
    "PatientID": pattern(),
    "AccessionNumber": st.sampled_from(("X", "Y", "Z")),
    "StudyDate": span(DATES),
    "StudyTime": span(TIMES),
    "ModalitiesInStudy": st.sampled_from(MODALITIES),
}


def encoded(query: Row, **more: int) -> str:
    return urlencode({k: "-".join(v) if isinstance(v, tuple) else v for k, v in query.items()} | more)


@given(
    st.fixed_dictionaries({}, optional=STUDY_QUERY | {"Modality": st.sampled_from(MODALITIES)}),
    st.sampled_from(("study", "series")),
    st.integers(1, 7),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_searches_agree_with_a_model(rows: tuple[Plane, list[Row]], query: Row, level: str, page: int) -> None:
    plane, made = rows
    if level == "study":
        query = {k: v for k, v in query.items() if k != "Modality"}
    studies: dict[str, set[str]] = {}
    for row in made:
        studies.setdefault(row["StudyInstanceUID"], set()).add(row["Modality"])
    found = [row for row in made if matches(row, query, studies)]
    if level == "study":
        # The latest stored study first.
        wanted, resource, tag = (
            list(dict.fromkeys(r["StudyInstanceUID"] for r in reversed(found))),
            "studies",
            "0020000D",
        )
    else:
        found.sort(key=lambda r: (r["SeriesNumber"], r["SeriesInstanceUID"]))
        wanted, resource, tag = [r["SeriesInstanceUID"] for r in found], "series", "0020000E"
    got = [r[tag]["Value"][0] for r in plane.json(f"{resource}?{encoded(query)}")]
    assert got == wanted
    paged = [r[tag]["Value"][0] for r in plane.json(f"{resource}?{encoded(query, limit=page, offset=2)}")]
    assert paged == wanted[2 : 2 + page]
