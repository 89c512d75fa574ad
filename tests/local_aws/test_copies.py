"""CopyImageSet: states, versions, subsets, force, promotion, failures, events."""

from __future__ import annotations

import json

import pytest
from pydicom.uid import generate_uid

from tests.conftest import wait_for
from tests.local_aws.conftest import make_object

MISMATCH = "INVALID_REQUEST:  {} of SourceImageSet and DestinationImageSet don't match."


def new_series(**more):
    """Attributes of a series of its own."""
    return {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "PatientID": "COPY", **more}


def make(imaging, shared, count=2):
    """Import a series; returns the id of its image set."""
    objects = {str(n): make_object(**shared, InstanceNumber=n + 1) for n in range(count)}
    [summary] = imaging.run(objects).manifest["imageSetsSummary"]
    return summary["imageSetId"]


def copy(imaging, source, version="1", destination=None, instances=None, **flags):
    """CopyImageSet; `destination` is (id, version), `instances` the value of copiableAttributes."""
    information = {"sourceImageSet": {"latestVersionId": version}}
    if instances is not None:
        text = instances if isinstance(instances, str) else json.dumps(instances)
        information["sourceImageSet"]["DICOMCopies"] = {"copiableAttributes": text}
    if destination:
        information["destinationImageSet"] = {"imageSetId": destination[0], "latestVersionId": destination[1]}
    return imaging.api.copy_image_set(
        datastoreId=imaging.datastore, sourceImageSetId=source, copyImageSetInformation=information, **flags
    )


def unlocked(imaging, image_set):
    """GetImageSet once no operation is under way."""
    return wait_for(lambda: (s := imaging.get(image_set))["imageSetState"] != "LOCKED" and s, what="the image set")


def instances(document):
    return {uid: i for s in document["Study"]["Series"].values() for uid, i in s["Instances"].items()}


def part(shared, *sops):
    """copiableAttributes that names instances of a series."""
    series = {shared["SeriesInstanceUID"]: {"Instances": {sop: {} for sop in sops}}}
    return {"SchemaVersion": 1.1, "Study": {"Series": series}}


def events(imaging, count):
    """The next events of image sets, by detail-type, in no order."""
    found = []
    wait_for(lambda: len(found) >= count or (found.extend(imaging.stack.drain("IMAGE_SET")), False)[1], what="events")
    return {e["detail-type"]: e for e in found}


def test_a_copy_into_a_new_set(imaging):
    source = make(imaging, new_series())
    imaging.stack.reset()
    answer = copy(imaging, source)
    made, read = answer["destinationImageSetProperties"], answer["sourceImageSetProperties"]
    assert (made["imageSetState"], made["imageSetWorkflowStatus"], made["latestVersionId"]) == (
        "LOCKED",
        "COPYING",
        "1",
    )
    assert (read["imageSetState"], read["latestVersionId"]) == ("LOCKED", "1")
    assert read["imageSetWorkflowStatus"] == "COPYING_WITH_READ_ONLY_ACCESS"
    state = unlocked(imaging, made["imageSetId"])
    assert (state["imageSetState"], state["imageSetWorkflowStatus"], state["versionId"]) == ("ACTIVE", "COPIED", "1")
    assert state["isPrimary"] is False
    before, after = imaging.document(source), imaging.document(made["imageSetId"])
    assert after["ImageSetID"] == made["imageSetId"]
    assert after | {"ImageSetID": source} == before
    now = imaging.get(source)
    assert (now["imageSetState"], now["imageSetWorkflowStatus"], now["versionId"]) == ("ACTIVE", "CREATED", "1")
    told = events(imaging, 3)
    assert set(told) == {"Image Set Copying", "Image Set Copying With Read Only Access", "Image Set Copied"}
    copying = told["Image Set Copying"]
    assert copying["resources"] == [made["imageSetArn"]]
    assert copying["detail"]["sourceImageSetArn"] == read["imageSetArn"]
    assert copying["detail"]["imageSetWorkflowStatus"] == "COPYING"
    assert told["Image Set Copying With Read Only Access"]["resources"] == [read["imageSetArn"]]
    assert told["Image Set Copied"]["resources"] == [made["imageSetArn"]]


def test_a_part_is_moved_out_and_merged_back(imaging):
    shared = new_series()
    source = make(imaging, shared, 3)
    first, second, third = instances(imaging.document(source))
    made = copy(imaging, source, instances=part(shared, first))["destinationImageSetProperties"]["imageSetId"]
    unlocked(imaging, made)
    assert list(instances(imaging.document(made))) == [first]
    answer = copy(imaging, source, destination=(made, "1"), instances=part(shared, second, third))
    assert answer["destinationImageSetProperties"]["latestVersionId"] == "2"
    assert unlocked(imaging, made)["imageSetWorkflowStatus"] == "COPIED"
    assert list(instances(imaging.document(made))) == [first, second, third]
    assert list(instances(imaging.document(made, versionId="1"))) == [first]


def test_an_instance_is_in_a_set_once(imaging):
    source = make(imaging, new_series())
    made = copy(imaging, source)["destinationImageSetProperties"]["imageSetId"]
    unlocked(imaging, made)
    copy(imaging, source, destination=(made, "1"), force=True)
    state = unlocked(imaging, made)
    assert (state["imageSetWorkflowStatus"], state["versionId"]) == ("COPY_FAILED", "2")
    assert (
        state["message"] == "INVALID_REQUEST:  SOP Instances of SourceImageSet and DestinationImageSet are not unique."
    )


@pytest.mark.parametrize(
    ("level", "change"),
    [
        ("Series", {"SeriesInstanceUID": generate_uid()}),
        ("Series", {"Modality": "MR"}),
        ("Study", {"StudyDescription": "other"}),
        ("Patient", {"PatientName": "Other^Name"}),
    ],
)
def test_sets_that_disagree_need_force(imaging, level, change):
    shared = new_series(StudyDescription="one", PatientID="COPY-1")
    destination = make(imaging, shared)
    source = make(imaging, new_series(StudyInstanceUID=generate_uid()) | {"PatientID": "COPY-1"} | shared | change | {
        "StudyInstanceUID": shared["StudyInstanceUID"], "AccessionNumber": "A1",
    } | ({} if level == "Series" and "Modality" not in change else {"SeriesNumber": 8}))  # fmt: skip
    assert source != destination
    imaging.stack.reset()
    kept = imaging.document(destination)
    copy(imaging, source, destination=(destination, "1"))
    state = unlocked(imaging, destination)
    assert (state["versionId"], state["imageSetState"], state["imageSetWorkflowStatus"]) == (
        "2",
        "ACTIVE",
        "COPY_FAILED",
    )
    assert state["message"].startswith("INVALID_REQUEST:  ")
    assert imaging.document(destination) == kept
    assert "Image Set Copy Failed" in events(imaging, 3)
    copy(imaging, source, destination=(destination, "2"), force=True)
    state = unlocked(imaging, destination)
    assert (state["versionId"], state["imageSetWorkflowStatus"]) == ("3", "COPIED")
    assert state["overrides"] == {"forced": True}
    merged = imaging.document(destination)
    assert len(instances(merged)) == 4
    assert (merged["Patient"], merged["Study"]["DICOM"]) == (kept["Patient"], kept["Study"]["DICOM"])
    versions = imaging.api.list_image_set_versions(datastoreId=imaging.datastore, imageSetId=destination)
    listed = [v["ImageSetWorkflowStatus"] for v in versions["imageSetPropertiesList"]]
    assert listed == ["COPIED", "COPY_FAILED", "CREATED"]
