"""What an import warns of: every code of "HealthImaging warning codes", in warning.ndjson and in the metadata."""

from __future__ import annotations

import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from tests.local_aws.conftest import changed, make_object, run_past

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def other_class(read):
    read.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"


def twice(body):
    """An object with one of its elements once more at its end."""
    return body + b"\x08\x00\x60\x00CS\x02\x00CT"


def cut_off(body):
    """An object whose last element is not whole."""
    return body + b"\xfc\xff\xfc\xffOB\x00\x00\xff\x00\x00\x00abc"


def cut_in_a_header(body):
    """An object whose last element has eight of the twelve bytes of its beginning."""
    return body + b"\xfc\xff\xfc\xffOB\x00\x00"


def misencoded(body):
    """An object in Explicit VR that says it was implicit."""
    return body.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0")


def encapsulated(syntax, count, fragments, *, spoil_offsets=False):
    """Make the pixels so many fragments in another syntax."""

    def change(read):
        read.file_meta.TransferSyntaxUID = syntax
        read.NumberOfFrames = count
        data = bytearray(encapsulate(fragments, has_bot=True))
        if spoil_offsets:
            data[12:16] = b"\x07\0\0\0"
        read.PixelData = bytes(data)
        read["PixelData"].VR = "OB"
        read["PixelData"].is_undefined_length = True

    return change


