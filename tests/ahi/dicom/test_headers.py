from __future__ import annotations

import csv
import os
import struct
import zlib
from collections import Counter
from pathlib import Path

import pytest

from ahi.dicom.headers import BytesSource, FileSource, Header, HeaderFailure, is_uid, read_header
from ahi.reasons import Reason

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "samples"
CORPUS = os.environ.get("AHI_DICOM_CORPUS", "")


def sample_files() -> list[tuple[Path, str]]:
    with (SAMPLES / "MANIFEST.csv").open(newline="") as file:
        return [(SAMPLES / "dicom" / row["file"], row["expected"]) for row in csv.DictReader(file)]


def corpus_files() -> list[tuple[Path, str]]:
    """The whole development corpus, where the environment names it."""
    if not CORPUS:
        return []
    with (Path(CORPUS) / "MANIFEST.csv").open(newline="") as file:
        return [(Path(CORPUS) / row["file"], row["expected"]) for row in csv.DictReader(file)]


FILES = sample_files() + corpus_files()


def outcome(result: Header | HeaderFailure) -> str:
    if isinstance(result, HeaderFailure):
        names = {Reason.EMPTY: "not_dicom", Reason.NOT_AN_INSTANCE: "not_instance"}
        return names.get(result.reason, result.reason.value.lower())
    if result.pixel_complete is False:
        return "broken_pixels"
    return "indexable_lenient" if result.lenient else "indexable"


@pytest.mark.parametrize(("path", "expected"), FILES, ids=lambda value: getattr(value, "name", value))
def test_outcome_is_the_expected(path, expected):
    assert outcome(read_header(FileSource(path))) == expected


def test_the_samples_hold_every_outcome():
    assert len(Counter(expected for _, expected in sample_files())) == 7


CT = SAMPLES / "dicom" / "pydicom" / "MR_small.dcm"


