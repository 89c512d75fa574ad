"""UpdateImageSetMetadata: what may be changed, study-wide updates, reverts. LOCKED windows: `test_locks.py`."""

from __future__ import annotations

import json

import pytest
from pydicom.uid import generate_uid

from tests.conftest import wait_for
from tests.local_aws.conftest import Imaging
from tests.local_aws.test_copies import events, instances, make, new_series, unlocked


def attributes(level, shared, sop, values, **more):
    """A payload that says something at one level."""
    if level == "Patient":
        return {"Patient": {"DICOM": values}}
    if level == "Study":
        return {"Study": {"DICOM": values}}
    series = {"DICOM": values} if level == "Series" else {"Instances": {sop: {"DICOM": values, **more}}}
    return {"Study": {"Series": {shared["SeriesInstanceUID"]: series}}}


def update(imaging, image_set, version="1", *, remove=None, change=None, revert=None, **flags):
    """UpdateImageSetMetadata with payloads given as objects."""
    texts = {"removableAttributes": remove, "updatableAttributes": change}
    payload = {k: json.dumps({"SchemaVersion": 1.1, **v}).encode() for k, v in texts.items() if v is not None}
    return imaging.api.update_image_set_metadata(
        datastoreId=imaging.datastore,
        imageSetId=image_set,
        latestVersionId=version,
        updateImageSetMetadataUpdates={"revertToVersionId": revert} if revert else {"DICOMUpdates": payload},
        **flags,
    )


@pytest.fixture(scope="module")
def secondary(aws_stack):
    """A set that is not primary, so that force may change all of it: its id, attributes and first instance."""
    imaging = Imaging(aws_stack)
    shared = new_series()
    make(imaging, shared, 1)
    image_set = make(imaging, shared | {"StudyID": "S2"}, 2)
    assert imaging.get(image_set)["isPrimary"] is False
    return image_set, shared, next(iter(instances(imaging.document(image_set))))


# Level, attribute, value; whether force helps. The last word says which constraint it is.
CONSTRAINTS = [
    ("Patient", "PatientName", "New^Name", "free", ""),
    ("Patient", "PatientName", None, "free", "emptied"),
    ("Study", "StudyTime", "235959.5", "free", ""),
    ("Series", "SeriesDescription", "x", "free", ""),
    ("Series", "SeriesNumber", "12", "free", ""),
    ("Instance", "InstanceNumber", "5 ", "free", ""),
    ("Instance", "AcquisitionNumber", "3", "free", "added"),
    ("Study", "StudyID", "S9", "force", "identifier"),
    ("Instance", "SOPInstanceUID", "1.2.826.77", "force", "identifier"),
    ("Study", "ReferencedStudySequence", [{"ReferencedSOPInstanceUID": "1.2"}], "force", "sequence"),
    ("Instance", "ImageType", ["DERIVED", "SECONDARY"], "force", "multivalued"),
    ("Study", "StudyDate", "yesterday", "force", "VR"),
    ("Patient", "PatientBirthDate", "2000", "force", "VR"),
    ("Instance", "InstanceNumber", "one", "force", "VR"),
    ("Instance", "BitsStored", "12", "force", "VR"),
    ("Instance", "NoSuchAttribute", "x", "force", "not in the standard"),
    ("Patient", "PatientID", ["a", "b"], "never", "form"),
    ("Patient", "PatientID", {"a": 1}, "never", "form"),
    ("Patient", "PatientID", "x" * 257, "never", "length"),
    ("Patient", "StudyDescription", "x", "never", "level"),
    ("Study", "PatientID", "x", "never", "level"),
    ("Series", "InstanceNumber", "1", "never", "level"),
    ("Instance", "Modality", "MR", "never", "level"),
    ("Series", "00191001", "x", "never", "private, not at the instance"),
    ("Instance", "PixelData", "AAAA", "never", "generated"),
    ("Instance", "MaxPixelValue", 3, "never", "generated"),
    ("Series", "SeriesInstanceUID", "", "never", "empty UID"),
    ("Series", "SeriesInstanceUID", "1.2/../3", "never", "no UID"),
    ("Instance", "SOPInstanceUID", "1" * 65, "never", "no UID"),
    ("Instance", "SOPClassUID", "CT", "never", "no UID"),
    ("Instance", "SOPClassUID", 5, "never", "no UID"),
    ("Instance", "SOPClassUID", 0, "never", "no UID"),
    ("Instance", "SOPInstanceUID", 5, "never", "no UID"),
    ("Instance", "SOPInstanceUID", None, "never", "no UID"),
    ("Instance", "SOPInstanceUID", ["1.2"], "never", "no UID"),
    ("Series", "SeriesDescription", "x" * 64, "free", "length of LO"),
    ("Series", "SeriesDescription", "x" * 65, "force", "length of LO"),
    ("Instance", "ImageComments", "x" * 1025, "free", "length of LT"),
    ("Series", "PerformingPhysicianName", "=".join("x" * 64 for _ in range(3)), "force", "names have several values"),
    ("Study", "ReferringPhysicianName", "=".join("x" * 64 for _ in range(3)), "free", "length of PN"),
    ("Study", "ReferringPhysicianName", "x" * 65 + "=y", "force", "length of PN"),
]


