"""Data stores, their quotas and failures; tags of data stores and image sets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.local_aws.conftest import make_object


def test_the_same_token_is_the_same_data_store(imaging):
    wanted = {"datastoreName": "x/y#1", "clientToken": "token-1", "tags": {"a": "b"}}
    first = imaging.api.create_datastore(**wanted)
    assert imaging.api.create_datastore(**wanted) | {"ResponseMetadata": 0} == first | {"ResponseMetadata": 0}
    with pytest.raises(imaging.api.exceptions.ConflictException):
        imaging.api.create_datastore(datastoreName="other", clientToken="token-1")
    store = imaging.api.get_datastore(datastoreId=first["datastoreId"])["datastoreProperties"]
    assert (store["datastoreName"], store["losslessStorageFormat"]) == ("x/y#1", "HTJ2K")
    imaging.api.delete_datastore(datastoreId=first["datastoreId"])
    with pytest.raises(imaging.api.exceptions.ResourceNotFoundException):
        imaging.api.get_datastore(datastoreId=first["datastoreId"])
    again = imaging.api.create_datastore(**wanted)["datastoreId"]
    assert again != first["datastoreId"], "a data store that is gone is nobody's answer"
    assert imaging.api.get_datastore(datastoreId=again)["datastoreProperties"]["datastoreStatus"] == "ACTIVE"
    imaging.api.delete_datastore(datastoreId=again)


def test_a_data_store_that_fails(imaging):
    imaging.stack.fault("fail_datastore")
    made = imaging.api.create_datastore(datastoreName="broken")
    assert made["datastoreStatus"] == "CREATING"
    store = imaging.api.get_datastore(datastoreId=made["datastoreId"])["datastoreProperties"]
    assert store["datastoreStatus"] == "CREATE_FAILED"
    failed = imaging.api.list_datastores(datastoreStatus="CREATE_FAILED")["datastoreSummaries"]
    assert made["datastoreId"] in [s["datastoreId"] for s in failed]
    with pytest.raises(imaging.api.exceptions.ConflictException, match="CREATE_FAILED"):
        imaging.api.search_image_sets(datastoreId=made["datastoreId"])
    imaging.api.delete_datastore(datastoreId=made["datastoreId"])


def test_a_data_store_in_use_is_not_deleted(imaging):
    store = imaging.api.create_datastore(datastoreName="used")["datastoreId"]
    home, imaging.datastore = imaging.datastore, store
    try:
        image_set = imaging.run({"a": make_object()}).manifest["imageSetsSummary"][0]["imageSetId"]
        with pytest.raises(imaging.api.exceptions.ConflictException):
            imaging.api.delete_datastore(datastoreId=store)
        imaging.api.delete_image_set(datastoreId=store, imageSetId=image_set)
        imaging.stack.wait_for(lambda: imaging.get(image_set)["imageSetState"] == "DELETED")
        assert imaging.api.delete_datastore(datastoreId=store)["datastoreStatus"] == "DELETING"
    finally:
        imaging.datastore = home


def test_a_data_store_is_not_deleted_under_a_store_of_dicomweb(imaging):
    """Whoever comes first: what was stored keeps the data store, and a data store that goes takes nothing in."""
    api = imaging.api
    kept = 0
    with ThreadPoolExecutor(2) as threads:
        for number in range(12):
            store = api.create_datastore(datastoreName="raced")["datastoreId"]
            url = f"{imaging.stack.env['AWS_ENDPOINT_URL']}/datastore/{store}/studies"
            headers = {"Content-Type": "application/dicom"}
            storing = threads.submit(requests.post, url, data=make_object(), headers=headers)
            for _ in range(number):  # another moment of the store each time
                api.get_datastore(datastoreId=store)
            try:
                status = api.delete_datastore(datastoreId=store)["datastoreStatus"]
            except api.exceptions.ConflictException:
                status = "ACTIVE"
            answer = storing.result().status_code
            kept += answer == 200
            assert answer in ({200} if status == "ACTIVE" else {404, 409})
            if answer == 200:
                assert len(api.search_image_sets(datastoreId=store)["imageSetsMetadataSummaries"]) == 1
            else:
                with pytest.raises(api.exceptions.ResourceNotFoundException):
                    api.search_image_sets(datastoreId=store)
    assert kept


def test_tags_of_image_sets(imaging):
    image_set = imaging.run({"a": make_object()}).manifest["imageSetsSummary"][0]["imageSetId"]
    arn, api = imaging.get(image_set)["imageSetArn"], imaging.api
    assert api.list_tags_for_resource(resourceArn=arn)["tags"] == {}
    api.tag_resource(resourceArn=arn, tags={str(n): "x" for n in range(50)})
    api.tag_resource(resourceArn=arn, tags={"7": "y"})
    with pytest.raises(api.exceptions.ValidationException, match="50"):
        api.tag_resource(resourceArn=arn, tags={"more": ""})
    api.untag_resource(resourceArn=arn, tagKeys=[str(n) for n in range(49) if n != 7] + ["absent"])
    assert api.list_tags_for_resource(resourceArn=arn)["tags"] == {"7": "y", "49": "x"}
    api.delete_image_set(datastoreId=imaging.datastore, imageSetId=image_set)
    imaging.stack.wait_for(lambda: imaging.get(image_set)["imageSetState"] == "DELETED")
    store = arn.rpartition("/imageset/")[0]
    for unknown in (
        arn,
        f"{store}/imageset/{'0' * 32}",
        store[:-32] + "0" * 32,
        store.replace("us-east-1", "eu-west-1"),
    ):
        with pytest.raises(api.exceptions.ResourceNotFoundException):
            api.list_tags_for_resource(resourceArn=unknown)
        with pytest.raises(api.exceptions.ResourceNotFoundException):
            api.tag_resource(resourceArn=unknown, tags={"a": "b"})
