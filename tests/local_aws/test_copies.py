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
        ("Series", {"SeriesInstanceUID": "1.2.826.0.1.99"}),
        ("Series", {"SeriesNumber": 8}),
        ("Study", {"SeriesNumber": 8, "StudyDescription": "other"}),
        ("Patient", {"SeriesNumber": 8, "PatientName": "Other^Name"}),
    ],
)
def test_sets_that_disagree_need_force(imaging, level, change):
    shared = new_series(StudyDescription="one")
    destination = make(imaging, shared)
    source = make(imaging, shared | change)
    imaging.stack.reset()
    kept = imaging.document(destination)
    copy(imaging, source, destination=(destination, "1"))
    state = unlocked(imaging, destination)
    assert (state["versionId"], state["imageSetState"], state["imageSetWorkflowStatus"]) == (
        "2",
        "ACTIVE",
        "COPY_FAILED",
    )
    assert state["message"] == MISMATCH.format(level)
    assert imaging.document(destination) == kept
    assert imaging.get(source)["imageSetState"] == "ACTIVE"
    assert "Image Set Copy Failed" in events(imaging, 3)
    copy(imaging, source, destination=(destination, "2"), force=True)
    state = unlocked(imaging, destination)
    assert (state["versionId"], state["imageSetWorkflowStatus"]) == ("3", "COPIED")
    assert state["overrides"] == {"forced": True}
    merged = imaging.document(destination)
    assert len(instances(merged)) == 4
    assert (merged["Patient"], merged["Study"]["DICOM"]) == (kept["Patient"], kept["Study"]["DICOM"])
    [(_, before)], [(_, after)] = kept["Study"]["Series"].items(), merged["Study"]["Series"].items()
    assert after["DICOM"] == before["DICOM"]
    versions = imaging.api.list_image_set_versions(datastoreId=imaging.datastore, imageSetId=destination)
    listed = [v["ImageSetWorkflowStatus"] for v in versions["imageSetPropertiesList"]]
    assert listed == ["COPIED", "COPY_FAILED", "CREATED"]


def test_what_is_refused_at_once(imaging):
    shared = new_series()
    source, error = make(imaging, shared), imaging.api.exceptions
    other = make(imaging, new_series())
    with pytest.raises(
        error.ResourceNotFoundException, match=r"Requested version\(s\) of ImageSet\(s\) is not the latest"
    ):
        copy(imaging, source, version="2")
    with pytest.raises(error.ResourceNotFoundException, match="not the latest"):
        copy(imaging, source, destination=(other, "7"))
    with pytest.raises(error.ResourceNotFoundException):
        copy(imaging, "0" * 32)
    with pytest.raises(error.ResourceNotFoundException):
        copy(imaging, source, destination=("0" * 32, "1"))
    with pytest.raises(error.ValidationException):
        copy(imaging, source, destination=(source, "1"))
    with pytest.raises(error.ValidationException, match="primary already"):
        copy(imaging, source, promoteToPrimary=True)
    unknown = {"Study": {"Series": {shared["SeriesInstanceUID"]: {"Instances": {"1.2.3": {}}}}}}
    with pytest.raises(error.ValidationException, match=r"no instance 1\.2\.3"):
        copy(imaging, source, instances={"SchemaVersion": 1.1} | unknown)
    for text in (
        "no JSON",
        "[]",
        "{}",
        "[" * 5000,
        {"SchemaVersion": 1.1},
        {"SchemaVersion": 2.0} | unknown,
        {"SchemaVersion": 1.1} | unknown,
        {"SchemaVersion": 1.1, "Study": {"Series": {"1.2": {}}}},
        {"SchemaVersion": 1.1, "Study": {"Series": []}},
        {"SchemaVersion": 1.1, "Study": {"Series": {shared["SeriesInstanceUID"]: {"Instances": {"1.2": 3}}}}},
    ):
        with pytest.raises(error.ValidationException):
            copy(imaging, source, instances=text)
    assert imaging.get(source)["imageSetState"] == "ACTIVE"


def conflicting(imaging, **more):
    """A primary image set and one of the same series that is not primary; their ids and the attributes."""
    shared = new_series()
    primary = make(imaging, shared)
    other = make(imaging, shared | {"PatientID": "WRONG", **more})
    assert imaging.get(other)["isPrimary"] is False
    return primary, other, shared