@pytest.mark.parametrize(("level", "key", "value", "allowed", "why"), CONSTRAINTS)
def test_constraints(imaging, secondary, level, key, value, allowed, why):
    image_set, shared, _ = secondary
    sop = next(iter(instances(imaging.document(image_set))))
    wanted = attributes(level, shared, sop, {key: value})
    version = imaging.get(image_set)["versionId"]
    refused = imaging.api.exceptions.ValidationException
    if allowed != "free":
        with pytest.raises(refused, match=key):
            update(imaging, image_set, version, change=wanted)
    if allowed == "never":
        with pytest.raises(refused, match=key):
            update(imaging, image_set, version, change=wanted, force=True)
        assert imaging.get(image_set)["versionId"] == version
        return
    answer = update(imaging, image_set, version, change=wanted, force=allowed == "force")
    assert answer["latestVersionId"] == str(int(version) + 1)
    assert unlocked(imaging, image_set)["imageSetWorkflowStatus"] == "UPDATED"
    found = imaging.document(image_set)
    series = next(iter(found["Study"]["Series"].values()))
    place = {"Patient": found["Patient"], "Study": found["Study"], "Series": series}
    body = next(iter(series["Instances"].values())) if level == "Instance" else place[level]
    assert body["DICOM"][key] == value


def test_uids_of_primary_sets_stay(imaging):
    shared = new_series()
    image_set = make(imaging, shared, 1)
    [sop] = instances(imaging.document(image_set))
    for level, key in (("Study", "StudyInstanceUID"), ("Series", "SeriesInstanceUID"), ("Instance", "SOPInstanceUID")):
        with pytest.raises(imaging.api.exceptions.ValidationException):
            update(imaging, image_set, change=attributes(level, shared, sop, {key: "1.2.3"}), force=True)


def test_a_series_is_renamed(imaging):
    shared = new_series()
    make(imaging, shared, 1)
    image_set = make(imaging, shared | {"StudyID": "S2"}, 1)
    new = generate_uid()
    update(imaging, image_set, change=attributes("Series", shared, "", {"SeriesInstanceUID": new}), force=True)
    assert unlocked(imaging, image_set)["overrides"] == {"forced": True}
    document = imaging.document(image_set)
    assert list(document["Study"]["Series"]) == [new]
    found = imaging.api.search_image_sets(
        datastoreId=imaging.datastore,
        searchCriteria={"filters": [{"operator": "EQUAL", "values": [{"DICOMSeriesInstanceUID": new}]}]},
    )["imageSetsMetadataSummaries"]
    assert [(s["imageSetId"], s["version"]) for s in found] == [(image_set, 2)]


def test_two_instances_of_one_uid_fail_later(imaging):
    shared = new_series()
    make(imaging, shared, 1)
    image_set = make(imaging, shared | {"StudyID": "S2"}, 2)
    first, second = instances(imaging.document(image_set))
    imaging.stack.reset()
    wanted = attributes("Instance", shared, first, {"SOPInstanceUID": second})
    assert update(imaging, image_set, change=wanted, force=True)["latestVersionId"] == "2"
    state = unlocked(imaging, image_set)
    assert (state["versionId"], state["imageSetState"], state["imageSetWorkflowStatus"]) == (
        "2",
        "ACTIVE",
        "UPDATE_FAILED",
    )
    assert "SOPInstanceUID" in state["message"]
    assert list(instances(imaging.document(image_set))) == [first, second]
    assert set(events(imaging, 2)) == {"Image Set Updating", "Image Set Update Failed"}
    imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=image_set)
    state = unlocked(imaging, image_set)
    assert (state["imageSetWorkflowStatus"], state.get("message")) == ("DELETED", None)