def explicit(tag: int, vr: str, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in {"OB", "OW", "SQ", "UN", "UT"}:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


IDENTITY = {
    0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.2"),
    0x00080018: ("UI", b"1.2.3.4"),
    0x0020000D: ("UI", b"1.2.3"),
    0x0020000E: ("UI", b"1.2.3.5"),
}


def part10(elements: dict[int, tuple[str, bytes]], syntax: bytes = b"1.2.840.10008.1.2.1", tail: bytes = b"") -> bytes:
    data = b"".join(explicit(tag, *element) for tag, element in sorted((IDENTITY | elements).items())) + tail
    meta = explicit(0x00020010, "UI", syntax)
    meta = explicit(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    if syntax == b"1.2.840.10008.1.2.1.99":
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = packer.compress(data) + packer.flush()
    return bytes(128) + b"DICM" + meta + data


class CountingSource(BytesSource):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        object.__setattr__(self, "ranges", [])

    def read(self, start: int, length: int) -> bytes:
        self.ranges.append((start, length))
        return super().read(start, length)


def header(data: bytes) -> Header:
    result = read_header(BytesSource(data))
    assert isinstance(result, Header), result
    return result


IMAGE = {
    0x00280002: ("US", struct.pack("<H", 1)),
    0x00280010: ("US", struct.pack("<H", 512)),
    0x00280011: ("US", struct.pack("<H", 512)),
    0x00280100: ("US", struct.pack("<H", 16)),
    0x7FE00010: ("OW", bytes(512 * 512 * 2)),
}


def test_a_ct_takes_one_read_of_16_kib():
    source = CountingSource(part10(IMAGE))
    result = read_header(source)
    assert isinstance(result, Header)
    assert result.pixel_complete is True
    assert source.ranges == [(0, 16384)]
    assert result.bytes_read == 16384


def test_a_large_private_element_is_skipped_and_not_read():
    source = CountingSource(part10(IMAGE | {0x00190010: ("LO", b"X"), 0x00191001: ("OB", bytes(300_000))}))
    result = read_header(source)
    assert isinstance(result, Header)
    assert result.values["Rows"] == 512
    assert result.pixel_complete is True
    assert result.bytes_read < 100_000


def test_private_bulk_before_the_pixels_costs_one_small_read():
    source = CountingSource(part10(IMAGE | {0x00290010: ("LO", b"X"), 0x00291010: ("OB", bytes(100_000))}))
    result = read_header(source)
    assert isinstance(result, Header)
    assert (result.pixel_complete, result.bytes_read) == (True, 16384 + 12)


@pytest.mark.parametrize("cut", [1, 1000, 500_000])
def test_cut_pixels_are_noticed(cut):
    assert header(part10(IMAGE)[:-cut]).pixel_complete is False


def test_cut_in_a_long_header_behind_the_index_columns_is_truncated():
    data = part10({0x00400275: ("OB", bytes(50_000))})
    assert header(data).lenient == ()
    assert header(data[:-10]).lenient == ("TRUNCATED",)


def test_cut_inside_the_index_columns_is_broken():
    data = part10({0x00280010: ("US", b"\1\1")})
    result = read_header(BytesSource(data[:-1]))
    assert isinstance(result, HeaderFailure)
    assert result.reason is Reason.BROKEN


@pytest.mark.parametrize(("uid", "valid"), [("1.2.3", True), ("1.02.3", True), ("1.2.abc", False), ("1..2", False)])
def test_uid_rules(uid, valid):
    assert is_uid(uid) is valid


@pytest.mark.parametrize("tag", sorted(IDENTITY))
@pytest.mark.parametrize("value", [b"", b"1.2.abc", b"'; DROP TABLE x", b"1." + b"2" * 70])
def test_identity_that_is_missing_or_not_valid(tag, value):
    result = read_header(BytesSource(part10({tag: ("UI", value)})))
    assert isinstance(result, HeaderFailure)
    assert result.reason is Reason.NO_IDENTITY
    assert value == b"" or value.decode() not in result.text


def test_values_are_typed():
    values = header(
        part10(
            {
                0x00080005: ("CS", b"ISO_IR 192"),
                0x00080020: ("DA", b"2024.02.29"),
                0x00080030: ("TM", b"1015"),
                0x0008002A: ("DT", b"20240229101530.5"),
                0x00080201: ("SH", b"+0130"),
                0x00100010: ("PN", "山田^太郎=ヤマダ^".encode()),
                0x00101030: ("DS", b" 71.5 "),
                0x00200013: ("IS", b"007 "),
            }
        )
    ).values
    assert str(values["StudyDate"]) == "2024-02-29"
    assert str(values["StudyTime"]) == "10:15:00"
    assert values["AcquisitionDateTime"].isoformat() == "2024-02-29T08:45:30.500000+00:00"
    assert values["PatientName_parts"]["family"] == "山田"
    assert (values["PatientWeight"], values["InstanceNumber"]) == (71.5, 7)


def test_a_value_that_does_not_fit_is_null_and_noted():
    result = header(part10({0x00080020: ("DA", b"soon"), 0x00280010: ("US", b"\1\0\2\0")}))
    assert not {"StudyDate", "Rows"} & result.values.keys()
    assert [(one.keyword, one.reason) for one in result.cast_failures] == [
        ("StudyDate", "not a date"),
        ("Rows", "more than one value"),
    ]


def test_codes_are_read_in_every_encoding():
    code = (
        explicit(0x00080100, "SH", b"T-A0100")
        + explicit(0x00080102, "SH", b"SRT")
        + explicit(0x00080104, "LO", b"Brain")
    )
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(code)) + code
    values = header(part10({0x00082218: ("SQ", item)})).values
    assert values["AnatomicRegionSequence"] == [{"code": "T-A0100", "scheme": "SRT", "meaning": "Brain"}]


def item_of(*elements: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, sum(map(len, elements))) + b"".join(elements)


ENDLESS = explicit(0x00081140, "SQ", b"")[:8] + b"\xff" * 4
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize("tail", [b"", explicit(0x00100020, "LO", b"P1")], ids=["lean", "pydicom"])
@pytest.mark.parametrize(
    ("item", "raw"),
    [
        (item_of(), None),
        (item_of(explicit(0x00080070, "LO", b""), explicit(0x00080100, "SH", b"\\ ")), None),
        (item_of(ENDLESS, SEQUENCE_END), None),
        (item_of(explicit(0x00080070, "LO", b"ACME")), "00080070"),
        (item_of(explicit(0x00080100, "SH", b""), explicit(0x00100020, "LO", b"P2")), "CodeValue\\PatientID"),
        (item_of(ENDLESS, item_of(), SEQUENCE_END), "00081140"),
    ],
    ids=["no elements", "empty elements", "an empty sequence", "another element", "empty and another", "a sequence"],
)
def test_items_without_a_field_of_their_column_are_empty_or_do_not_fit(item, raw, tail):
    result = header(part10({0x00082218: ("SQ", item)}, tail=tail))
    assert result.parser == ("pydicom" if tail else "lean")
    assert "AnatomicRegionSequence" not in result.values
    expected = [("AnatomicRegionSequence", raw, "no item has a field of the column")] if raw else []
    assert [(one.keyword, one.raw, one.reason) for one in result.cast_failures] == expected


def test_a_deflate_bomb_stays_small():
    import tracemalloc

    data = part10(
        {0x00280010: ("US", b"\1\1"), 0x00290010: ("LO", b"X"), 0x00291010: ("OB", bytes(300_000_000))},
        b"1.2.840.10008.1.2.1.99",
    )
    tracemalloc.start()
    result = read_header(BytesSource(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(result, Header)
    assert peak < 32 * 2**20


def test_deep_nesting_ends_without_an_error():
    deep = b"".join(
        explicit(0x00081140, "SQ", b"")[:8] + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4 for _ in range(3000)
    )
    result = read_header(BytesSource(part10({0x00081141: ("LO", b"")}, tail=b"")[:-100] + deep))
    assert isinstance(result, Header | HeaderFailure)


def test_tags_out_of_order_are_read_by_pydicom():
    data = part10({}, tail=explicit(0x00100020, "LO", b"P1"))
    result = header(data)
    assert (result.parser, result.values["PatientID"]) == ("pydicom", "P1")


def test_errors_of_the_source_pass_through():
    class Gone(BytesSource):
        def read(self, start: int, length: int) -> bytes:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        read_header(Gone(b"x" * 1000))
