"""Which image set an instance goes into: the rules of "Understanding import jobs" as a table."""

from __future__ import annotations

import json

import pytest
from pydicom.uid import generate_uid

from tests.conftest import wait_for
from tests.local_aws.conftest import make_object

# The seven elements, each with another value than `make_object` gives. Another UID is another study or series.
CONFLICTS = {
    "StudyDate": "20250505",
    "AccessionNumber": "OTHER",
    "PatientID": "OTHER",
    "StudyID": "OTHER",
    "SeriesNumber": 99,
}
NO_CONFLICTS = {
    "PatientName": "Other^Name",
    "StudyDescription": "OTHER",
    "StudyTime": "235959",
    "Modality": "MR",
    "SeriesDescription": "OTHER",
    "PatientBirthDate": "19000101",
}


class Study:
    """Objects by short names: `a1` is instance 1 of series a; attributes come after a colon."""

    def __init__(self) -> None:
        self._uids: dict[str, str] = {}

    def _uid(self, name: str) -> str:
        return self._uids.setdefault(name, generate_uid())

    def make(self, text: str) -> bytes:
        """An object, such as `a1` or `a1 PatientID=X`."""
        name, *changes = text.split()
        return make_object(
            StudyInstanceUID=self._uid("study"),
            SeriesInstanceUID=self._uid(name[0]),
            SOPInstanceUID=self._uid(name),
            **dict(change.split("=") for change in changes),
        )


# Jobs, one after the other, each of objects in key order; then what each image set is at the end:
# (is primary, version, names of its instances), in the order in which they came to be.
TABLE = {
    "a series is one primary set": ([["a1", "a2"]], [(True, 1, "a1 a2")]),
    "it grows": ([["a1"], ["a2", "a3"]], [(True, 2, "a1 a2 a3")]),
    "again is a version": ([["a1"], ["a1"]], [(True, 2, "a1")]),
    "twice in a job is one instance": ([["a1", "a1"]], [(True, 1, "a1")]),
    "series of a study are sets of their own": (
        [["a1", "b1"], ["c1"]],
        [(True, 1, "a1"), (True, 1, "b1"), (True, 1, "c1")],
    ),
    "a conflict is not primary": ([["a1"], ["a2 PatientID=X"]], [(True, 1, "a1"), (False, 1, "a2")]),
    "of the same instance too": ([["a1"], ["a1 SeriesNumber=5"]], [(True, 1, "a1"), (False, 1, "a1")]),
    "a conflict again is a set again": (
        [["a1"], ["a2 PatientID=X"], ["a2 PatientID=X"]],
        [(True, 1, "a1"), (False, 1, "a2"), (False, 1, "a2")],
    ),
    "after a conflict the primary goes on": (
        [["a1"], ["a2 PatientID=X"], ["a2"]],
        [(True, 2, "a1 a2"), (False, 1, "a2")],
    ),
    "two variants in a job: the first is primary": (
        [["a1 PatientID=X", "a2", "a3", "a4 PatientID=X"]],
        [(True, 1, "a1 a4"), (False, 1, "a2 a3")],
    ),
    "three variants in a job": (
        [["a1", "a2 StudyID=X", "a3 StudyID=Y", "a4 StudyID=X"]],
        [(True, 1, "a1"), (False, 1, "a2 a4"), (False, 1, "a3")],
    ),
    "a series that disagrees with its study": (
        [["a1"], ["b1 PatientID=X"]],
        [(True, 1, "a1"), (False, 1, "b1")],
    ),
    "in one job as well": ([["a1", "b1 PatientID=X", "c1"]], [(True, 1, "a1"), (False, 1, "b1"), (True, 1, "c1")]),
    "and it becomes primary once it agrees": (
        [["a1", "b1 PatientID=X"], ["b1"]],
        [(True, 1, "a1"), (False, 1, "b1"), (True, 1, "b1")],
    ),
    "a series number belongs to its series": ([["a1", "b1 SeriesNumber=5"]], [(True, 1, "a1"), (True, 1, "b1")]),
    "a conflict before a merge in one job": (
        [["a2"], ["a1 StudyID=X", "a3"]],
        [(True, 2, "a2 a3"), (False, 1, "a1")],
    ),
    "a merge and a conflict in one job": (
        [["a1"], ["a2", "a3 StudyID=X", "a4"]],
        [(True, 2, "a1 a2 a4"), (False, 1, "a3")],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_grouping(imaging, case):
    jobs, expected = TABLE[case]
    study, sets, names = Study(), [], {}
    for job in jobs:
        outcome = imaging.run({f"{n:03}.dcm": study.make(text) for n, text in enumerate(job)})
        assert outcome.failure == []
        for entry in outcome.manifest["imageSetsSummary"]:
            if entry["imageSetId"] not in sets:
                sets.append(entry["imageSetId"])
            state = imaging.get(entry["imageSetId"])
            assert (state["versionId"], state["isPrimary"]) == (str(entry["imageSetVersion"]), entry["isPrimary"])
            assert state["imageSetWorkflowStatus"] == ("CREATED" if entry["imageSetVersion"] == 1 else "UPDATED")
        matched = [line["importResponse"]["imageSetId"] for line in outcome.success]
        assert {e["imageSetId"]: e["numberOfMatchedSOPInstances"] for e in outcome.manifest["imageSetsSummary"]} == {
            name: matched.count(name) for name in matched
        }
    names = {uid: name for name, uid in study._uids.items()}
    found = []
    for one in sets:
        [series] = imaging.document(one)["Study"]["Series"].values()
        state = imaging.get(one)
        members = " ".join(sorted(names[uid] for uid in series["Instances"]))
        found.append((state["isPrimary"], int(state["versionId"]), members))
    assert found == expected


@pytest.mark.parametrize("keyword", CONFLICTS)
def test_each_of_the_seven_decides(imaging, keyword):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    imaging.run({"1.dcm": make_object(**shared)})
    second = imaging.run({"2.dcm": make_object(**shared, **{keyword: CONFLICTS[keyword]})})
    assert [s["isPrimary"] for s in second.manifest["imageSetsSummary"]] == [False]


@pytest.mark.parametrize("keyword", NO_CONFLICTS)
def test_nothing_else_decides(imaging, keyword):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    imaging.run({"1.dcm": make_object(**shared)})
    second = imaging.run({"2.dcm": make_object(**shared, **{keyword: NO_CONFLICTS[keyword]})})
    assert [(s["isPrimary"], s["imageSetVersion"]) for s in second.manifest["imageSetsSummary"]] == [(True, 2)]


def test_an_instance_is_compared_with_its_own_series_first(imaging):
    """An update of one series leaves its study in disagreement: what agrees with the series merges all the same."""
    study, one, two, three = (generate_uid() for _ in range(4))
    old = {"StudyInstanceUID": study, "SeriesInstanceUID": one}
    new = {"StudyInstanceUID": study, "SeriesInstanceUID": two}
    imaging.run({"1.dcm": make_object(**old)})
    changed = imaging.run({"2.dcm": make_object(**new)}).success[0]["importResponse"]["imageSetId"]
    attributes = {"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientID": "RIGHT"}}}
    imaging.api.update_image_set_metadata(
        datastoreId=imaging.datastore,
        imageSetId=changed,
        latestVersionId="1",
        force=True,
        updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": json.dumps(attributes).encode()}},
    )
    wait_for(lambda: imaging.get(changed)["imageSetState"] == "ACTIVE", what="the update")
    [merged] = imaging.run({"3.dcm": make_object(**new, PatientID="RIGHT")}).manifest["imageSetsSummary"]
    assert (merged["imageSetId"], merged["imageSetVersion"], merged["isPrimary"]) == (changed, 3, True)
    [conflict] = imaging.run({"4.dcm": make_object(**new)}).manifest["imageSetsSummary"]
    assert (conflict["imageSetId"] != changed, conflict["isPrimary"]) == (True, False)
    # A series without a primary is compared with the oldest primary of its study.
    third = {"StudyInstanceUID": study, "SeriesInstanceUID": three}
    for patient, primary in (("RIGHT", False), ("P1", True)):
        [summary] = imaging.run({"5.dcm": make_object(**third, PatientID=patient)}).manifest["imageSetsSummary"]
        assert summary["isPrimary"] is primary