def test_private_attributes(imaging):
    shared = new_series()
    image_set = make(imaging, shared, 1)
    [sop] = instances(imaging.document(image_set))
    new = attributes("Instance", shared, sop, {"001910F9": "97"}, DICOMVRs={"001910F9": "DS"})
    refused = imaging.api.exceptions.ValidationException
    with pytest.raises(refused):
        update(imaging, image_set, change=new)
    with pytest.raises(refused):
        update(imaging, image_set, change=attributes("Instance", shared, sop, {"001910F9": "97"}), force=True)
    update(imaging, image_set, change=new, force=True)
    unlocked(imaging, image_set)
    body = instances(imaging.document(image_set))[sop]
    assert (body["DICOM"]["001910F9"], body["DICOMVRs"]) == ("97", {"001910F9": "DS"})
    update(imaging, image_set, "2", change=attributes("Instance", shared, sop, {"001910F9": "98"}), force=True)
    unlocked(imaging, image_set)
    assert instances(imaging.document(image_set))[sop]["DICOM"]["001910F9"] == "98"
    with pytest.raises(refused):
        update(imaging, image_set, "3", remove=attributes("Instance", shared, sop, {"001910F9": ""}))
    update(imaging, image_set, "3", remove=attributes("Instance", shared, sop, {"001910F9": ""}), force=True)
    unlocked(imaging, image_set)
    assert instances(imaging.document(image_set))[sop]["DICOMVRs"] == {}


def test_removing(imaging):
    shared = new_series(StudyDescription="gone")
    image_set = make(imaging, shared, 2)
    first, second = instances(imaging.document(image_set))
    refused = imaging.api.exceptions.ValidationException
    one = {"Study": {"Series": {shared["SeriesInstanceUID"]: {"Instances": {first: {}}}}}}
    with pytest.raises(refused, match=f"{first} is removed with force"):
        update(imaging, image_set, remove=one)
    unknown = {"Study": {"Series": {"1.2.3": {"DICOM": {"Modality": ""}}}}}
    with pytest.raises(refused, match=r"no series 1\.2\.3"):
        update(imaging, image_set, remove=unknown)
    update(imaging, image_set, remove=one | {"Patient": {"DICOM": {"PatientName": "whatever"}}}, force=True)
    unlocked(imaging, image_set)
    document = imaging.document(image_set)
    assert list(instances(document)) == [second]
    assert "PatientName" not in document["Patient"]["DICOM"]
    last = {"Study": {"Series": {shared["SeriesInstanceUID"]: {"Instances": {second: {}}}}}}
    with pytest.raises(refused, match="last instance"):
        update(imaging, image_set, "2", remove=last, force=True)
    with pytest.raises(refused):
        update(imaging, image_set, "2", remove=attributes("Study", shared, "", {"StudyInstanceUID": ""}), force=True)
    # Removing what is not there is no mistake, and a version.
    update(imaging, image_set, "2", remove={"Patient": {"DICOM": {"PatientName": "whatever"}}})
    assert unlocked(imaging, image_set)["versionId"] == "3"
    # Reverting brings the instance back, with its frames.
    update(imaging, image_set, "3", revert="1")
    assert unlocked(imaging, image_set)["versionId"] == "4"
    back = imaging.document(image_set)
    assert back == imaging.document(image_set, versionId="1")
    [frame] = instances(back)[first]["ImageFrames"]
    answer = imaging.api.get_image_frame(
        datastoreId=imaging.datastore, imageSetId=image_set, imageFrameInformation={"imageFrameId": frame["ID"]}
    )
    assert answer["imageFrameBlob"].read()