def repair(imaging, image_set, patient_id="COPY"):
    """Give an image set another PatientID; waits for it."""
    text = json.dumps({"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientID": patient_id}}})
    imaging.api.update_image_set_metadata(
        datastoreId=imaging.datastore,
        imageSetId=image_set,
        latestVersionId="1",
        updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": text.encode()}},
    )
    assert unlocked(imaging, image_set)["imageSetWorkflowStatus"] == "UPDATED"


def test_promotion_after_a_repair_joins_the_primary(imaging):
    primary, other, _ = conflicting(imaging)
    with pytest.raises(imaging.api.exceptions.ConflictException, match="Patient"):
        copy(imaging, other, promoteToPrimary=True)
    repair(imaging, other)
    made = copy(imaging, other, "2", promoteToPrimary=True)["destinationImageSetProperties"]
    assert made["imageSetId"] == primary
    state = unlocked(imaging, primary)
    assert (state["versionId"], state["imageSetWorkflowStatus"], state["isPrimary"]) == ("2", "COPIED", True)
    assert len(instances(imaging.document(primary))) == 4
    assert imaging.get(other)["isPrimary"] is False


def test_promotion_without_a_primary_makes_a_new_one(imaging):
    primary, other, shared = conflicting(imaging)
    imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=primary)
    unlocked(imaging, primary)
    imaging.stack.reset()
    made = copy(imaging, other, promoteToPrimary=True)["destinationImageSetProperties"]["imageSetId"]
    assert made not in {primary, other}
    assert unlocked(imaging, made)["isPrimary"] is True
    assert events(imaging, 3)["Image Set Copied"]["detail"]["isPrimary"] is True
    again = imaging.run({"x": make_object(**shared | {"PatientID": "WRONG"})}).manifest["imageSetsSummary"][0]
    assert (again["imageSetId"], again["isPrimary"], again["imageSetVersion"]) == (made, True, 2)


def test_promotion_that_the_study_contradicts(imaging):
    shared = new_series()
    make(imaging, shared)
    other = make(imaging, shared | {"SeriesInstanceUID": generate_uid(), "PatientID": "WRONG"})
    assert imaging.get(other)["isPrimary"] is False
    with pytest.raises(imaging.api.exceptions.ConflictException, match="study"):
        copy(imaging, other, promoteToPrimary=True)
    repair(imaging, other)
    made = copy(imaging, other, "2", promoteToPrimary=True)["destinationImageSetProperties"]["imageSetId"]
    assert unlocked(imaging, made)["isPrimary"] is True


def test_a_copy_that_breaks_later(imaging):
    source = make(imaging, new_series())
    imaging.stack.fault("fail_change", operation="copy", message="INTERNAL_ERROR: disk.")
    made = copy(imaging, source)["destinationImageSetProperties"]["imageSetId"]
    state = unlocked(imaging, made)
    assert (state["imageSetWorkflowStatus"], state["message"]) == ("COPY_FAILED", "INTERNAL_ERROR: disk.")
    assert instances(imaging.document(made)) == {}
    assert imaging.get(source)["imageSetState"] == "ACTIVE"


def test_frames_are_there_as_long_as_any_set_has_them(imaging):
    source = make(imaging, new_series(), 1)
    made = copy(imaging, source)["destinationImageSetProperties"]["imageSetId"]
    unlocked(imaging, made)
    [frame] = [f["ID"] for i in instances(imaging.document(made)).values() for f in i["ImageFrames"]]
    imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=source)
    unlocked(imaging, source)

    def read(image_set):
        answer = imaging.api.get_image_frame(
            datastoreId=imaging.datastore, imageSetId=image_set, imageFrameInformation={"imageFrameId": frame}
        )
        return answer["imageFrameBlob"].read()

    assert read(made)
    with pytest.raises(imaging.api.exceptions.ResourceNotFoundException):
        read(source)


def test_numbers_that_are_written_otherwise_and_empty_values_agree(imaging):
    """Size of 1.80 and of 1.8, a name and none: a part merges, and brings the name."""
    shared = new_series()
    primary = make(imaging, shared | {"PatientSize": "1.80", "PatientName": ""})
    other = make(imaging, shared | {"PatientSize": "1.8", "PatientID": "WRONG"})
    repair(imaging, other)
    copy(imaging, other, "2", (primary, "1"))
    assert unlocked(imaging, primary)["imageSetWorkflowStatus"] == "COPIED"
    document = imaging.document(primary)
    assert document["Patient"]["DICOM"]["PatientName"] == "Test^Name"
    assert document["Study"]["DICOM"]["PatientSize"].strip() == "1.80"
