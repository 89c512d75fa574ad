"""Private elements inside sequences: what came in comes back, VR and bytes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian

from tests.local_aws.conftest import make_object
from tests.local_aws.dicomweb.conftest import Plane, path_of, read

# Texts that look like base64, and numbers of every width.
VALUES: dict[int, tuple[str, Any]] = {
    1: ("LO", "HEAD"),
    2: ("CS", "TRUE"),
    3: ("DA", "20260101"),
    4: ("AT", 0x00100020),
    5: ("US", 7),
    6: ("FL", 1.5),
    7: ("SS", -3),
    8: ("OB", b"HEAD"),
    9: ("UN", b"\1\2"),
    10: ("SL", 4),
    11: ("FD", 2.0),
    12: ("LT", "a\\b"),
    13: ("SQ", Sequence()),
    14: ("CS", ["AB", "CD"]),
    15: ("LO", ""),
}
Private = list[tuple[int, str, Any]]


def item(values: dict[int, tuple[str, Any]], *inner: Dataset) -> Dataset:
    found = Dataset()
    block = found.private_block(0x0029, "MAKER", create=True)
    for element, (vr, value) in values.items():
        block.add_new(element, vr, value)
    if inner:
        block.add_new(0x20, "SQ", Sequence(inner))
    return found


def with_private(*items: Dataset, **attributes: Any) -> Dataset:
    """A private sequence and a public one, with the same items."""
    data = read(make_object(**attributes))
    data.private_block(0x0029, "MAKER", create=True).add_new(0x20, "SQ", Sequence(items))
    data.ReferencedImageSequence = Sequence(items)
    return data


def saved(data: Dataset, **how: Any) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, **how)
    return buffer.getvalue()


def private(data: Dataset) -> Private:
    return [(e.tag, e.VR, e.value) for e in data.iterall() if e.tag.is_private and e.VR != "SQ"] + [
        (e.tag, "SQ", len(e.value)) for e in data.iterall() if e.VR == "SQ"
    ]


@pytest.fixture
def original(empty: Plane) -> Dataset:
    """One item like another, and a third that gives its elements other VRs."""
    odd = item({1: ("SH", "HEAD"), 5: ("UL", 7), 8: ("ST", "HEAD")})
    data = with_private(item(VALUES, item(VALUES)), item(VALUES, odd), odd)
    assert empty.store(saved(data)).status_code == 200
    return data


def test_instances_come_back_as_they_were(empty: Plane, original: Dataset) -> None:
    assert private(read(empty.get(path_of(original)).content)) == private(original)


def test_metadata_has_the_original_vrs(empty: Plane, original: Dataset) -> None:
    [found] = empty.json(f"{path_of(original)}/metadata")
    # pydicom gives what is empty an empty value.
    wanted = json.loads(original.to_json().replace('"Value": [], ', ""))
    for tag in ("00291020", "00081140"):
        assert found[tag] == wanted[tag]
    [found] = empty.json("instances?includefield=all")
    assert found["00291020"] == wanted["00291020"]


def test_a_series_of_many_writes_each_as_it_is(empty: Plane) -> None:
    """Elements of one value and other VRs are not mistaken for one another."""
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    objects = [with_private(item({1: (vr, "HEAD")}), **uids) for vr in ("LO", "CS", "UT")]
    assert empty.store(*[saved(o) for o in objects]).status_code == 200
    found = empty.json("studies/1.2.3/series/1.2.3.4/metadata")
    vrs = {f["00080018"]["Value"][0]: f["00291020"]["Value"][0]["00291001"]["vr"] for f in found}
    assert vrs == {o.SOPInstanceUID: vr for o, vr in zip(objects, ("LO", "CS", "UT"), strict=True)}


def test_a_copy_and_a_merge_carry_them(empty: Plane, original: Dataset) -> None:
    same = {k: original[k].value for k in ("StudyInstanceUID", "SeriesInstanceUID")}
    assert empty.store(make_object(**same)).status_code == 200
    assert private(read(empty.get(path_of(original)).content)) == private(original)
    api = empty.stack.client("medical-imaging")
    [source] = api.search_image_sets(datastoreId=empty.datastore_id)["imageSetsMetadataSummaries"]
    copied = api.copy_image_set(
        datastoreId=empty.datastore_id,
        sourceImageSetId=source["imageSetId"],
        copyImageSetInformation={"sourceImageSet": {"latestVersionId": str(source["version"])}},
    )["destinationImageSetProperties"]["imageSetId"]
    get = {"datastoreId": empty.datastore_id, "imageSetId": copied}
    empty.stack.wait_for(lambda: api.get_image_set(**get)["imageSetState"] == "ACTIVE")
    answer = empty.get(f"{path_of(original)}?imageSetId={copied}")
    assert private(read(answer.content)) == private(original)


def test_without_vrs_in_the_object_they_are_unknown(empty: Plane) -> None:
    data = with_private(item({1: ("LO", "HEAD")}))
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert empty.store(saved(data, implicit_vr=True, little_endian=True)).status_code == 200
    [found] = empty.json(f"{path_of(data)}/metadata")
    [inner] = found["00081140"]["Value"]
    assert inner["00290010"] == {"vr": "LO", "Value": ["MAKER"]}
    assert inner["00291001"] == {"vr": "UN", "InlineBinary": "SEVBRA=="}


def test_what_an_update_replaces_has_no_old_vrs(empty: Plane) -> None:
    """Private sequences and those of a study: what the text of an update says comes out as text."""
    data = with_private(item({1: ("OB", b"HEAD"), 5: ("US", 7)}), Manufacturer="M")
    data.ReferencedStudySequence = data.ReferencedImageSequence
    assert empty.store(saved(data)).status_code == 200
    api = empty.stack.client("medical-imaging")
    [found] = api.search_image_sets(datastoreId=empty.datastore_id)["imageSetsMetadataSummaries"]
    get = {"datastoreId": empty.datastore_id, "imageSetId": found["imageSetId"]}
    sequence = [{"00290010": "MAKER", "00291001": "HEAD", "00291005": "TRUE"}]
    instance = {"DICOM": {"00291020": sequence}, "DICOMVRs": {"00291020": "SQ"}}
    series = {data.SeriesInstanceUID: {"Instances": {data.SOPInstanceUID: instance}}}
    wanted = {
        "SchemaVersion": 1.1,
        "Study": {"DICOM": {"ReferencedStudySequence": sequence}, "Series": series},
    }
    change = {"DICOMUpdates": {"updatableAttributes": json.dumps(wanted).encode()}}
    api.update_image_set_metadata(**get, latestVersionId="1", updateImageSetMetadataUpdates=change, force=True)
    empty.stack.wait_for(lambda: api.get_image_set(**get)["imageSetState"] == "ACTIVE")
    [metadata] = empty.json(f"{path_of(data)}/metadata")
    for tag, vrs in (("00291020", ["LO", "LO"]), ("00081110", ["LO", "LO"]), ("00081140", ["OB", "US"])):
        [inner] = metadata[tag]["Value"]
        assert [inner[t]["vr"] for t in ("00291001", "00291005")] == vrs, tag