def test_padding_is_no_conflict(imaging):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    imaging.run({"1.dcm": make_object(**shared, StudyID="S1")})
    second = imaging.run({"2.dcm": make_object(**shared, StudyID=" S1 ")})
    assert second.manifest["imageSetsSummary"][0]["isPrimary"] is True


def test_after_a_delete_there_is_a_new_primary(imaging):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    first = imaging.run({"1.dcm": make_object(**shared)}).success[0]["importResponse"]["imageSetId"]
    imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=first)
    wait_for(lambda: imaging.get(first)["imageSetState"] == "DELETED", what="the delete")
    # Of another patient even: the study has no primary that it could disagree with.
    again = imaging.run({"1.dcm": make_object(**shared, PatientID="OTHER")})
    [summary] = again.manifest["imageSetsSummary"]
    assert summary["imageSetId"] != first
    assert (summary["isPrimary"], summary["imageSetVersion"]) == (True, 1)


def test_search_knows_a_merge_at_once(imaging):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}

    def tags():
        answer = imaging.api.search_image_sets(
            datastoreId=imaging.datastore,
            searchCriteria={
                "filters": [{"operator": "EQUAL", "values": [{"DICOMSeriesInstanceUID": shared["SeriesInstanceUID"]}]}]
            },
        )
        [found] = answer["imageSetsMetadataSummaries"]
        return found["version"], found["DICOMTags"]

    imaging.run({"1.dcm": make_object(**shared)})
    version, first = tags()
    assert (version, first["DICOMNumberOfStudyRelatedInstances"]) == (1, 1)
    assert "DICOMStudyDescription" not in first
    imaging.run({"2.dcm": make_object(**shared, StudyDescription="Came later"), "3.dcm": make_object(**shared)})
    version, second = tags()
    assert (version, second["DICOMNumberOfStudyRelatedInstances"]) == (2, 3)
    assert second["DICOMStudyDescription"] == "Came later"
    imaging.run({"2.dcm": make_object(**shared, PatientID="OTHER")})
    answer = imaging.api.search_image_sets(
        datastoreId=imaging.datastore,
        searchCriteria={
            "filters": [{"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": shared["StudyInstanceUID"]}]}]
        },
    )
    found = {s["isPrimary"]: s["DICOMTags"]["DICOMPatientId"] for s in answer["imageSetsMetadataSummaries"]}
    assert found == {True: "P1", False: "OTHER"}


def test_jobs_at_the_same_time_lose_nothing(imaging):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    uris = [imaging.put({f"{n}.dcm": make_object(**shared) for n in range(5)}) for _ in range(6)]
    jobs = [imaging.start(uri)["jobId"] for uri in uris]
    outcomes = [imaging.outcome(job) for job in jobs]
    [name] = {s["imageSetId"] for o in outcomes for s in o.manifest["imageSetsSummary"]}
    assert sorted(s["imageSetVersion"] for o in outcomes for s in o.manifest["imageSetsSummary"]) == [1, 2, 3, 4, 5, 6]
    [series] = imaging.document(name)["Study"]["Series"].values()
    assert len(series["Instances"]) == 30