NO_PIXELS = ("PixelData", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


@pytest.mark.parametrize(
    ("body", "reason", "kind"),
    [
        (lambda: twice(make_object()), 45062, "ElementsDiscarded"),
        (lambda: cut_off(make_object()), 45062, "ElementsDiscarded"),
        (lambda: cut_off(make_object(**dict.fromkeys(NO_PIXELS))), 45062, "ElementsDiscarded"),
        (lambda: cut_in_a_header(make_object()), 45062, "ElementsDiscarded"),
        (lambda: misencoded(make_object()), 47513, "Other"),
        (lambda: changed(other_class), 45063, "SopClassDataMismatch"),
        (lambda: changed(encapsulated(JPEG2000Lossless, 1, [b"no picture"])), 45312, "TranscodingException"),
        (lambda: changed(encapsulated(RLELossless, 3, [b"ab", b"cd"])), 45329, "FrameNumberMismatch"),
        (
            lambda: changed(encapsulated("1.2.840.10008.1.2.4.50", 2, [b"\xff\xd8" * 4] * 2, spoil_offsets=True)),
            45330,
            "InvalidOffsetTable",
        ),
        (
            lambda: changed(encapsulated("1.2.840.10008.1.2.4.53", 1, [b"\xff\xd8abcd"])),
            45344,
            "UnsupportedTransferSyntax",
        ),
        (lambda: make_object(SeriesInstanceUID="1.2.3..4"), 45570, "InvalidUidFormat"),
        (lambda: make_object(FrameOfReferenceUID="1.2." + "3" * 64), 45570, "InvalidUidFormat"),
        (lambda: make_object(AccessionNumber="A" * 17), 45571, "InvalidDicomValueLength"),
        (lambda: make_object(PatientName="N" * 65), 45571, "InvalidDicomValueLength"),
        (lambda: make_object(OtherPatientNames=["N", "N" * 65]), 45571, "InvalidDicomValueLength"),
    ],
)
def test_warnings(imaging, body, reason, kind):
    outcome = imaging.run({"a.dcm": body()})
    [line] = outcome.warning
    [success] = outcome.success
    assert line["inputFile"] == success["inputFile"]
    answer = dict(line["importResponse"])
    [warning] = answer.pop("warnings")
    assert (warning["warning_reason_code"], warning["type"]) == (reason, kind)
    assert warning["message"].startswith("The file was imported but ")
    assert answer == success["importResponse"] | {"imageSetVersion": 1}
    assert outcome.manifest["numberOfImportedFiles"] == 1
    assert instance_of(imaging, success)["DICOM"]["WarningReason"] == reason


def instance_of(imaging, line):
    """The one instance of the image set of a line of SUCCESS."""
    [series] = imaging.document(line["importResponse"]["imageSetId"])["Study"]["Series"].values()
    [instance] = series["Instances"].values()
    return instance


def test_values_within_their_limits_give_no_warning(imaging):
    body = make_object(
        AccessionNumber="A" * 16,
        PatientName="=".join(["N" * 64] * 3),
        StudyDate="20260101",
        FrameOfReferenceUID="1.02.3",
    )
    outcome = imaging.run({"a.dcm": body})
    assert (outcome.warning, outcome.failure) == ([], [])


def test_a_file_may_have_several_warnings(imaging):
    [line] = imaging.run({"a.dcm": changed(other_class, StationName="S" * 17, FrameOfReferenceUID="1..2")}).warning
    codes = [w["warning_reason_code"] for w in line["importResponse"]["warnings"]]
    assert codes == [45063, 45570, 45571]


def test_long_values_may_be_a_warning(switched):
    outcome = run_past(switched, {"a.dcm": make_object(PatientID="9" * 257)})
    assert [w["warning_reason_code"] for w in outcome.warning[0]["importResponse"]["warnings"]] == [45571]


def test_invalid_uids_may_fail(switched):
    outcome = run_past(switched, {"a.dcm": make_object(StudyInstanceUID="1.2.3..4")})
    assert outcome.failure[0]["exception"]["message"] == "DICOM attribute StudyInstanceUID is not a valid UID"


def test_warnings_of_which_no_page_says_more_may_be_off(switched):
    outcome = run_past(switched, {"a.dcm": twice(make_object()), "b.dcm": misencoded(make_object())})
    assert (len(outcome.success), outcome.warning) == (2, [])


def coerced(outcome):
    """Files of which an attribute is not what their image set says."""
    lines = [(line["inputFile"][-5:], line["importResponse"]["warnings"]) for line in outcome.warning]
    return [name for name, [warning] in lines if warning["type"] == "CoercionOfDataElements"]


def test_an_attribute_that_differs_from_that_of_the_image_set(switched, imaging):
    """The first value stays, and who has another one is told; or the latest counts, and who came before is not."""
    for target, name, told in ((imaging, "Test^Name", ["b.dcm", "c.dcm"]), (switched, "Last^Name", ["b.dcm"])):
        shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
        assert run_past(target, {"a.dcm": make_object(**shared)}).warning == []
        names = {"b.dcm": "Other^Name", "c.dcm": "Last^Name", "d.dcm": None}
        outcome = run_past(target, {key: make_object(**shared, PatientName=value) for key, value in names.items()})
        assert coerced(outcome) == told
        document = target.document(outcome.success[0]["importResponse"]["imageSetId"])
        assert document["Patient"]["DICOM"]["PatientName"] == name
        [series] = document["Study"]["Series"].values()
        reasons = [item["DICOM"].get("WarningReason") for item in series["Instances"].values()]
        assert sorted(r for r in reasons if r) == [45056] * len(told)


def test_a_file_whose_like_comes_later_is_warned_of_but_not_kept(imaging):
    shared = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    outcome = imaging.run(
        {f"{n}.dcm": make_object(**shared, PatientName=name) for n, name in enumerate(("A", "B", "A"))}
    )
    assert coerced(outcome) == ["1.dcm"]
    assert "WarningReason" not in instance_of(imaging, outcome.success[0])["DICOM"]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ({"PatientName": ""}, {"PatientName": "Test^Name"}, "Test^Name"),
        ({"PatientName": "Test^Name"}, {"PatientName": ""}, "Test^Name"),
        ({"PatientName": "Test^Name"}, {"PatientName": None}, "Test^Name"),
        ({"PatientSize": "1.80"}, {"PatientSize": "1.8"}, "1.80"),
    ],
)
def test_what_is_empty_or_written_otherwise_is_no_difference(imaging, first, second, kept):
    """A merge fills in what the image set has empty, and neither it nor the group of one job warns of that."""
    for jobs in (1, 2):
        shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
        objects = [make_object(**shared | first), make_object(**shared | second)]
        outcomes = [imaging.run({f"{n}.dcm": o for n, o in enumerate(objects[at::jobs])}) for at in range(jobs)]
        assert [outcome.warning for outcome in outcomes] == [[]] * jobs
        document = imaging.document(outcomes[-1].success[0]["importResponse"]["imageSetId"])
        above = document["Patient"]["DICOM"] | document["Study"]["DICOM"]
        assert above[next(iter(first))] == kept


def test_a_warning_reason_of_its_own_does_not_look_like_ours(imaging):
    outcome = imaging.run({"a.dcm": make_object(WarningReason=45328)})
    assert outcome.warning == []
    assert "WarningReason" not in instance_of(imaging, outcome.success[0])["DICOM"]


def test_the_end_of_an_object_that_says_too_little_is_a_failure(imaging):
    """Cut off before group 0028, it is no object; so it is inside of a sequence."""
    body = make_object(**dict.fromkeys((*NO_PIXELS, "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation")))
    sequence = b"\x40\x00\x75\x02SQ\x00\x00\xff\x00\x00\x00" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    outcome = imaging.run({"a.dcm": body[:-1], "b.dcm": make_object() + sequence})
    assert [line["exception"]["message"] for line in outcome.failure] == ["DICOM attributes does not exist"] * 2