@pytest.mark.parametrize(
    "text",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b"[" * 9000,
        b'{"SchemaVersion": 1.1}',
        b'{"SchemaVersion": "2.0", "Patient": {"DICOM": {"PatientID": "x"}}}',
        b'{"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientID": NaN}}}',
        b'{"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientID": "\\ud800"}}}',
        b'{"SchemaVersion": 1.1, "Patient": {"DICOM": []}}',
        b'{"SchemaVersion": 1.1, "Patient": "x"}',
        b'{"SchemaVersion": 1.1, "DatastoreID": "x", "Patient": {"DICOM": {"PatientID": "x"}}}',
        b'{"SchemaVersion": 1.1, "Study": {"Series": {"1.2": {"DICOM": {"Modality": "MR"}}}}}',
        b'{"SchemaVersion": 1.1, "Study": {"Series": {"SERIES": {"Instances": {"1.2": {"DICOM": {}}}}}}}',
        b'{"SchemaVersion": 1.1, "Study": {"Series": {"SERIES": {"Instances": {"SOP": {"ImageFrames": []}}}}}}',
        b'{"SchemaVersion": 1.1, "Study": {"Series": {"SERIES": {"Instances": {"SOP": {}}}}}}',
        b'{"SchemaVersion": 1.1, "Study": {"Series": {"SERIES": {"Instances": {"SOP": {"DICOMVRs": {"x": 1}}}}}}}',
        b'{"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientID": "' + b"x" * 10_240 + b'"}}}',
        b"\xff\xfe",
    ],
)
def test_malformed_payloads(imaging, secondary, text):
    image_set, shared, _ = secondary
    sop = next(iter(instances(imaging.document(image_set))))
    version = imaging.get(image_set)["versionId"]
    text = text.replace(b"SERIES", shared["SeriesInstanceUID"].encode()).replace(b"SOP", sop.encode())
    with pytest.raises(imaging.api.exceptions.ValidationException):
        imaging.api.update_image_set_metadata(
            datastoreId=imaging.datastore,
            imageSetId=image_set,
            latestVersionId=version,
            force=True,
            updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": text}},
        )
    assert imaging.get(image_set)["versionId"] == version


def test_the_whole_study(imaging):
    shared = new_series()
    series = [shared, shared | {"SeriesInstanceUID": generate_uid()}]
    one, two = [make(imaging, s, 1) for s in series]
    apart = make(imaging, shared | {"StudyID": "S2"}, 1)
    imaging.stack.reset()
    wanted = {"Patient": {"DICOM": {"PatientID": "STUDY"}}, "Study": {"DICOM": {"AccessionNumber": "A2"}}}
    answer = update(imaging, one, change=wanted, includeStudyImageSets=True)
    assert (answer["latestVersionId"], answer["imageSetWorkflowStatus"]) == ("2", "UPDATING")
    for image_set in (one, two):
        state = unlocked(imaging, image_set)
        assert (state["versionId"], state["imageSetWorkflowStatus"]) == ("2", "UPDATED")
        assert imaging.document(image_set)["Patient"]["DICOM"]["PatientID"] == "STUDY"
    assert imaging.get(apart)["versionId"] == "1"
    told = []
    wait_for(lambda: told.extend(imaging.stack.drain("IMAGE_SET")) or len(told) >= 4, what="events")
    kinds = sorted((e["detail-type"], e["detail"]["imageSetWorkflowStatus"]) for e in told)
    assert kinds == [
        ("Image Set Updated", "UPDATED"),
        ("Image Set Updated", "UPDATED"),
        ("Image Set Updating", "UPDATING"),
        ("Image Set Updating", "UPDATING_FOR_STUDY_CONSISTENCY"),
    ]
    refused = imaging.api.exceptions.ValidationException
    with pytest.raises(refused):
        update(imaging, one, "2", revert="1", includeStudyImageSets=True)
    only = attributes("Series", shared, "", {"SeriesDescription": "x"})
    with pytest.raises(refused):
        update(imaging, one, "2", change=only, includeStudyImageSets=True)
    # A failure leaves no set of the study changed.
    imaging.stack.fault("fail_change", operation="update")
    update(imaging, two, "2", change={"Patient": {"DICOM": {"PatientID": "NO"}}}, includeStudyImageSets=True)
    for image_set in (one, two):
        state = unlocked(imaging, image_set)
        assert (state["versionId"], state["imageSetWorkflowStatus"]) == ("3", "UPDATE_FAILED")
        assert imaging.document(image_set)["Patient"]["DICOM"]["PatientID"] == "STUDY"
