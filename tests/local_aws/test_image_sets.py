"""Search, get, versions, update, delete, data stores and tags."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from pydicom.uid import generate_uid

from tests.conftest import wait_for
from tests.local_aws.conftest import make_object


@pytest.fixture
def one(imaging):
    """One image set with two instances: its id, and the attributes of its series."""
    shared = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "PatientID": f"P{generate_uid()[-8:]}",
    }
    outcome = imaging.run({"1": make_object(**shared), "2": make_object(**shared)})
    imaging.stack.reset()
    return outcome.manifest["imageSetsSummary"][0]["imageSetId"], shared


def search(imaging, *filters, **more):
    criteria = {"filters": list(filters)} if filters else {}
    return imaging.api.search_image_sets(
        datastoreId=imaging.datastore, searchCriteria=criteria | more.pop("criteria", {}), **more
    )


def equal(key, value):
    return {"operator": "EQUAL", "values": [{key: value}]}


def between(key, low, high):
    return {"operator": "BETWEEN", "values": [{key: low}, {key: high}]}


@pytest.mark.parametrize("key", ["PatientId", "StudyInstanceUID", "SeriesInstanceUID"])
def test_search_by_an_attribute(imaging, one, key):
    image_set, shared = one
    value = shared["PatientID" if key == "PatientId" else key]
    [found] = search(imaging, equal(f"DICOM{key}", value))["imageSetsMetadataSummaries"]
    assert (found["imageSetId"], found["version"], found["isPrimary"]) == (image_set, 1, True)
    tags = found["DICOMTags"]
    assert tags["DICOMNumberOfStudyRelatedInstances"] == 2
    assert (tags["DICOMSeriesNumber"], tags["DICOMSeriesModality"]) == (7, "CT")


def test_search_by_time_is_inclusive_and_sorted(imaging, one):
    image_set, shared = one
    updated = imaging.get(image_set)["updatedAt"]
    wide = between("updatedAt", updated - timedelta(days=1), datetime.now(UTC) + timedelta(days=1))
    answer = search(
        imaging,
        equal("DICOMSeriesInstanceUID", shared["SeriesInstanceUID"]),
        wide,
        criteria={"sort": {"sortField": "updatedAt", "sortOrder": "ASC"}},
    )
    assert [s["imageSetId"] for s in answer["imageSetsMetadataSummaries"]] == [image_set]
    assert answer["sort"] == {"sortField": "updatedAt", "sortOrder": "ASC"}
    past = between("updatedAt", updated - timedelta(days=2), updated - timedelta(days=1))
    assert search(imaging, past)["imageSetsMetadataSummaries"] == []
    day = {"DICOMStudyDate": "20260101", "DICOMStudyTime": "101500"}
    found = search(imaging, between("DICOMStudyDateAndTime", day, day), maxResults=50)["imageSetsMetadataSummaries"]
    assert found


def test_two_attributes_at_a_time_are_refused(imaging):
    with pytest.raises(imaging.api.exceptions.ValidationException, match="one attribute"):
        search(imaging, equal("DICOMPatientId", "a"), equal("DICOMStudyId", "b"))


def test_search_in_pages_finds_everything_once(imaging):
    imaging.run({str(n): make_object(PatientID="PAGES", StudyInstanceUID=generate_uid()) for n in range(5)})
    pages = imaging.api.get_paginator("search_image_sets").paginate(
        datastoreId=imaging.datastore,
        searchCriteria={"filters": [equal("DICOMPatientId", "PAGES")]},
        PaginationConfig={"PageSize": 2},
    )
    found = [s["imageSetId"] for p in pages for s in p["imageSetsMetadataSummaries"]]
    assert len(found) == len(set(found)) == 5


def update(imaging, image_set, version, force=False, **changes):
    payload = {k: json.dumps({"SchemaVersion": 1.1, **v}).encode() for k, v in changes.items()}
    return imaging.api.update_image_set_metadata(
        datastoreId=imaging.datastore,
        imageSetId=image_set,
        latestVersionId=version,
        force=force,
        updateImageSetMetadataUpdates={"DICOMUpdates": payload},
    )


def unlocked(imaging, image_set):
    return wait_for(lambda: (s := imaging.get(image_set))["imageSetState"] != "LOCKED" and s, what="the image set")


def test_changing_the_patient(imaging, one):
    image_set, shared = one
    answer = update(imaging, image_set, "1", updatableAttributes={"Patient": {"DICOM": {"PatientID": "NEW"}}})
    assert answer["latestVersionId"] == "2"
    assert (answer["imageSetState"], answer["imageSetWorkflowStatus"]) == ("LOCKED", "UPDATING")
    state = unlocked(imaging, image_set)
    assert (state["versionId"], state["imageSetState"], state["imageSetWorkflowStatus"]) == ("2", "ACTIVE", "UPDATED")
    assert imaging.document(image_set)["Patient"]["DICOM"]["PatientID"] == "NEW"
    assert imaging.document(image_set, versionId="1")["Patient"]["DICOM"]["PatientID"] == shared["PatientID"]
    assert search(imaging, equal("DICOMPatientId", shared["PatientID"]))["imageSetsMetadataSummaries"] == []
    events = imaging.stack.drain("IMAGE_SET")
    assert [(e["detail-type"], e["detail"]["imageSetVersion"]) for e in events] == [
        ("Image Set Updating", "2"),
        ("Image Set Updated", "2"),
    ]
    again = imaging.run({"3": make_object(**shared)})
    assert again.manifest["imageSetsSummary"][0]["isPrimary"] is False, "the changed set and the old attributes differ"


def test_removing_an_instance(imaging, one):
    image_set, shared = one
    document = imaging.document(image_set)
    first, second = document["Study"]["Series"][shared["SeriesInstanceUID"]]["Instances"]
    gone = {"Study": {"Series": {shared["SeriesInstanceUID"]: {"Instances": {first: {}}}}}}
    update(imaging, image_set, "1", force=True, removableAttributes=gone)
    state = unlocked(imaging, image_set)
    assert state["overrides"] == {"forced": True}
    left = imaging.document(image_set)["Study"]["Series"][shared["SeriesInstanceUID"]]["Instances"]
    assert list(left) == [second]
    [found] = search(imaging, equal("DICOMPatientId", shared["PatientID"]))["imageSetsMetadataSummaries"]
    assert found["DICOMTags"]["DICOMNumberOfStudyRelatedInstances"] == 1


def test_reverting(imaging, one):
    image_set, _shared = one
    update(imaging, image_set, "1", updatableAttributes={"Study": {"DICOM": {"StudyDescription": "x"}}})
    unlocked(imaging, image_set)
    imaging.api.update_image_set_metadata(
        datastoreId=imaging.datastore,
        imageSetId=image_set,
        latestVersionId="2",
        updateImageSetMetadataUpdates={"revertToVersionId": "1"},
    )
    assert unlocked(imaging, image_set)["versionId"] == "3"
    assert imaging.document(image_set) == imaging.document(image_set, versionId="1")
    listed = imaging.api.list_image_set_versions(datastoreId=imaging.datastore, imageSetId=image_set)
    versions = listed["imageSetPropertiesList"]
    assert [v["versionId"] for v in versions] == ["3", "2", "1"]
    assert versions[0]["ImageSetWorkflowStatus"] == "UPDATED"
    assert len({v["createdAt"] for v in versions}) == 1, "the creation is that of the set"
    first = imaging.api.get_image_set(datastoreId=imaging.datastore, imageSetId=image_set, versionId="1")
    assert (first["versionId"], first["imageSetWorkflowStatus"]) == ("1", "CREATED")
    for version in ("9", "0"):
        for ask in (
            lambda version=version: imaging.api.get_image_set(
                datastoreId=imaging.datastore, imageSetId=image_set, versionId=version
            ),
            lambda version=version: imaging.document(image_set, versionId=version),
            lambda version=version: imaging.api.update_image_set_metadata(
                datastoreId=imaging.datastore,
                imageSetId=image_set,
                latestVersionId="3",
                updateImageSetMetadataUpdates={"revertToVersionId": version},
            ),
        ):
            with pytest.raises(imaging.api.exceptions.ResourceNotFoundException, match="has no such version"):
                ask()
    assert imaging.get(image_set)["versionId"] == "3"


def test_a_stale_version_is_not_found(imaging, one):
    with pytest.raises(imaging.api.exceptions.ResourceNotFoundException, match="not the latest"):
        update(imaging, one[0], "9", updatableAttributes={"Patient": {"DICOM": {"PatientID": "X"}}})


def test_what_cannot_be_changed(imaging, one):
    image_set, _ = one
    refused = imaging.api.exceptions.ValidationException
    with pytest.raises(refused):
        update(imaging, image_set, "1", updatableAttributes={"Study": {"DICOM": {"StudyInstanceUID": "1.2"}}})
    with pytest.raises(refused):
        update(
            imaging, image_set, "1", updatableAttributes={"Study": {"Series": {"1.2": {"DICOM": {"Modality": "X"}}}}}
        )
    assert imaging.get(image_set)["versionId"] == "1"


def test_deleting(imaging, one):
    image_set, shared = one
    answer = imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=image_set)
    assert (answer["imageSetState"], answer["imageSetWorkflowStatus"]) == ("LOCKED", "DELETING")
    state = unlocked(imaging, image_set)
    assert (state["imageSetState"], state["imageSetWorkflowStatus"]) == ("DELETED", "DELETED")
    assert state["deletedAt"]
    assert search(imaging, equal("DICOMPatientId", shared["PatientID"]))["imageSetsMetadataSummaries"] == []
    with pytest.raises(imaging.api.exceptions.ResourceNotFoundException):
        imaging.document(image_set)
    with pytest.raises(imaging.api.exceptions.ResourceNotFoundException):
        imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=image_set)
    assert [e["detail-type"] for e in imaging.stack.drain("IMAGE_SET")] == ["Image Set Deleting", "Image Set Deleted"]
    again = imaging.run({"1": make_object(**shared)}).manifest["imageSetsSummary"][0]
    assert again["imageSetId"] != image_set
    assert again["isPrimary"] is True


def test_data_stores(imaging):
    wanted = {"datastoreName": "x/y#1", "clientToken": "t-1", "tags": {"a": "b"}}
    first = imaging.api.create_datastore(**wanted)
    assert imaging.api.create_datastore(**wanted)["datastoreId"] == first["datastoreId"]
    store = imaging.api.get_datastore(datastoreId=first["datastoreId"])["datastoreProperties"]
    assert (store["datastoreName"], store["datastoreStatus"]) == ("x/y#1", "ACTIVE")
    with pytest.raises(imaging.api.exceptions.ConflictException):
        imaging.api.create_datastore(datastoreName="other", clientToken="t-1")
    arn = store["datastoreArn"]
    imaging.api.tag_resource(resourceArn=arn, tags={"c": "d"})
    imaging.api.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert imaging.api.list_tags_for_resource(resourceArn=arn)["tags"] == {"c": "d"}
    imaging.api.delete_datastore(datastoreId=first["datastoreId"])
    pages = imaging.api.get_paginator("list_datastores").paginate()
    listed = [store["datastoreId"] for page in pages for store in page["datastoreSummaries"]]
    assert imaging.datastore in listed
    assert first["datastoreId"] not in listed


def test_a_data_store_with_image_sets_is_not_deleted(imaging):
    imaging.run({"a": make_object()})
    with pytest.raises(imaging.api.exceptions.ConflictException):
        imaging.api.delete_datastore(datastoreId=imaging.datastore)
