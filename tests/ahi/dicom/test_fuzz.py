"""Broken bytes: never an exception, never without end, never much memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ahi.dicom.charset import decode, encodings_of
from ahi.dicom.headers import BytesSource, Header, HeaderFailure, read_header

SAMPLES = Path(__file__).parents[3] / "samples" / "dicom"
SEEDS = [
    path.read_bytes()[: 64 * 1024]
    for path in (
        SAMPLES / "pydicom" / "MR_small.dcm",
        SAMPLES / "pydicom" / "rtplan.dcm",
        SAMPLES / "pydicom" / "image_dfl.dcm",
        SAMPLES / "pydicom" / "reportsi.dcm",
        SAMPLES / "pydicom" / "chrJapMulti.dcm",
        SAMPLES / "pydicom" / "examples_jpeg2k.dcm",
    )
]
QUICK = settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@st.composite
def damaged(draw) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, min(len(data) - 1, 4000)))
        data[at : at + 4] = draw(
            st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\x00\xe0", b"SQ\0\0", b"UN"])
        )
    for _ in range(draw(st.integers(0, 8))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@QUICK
@given(damaged())
def test_damaged_objects_give_a_header_or_a_reason(data):
    result = read_header(BytesSource(data))
    assert isinstance(result, Header | HeaderFailure)
    assert result.bytes_read <= 20 * len(data) + 1024


@QUICK
@given(st.binary(max_size=3000), st.booleans())
def test_any_bytes_give_a_header_or_a_reason(data, with_preamble):
    assert isinstance(
        read_header(BytesSource(bytes(128) + b"DICM" + data if with_preamble else data)), Header | HeaderFailure
    )


@QUICK
@given(damaged(), st.integers(0, 10**9))
def test_a_source_shorter_than_it_says_is_survived(data, more):
    class Liar(BytesSource):
        @property
        def size(self) -> int:
            return len(self.data) + more

    assert isinstance(read_header(Liar(data)), Header | HeaderFailure)


@QUICK
@given(st.binary(max_size=200), st.text(max_size=40), st.booleans())
def test_any_text_decodes(value, names, is_name):
    assert isinstance(decode(value, encodings_of(names), is_name=is_name), str)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_every_cut_is_survived(seed):
    data = SEEDS[seed]
    for end in range(0, min(len(data), 6000), 37):
        assert isinstance(read_header(BytesSource(data[:end])), Header | HeaderFailure)


def test_a_huge_object_of_nonsense_is_given_up():
    start_of_it = (
        bytes(128)
        + b"DICM"
        + b"\2\0\0\0UL\4\0\0\0\0\0"
        + b"\x08\0\5\0SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    )

    class Endless:
        size = 5 * 10**9

        def read(self, start: int, length: int) -> bytes:
            head = start_of_it[start : start + length]
            return (head + b"\x08\0\5\0LO\2\0  " * (length // 10 + 1))[:length]

    result = read_header(Endless())
    assert isinstance(result, HeaderFailure)
    assert result.bytes_read < 16 * 2**20
