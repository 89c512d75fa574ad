"""What is sent again, and what is taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ahi.fhir.changes import Change, Comparison, changes, retraction


def state(index):
    return {one.reference: one.digest for one in index.resources()}


def test_from_nothing_to_a_study_to_nothing(index):
    index.add()
    made = index.resources()
    first = Comparison({})
    assert [change for change, _ in first.changed(made)] == [Change.CREATE] * 3
    assert first.deleted() == []
    again = Comparison(state(index))
    assert list(again.changed(made)) == []
    assert again.deleted() == []
    gone = Comparison(state(index))
    assert list(gone.changed([])) == []
    assert [one.partition("/")[0] for one in gone.deleted()] == ["ImagingStudy", "Patient", "Endpoint"]


def test_a_late_series_updates_its_study_alone(index):
    index.add().add(StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1", patient_key="b" * 64)
    before = state(index)
    index.add({"SOPInstanceUID": "1.2.3.5.1"}, SeriesInstanceUID="1.2.3.5", image_set_id="f" * 32)
    ((change, study),) = Comparison(before).changed(index.resources())
    assert change is Change.UPDATE
    assert study.body.count(b'"uid"') == 4


def test_a_deleted_study_is_deleted_and_its_patient_with_the_last_one(index):
    index.add().add(StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1")
    before = state(index)
    index.series.pop()
    comparison = Comparison(before)
    assert list(comparison.changed(index.resources())) == []
    assert [one.partition("/")[0] for one in comparison.deleted()] == ["ImagingStudy"]


def test_a_retraction_is_valid_and_names_no_image(validator):
    found = retraction("i" * 64, "p" * 64)
    assert validator.check(found.body).ok
    assert b"entered-in-error" in found.body
    assert found.reference == f"ImagingStudy/{'i' * 64}"


STATES = st.dictionaries(
    st.sampled_from([f"{kind}/{n}" for kind in ("Patient", "ImagingStudy") for n in "123"]), st.sampled_from("xyz")
)


@given(STATES, STATES)
def test_changes_lead_from_one_state_to_the_other_and_break_no_reference(previous, current):
    reached = dict(previous)
    found = changes(previous, current)
    for change, reference in found:
        assert (reference in previous) == (change is not Change.CREATE)
        if change is Change.DELETE:
            del reached[reference]
        else:
            reached[reference] = current[reference]
    assert reached == current
    kinds = [(change is Change.DELETE, reference.partition("/")[0]) for change, reference in found]
    assert kinds == sorted(kinds, key=lambda one: (one[0], (one[1] == "ImagingStudy") != one[0]))
