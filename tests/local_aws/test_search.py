"""SearchImageSets and the lists: pages, tokens, ranges, the index that lags, the choices of what is undocumented."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.request
from datetime import timedelta

import pytest
from pydicom.uid import generate_uid

from tests.local_aws.conftest import Imaging
from tests.local_aws.test_copies import make, new_series, unlocked
from tests.local_aws.test_image_sets import between, equal, search
from tests.local_aws.test_updates import update


def ids(answer):
    return [s["imageSetId"] for s in answer["imageSetsMetadataSummaries"]]


def studies(imaging, patient, *attributes):
    """One image set for each; their ids in order of creation."""
    return [make(imaging, new_series(PatientID=patient, **more), 1) for more in attributes]


def test_pages_stay_whole_while_sets_come_and_change(imaging):
    patient = f"PAGE{generate_uid()[-8:]}"
    old = studies(imaging, patient, {}, {}, {}, {})
    newest_first = list(reversed(old))
    first = search(imaging, equal("DICOMPatientId", patient), maxResults=2)
    assert ids(first) == newest_first[:2]
    studies(imaging, patient, {})
    second = search(imaging, equal("DICOMPatientId", patient), maxResults=2, nextToken=first["nextToken"])
    assert ids(second) == newest_first[2:], "what came meanwhile shifts nothing"
    assert "nextToken" not in second
    ascending = {"sort": {"sortField": "createdAt", "sortOrder": "ASC"}}
    first = search(imaging, equal("DICOMPatientId", patient), criteria=ascending, maxResults=3)
    imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=old[0])
    unlocked(imaging, old[0])
    rest = search(
        imaging, equal("DICOMPatientId", patient), criteria=ascending, maxResults=3, nextToken=first["nextToken"]
    )
    assert ids(first) == old[:3]
    assert ids(rest)[0] == old[3], "what went meanwhile hides nothing"


def made_up(scope, question, key):
    """A token as somebody makes it who knows how, but not the secret."""
    text = json.dumps([scope, question, key], sort_keys=True).encode()
    seals = hashlib.blake2b(text, digest_size=12).hexdigest(), hashlib.sha256(text).hexdigest(), "", None
    return [base64.urlsafe_b64encode(json.dumps([seal, key]).encode()).decode() for seal in seals]


@pytest.mark.parametrize(
    "key", [[], [{"a": 1}], [[1], "x"], [1.5, "x", 3], [None, None], [True, "x"], [1e99, "x"], "x"]
)
def test_nobody_makes_a_token(imaging, key):
    store = {"datastoreId": imaging.datastore}
    for scope, ask in (
        ("search", imaging.api.search_image_sets),
        ("jobs", imaging.api.list_dicom_import_jobs),
    ):
        for token in made_up(scope, store, key):
            with pytest.raises(imaging.api.exceptions.ValidationException, match="nextToken"):
                ask(**store, nextToken=token)


def test_a_token_belongs_to_its_question(imaging):
    patient = f"TOKEN{generate_uid()[-8:]}"
    image_set = studies(imaging, patient, {}, {})[0]
    api, store = imaging.api, {"datastoreId": imaging.datastore}
    for version in ("1", "2"):
        update(imaging, image_set, version, change={"Study": {"DICOM": {"StudyDescription": version}}})
        unlocked(imaging, image_set)
    made = [api.create_datastore(datastoreName="list")["datastoreId"] for _ in range(2)]
    token = search(imaging, equal("DICOMPatientId", patient), maxResults=1)["nextToken"]
    versions = api.list_image_set_versions(**store, imageSetId=image_set, maxResults=1)["nextToken"]
    stores = api.list_datastores(datastoreStatus="ACTIVE", maxResults=1)["nextToken"]
    jobs = api.list_dicom_import_jobs(**store, maxResults=1)["nextToken"]
    seal, key = json.loads(base64.urlsafe_b64decode(token))
    forged = base64.urlsafe_b64encode(json.dumps([seal, [key[0] + 1, key[1]]]).encode()).decode()
    for ask in (
        lambda: search(imaging, equal("DICOMPatientId", "other"), maxResults=1, nextToken=token),
        lambda: search(imaging, maxResults=1, nextToken=token),
        lambda: search(imaging, equal("DICOMPatientId", patient), nextToken=versions),
        lambda: search(imaging, equal("DICOMPatientId", patient), nextToken=forged),
        lambda: search(imaging, equal("DICOMPatientId", patient), nextToken="not one of ours"),
        lambda: search(imaging, equal("DICOMPatientId", patient), nextToken="W10="),
        lambda: api.list_image_set_versions(**store, imageSetId=image_set, nextToken=token),
        lambda: api.list_datastores(nextToken=stores),
        lambda: api.list_datastores(datastoreStatus="DELETED", nextToken=stores),
        lambda: api.list_dicom_import_jobs(**store, jobStatus="COMPLETED", nextToken=jobs),
        lambda: api.list_dicom_import_jobs(**store, nextToken=stores),
    ):
        with pytest.raises(api.exceptions.ValidationException):
            ask()
    # The page size may change from page to page.
    assert len(ids(search(imaging, equal("DICOMPatientId", patient), maxResults=50, nextToken=token))) == 1
    rest = api.list_image_set_versions(**store, imageSetId=image_set, maxResults=50, nextToken=versions)
    assert [v["versionId"] for v in rest["imageSetPropertiesList"]] == ["2", "1"]
    for datastore_id in made:
        api.delete_datastore(datastoreId=datastore_id)


TIMES = {
    "none": None,
    "midnight": "000000",
    "hour": "10",
    "second": "101500",
    "fraction": "101500.5",
    "evening": "2359",
}


@pytest.fixture(scope="module")
def timed(aws_stack):
    """Image sets of one day by name of their time, and one of no day."""
    imaging = Imaging(aws_stack)
    studies(imaging, "TIME", {"StudyDate": None, "StudyTime": "1015"})
    made = studies(imaging, "TIME", *[{"StudyDate": "20260103", "StudyTime": t} for t in TIMES.values()])
    return dict(zip(made, TIMES, strict=True))


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (("20260103", None), ("20260103", None), ["none", "midnight"]),
        (("20260103", None), ("20260103", "101500"), ["none", "midnight", "hour", "second"]),
        (("20260103", "000000.1"), ("20260103", "101500"), ["hour", "second"]),
        (("20260103", "101500.000001"), ("20260103", "235959.999999"), ["fraction", "evening"]),
        (("20260103", None), ("20260104", None), ["none", "midnight", "hour", "second", "fraction", "evening"]),
        (("20260104", None), ("20270101", None), []),
    ],
)
def test_study_date_and_time(imaging, timed, low, high, found):
    values = [{"DICOMStudyDate": d} | ({"DICOMStudyTime": t} if t else {}) for d, t in (low, high)]
    answer = search(imaging, equal("DICOMPatientId", "TIME"), between("DICOMStudyDateAndTime", *values))
    assert [timed[i] for i in reversed(ids(answer))] == found


@pytest.mark.parametrize(
    "filters",
    [
        [{"operator": "BETWEEN", "values": [{"DICOMPatientId": "a"}, {"DICOMPatientId": "b"}]}],
        [{"operator": "BETWEEN", "values": [{"createdAt": 1}]}],
        [{"operator": "BETWEEN", "values": [{"createdAt": 1}, {"updatedAt": 2}]}],
        [{"operator": "BETWEEN", "values": [{"createdAt": 2}, {"createdAt": 1}]}],
        [{"operator": "EQUAL", "values": [{"createdAt": 2}]}],
        [{"operator": "EQUAL", "values": [{"DICOMPatientId": "a"}, {"DICOMPatientId": "b"}]}],
        [{"operator": "LIKE", "values": [{"DICOMPatientId": "a"}]}],
        [equal("DICOMPatientId", "a"), equal("DICOMStudyId", "b")],
        [equal("DICOMPatientId", "a"), equal("DICOMPatientId", "b")],
        [equal("DICOMPatientId", "a"), equal("DICOMPatientId", "a")],
    ],
)
def test_filters_that_are_refused(imaging, filters):
    with pytest.raises(imaging.api.exceptions.ValidationException):
        search(imaging, *filters)


def patients(imaging):
    """PatientIDs that a DICOMweb search for studies finds."""
    url = f"{imaging.stack.env['AWS_ENDPOINT_URL']}/datastore/{imaging.datastore}/studies?limit=1000"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return {study["00100020"]["Value"][0] for study in json.loads(answer.read())}


def test_the_index_lags_behind(slow):
    """Any lag shows what was so long ago, at the first search after a change too, natively and by DICOMweb."""
    imaging, old = slow, f"LAG{generate_uid()[-8:]}"
    new = f"X{old}"

    def seen(lag, patient, *, studies=True):
        fault = imaging.stack.fault("lag_search", seconds=lag)
        found = search(imaging, equal("DICOMPatientId", patient))["imageSetsMetadataSummaries"]
        assert not studies or (patient in patients(imaging)) is bool(found)
        imaging.stack.control("DELETE", f"faults/{fault}")
        return [(s["imageSetId"], s["version"], s["DICOMTags"]["DICOMPatientId"]) for s in found]

    [image_set] = studies(imaging, old, {})
    imaging.pass_time(1000)
    update(imaging, image_set, change={"Patient": {"DICOM": {"PatientID": new}}})
    imaging.pass_time()
    unlocked(imaging, image_set)
    # In this order: the first search of all comes after the update.
    assert seen(500, old) == [(image_set, 1, old)]
    assert seen(500, new) == []
    assert seen(1500, old) == []
    imaging.pass_time(2)
    assert seen(1, new) == [(image_set, 2, new)]
    assert seen(500, old) == [(image_set, 1, old)]
    assert seen(500, new) == []
    imaging.pass_time(1000)
    imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=image_set)
    imaging.pass_time()
    imaging.gone(image_set)
    # The documents are gone, which a DICOMweb search would need if it had forgotten them.
    assert seen(500, new, studies=False) == [(image_set, 2, new)]
    assert seen(1600, old, studies=False) == [(image_set, 1, old)]
    imaging.pass_time(1)
    assert seen(0.5, new) == []


def test_storage_tiers_and_the_other_choices(slow):
    imaging = slow
    read, left, copied = studies(imaging, "Tier", {"StudyID": "A"}, {"StudyID": "B"}, {"StudyID": "C"})
    assert ids(search(imaging, equal("DICOMPatientId", "tIER"), equal("DICOMStudyId", "b"))) == [left]
    created = imaging.get(read)["createdAt"]
    assert ids(search(imaging, between("createdAt", created, created))) == []
    assert read in ids(search(imaging, between("createdAt", created, created + timedelta(seconds=1))))

    def tiers():
        found = search(imaging, equal("DICOMPatientId", "Tier"))["imageSetsMetadataSummaries"]
        for summary in found:
            got = imaging.get(summary["imageSetId"])
            assert (got["storageTier"], got["lastAccessedAt"]) == (summary["storageTier"], summary["lastAccessedAt"])
        return {s["imageSetId"]: s["storageTier"] for s in found}

    frequent, archive = "FREQUENT_ACCESS", "ARCHIVE_INSTANT_ACCESS"
    assert set(tiers().values()) == {frequent}
    day = 86_400
    imaging.pass_time(29 * day)
    imaging.document(read)
    imaging.pass_time(2 * day)
    assert tiers() == {read: frequent, left: archive, copied: archive}, "neither searches nor GetImageSet are accesses"
    assert imaging.get(read)["lastAccessedAt"] - created > timedelta(days=28)
    made = imaging.api.copy_image_set(
        datastoreId=imaging.datastore,
        sourceImageSetId=copied,
        copyImageSetInformation={"sourceImageSet": {"latestVersionId": "1"}},
    )["destinationImageSetProperties"]["imageSetId"]
    imaging.pass_time()
    unlocked(imaging, made)
    assert tiers() == {read: frequent, left: archive, copied: frequent, made: frequent}
    update(imaging, left, change={"Study": {"DICOM": {"StudyDescription": "x"}}})
    imaging.pass_time()
    unlocked(imaging, left)
    imaging.pass_time(29 * day)
    assert tiers()[left] == frequent
