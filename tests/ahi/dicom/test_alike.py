"""What was read before never changes what is read: headers beside those of the same bytes, read by a fresh reader."""

from __future__ import annotations

import csv
import random
from dataclasses import replace
from pathlib import Path

import pytest

from ahi.dicom import alike
from ahi.dicom.headers import BytesSource, Header, read_header

SAMPLES = Path(__file__).parents[3] / "samples"


@pytest.fixture(autouse=True)
def _fresh():
    alike.forget()
    yield
    alike.forget()


def sample_objects() -> list[bytes]:
    with (SAMPLES / "MANIFEST.csv").open(newline="") as file:
        return [(SAMPLES / "dicom" / row["file"]).read_bytes() for row in csv.DictReader(file)]


def read(data: bytes) -> object:
    return read_header(BytesSource(data))


def alone(data: bytes) -> object:
    alike.forget()
    return read(data)


def plain(result: object) -> object:
    return replace(result, pattern=None) if isinstance(result, Header) else result


def fits(data: bytes) -> bool:
    result = read(data)
    return isinstance(result, Header) and result.pattern is not None


def changed(data: bytes, rng: random.Random, *, most: int = 3) -> bytes:
    """The object with some bytes of its first 8 KiB changed, put in or left out."""
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(132, min(len(data), 8192))
        kind = rng.randrange(4)
        if kind == 0:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + data[at + 2 :]
        else:
            data = data[:at] + b"1 " + data[at:]
    return data


def test_samples_read_one_after_the_other_are_what_each_is_alone():
    objects = sample_objects()
    expected = [alone(data) for data in objects]
    alike.forget()
    for _ in range(3):
        assert [plain(read(data)) for data in objects] == expected


@pytest.mark.parametrize("data", [data for data in sample_objects() if isinstance(read(data), Header)][::4])
def test_changed_bytes_read_as_by_a_fresh_reader(data):
    rng = random.Random(len(data))
    objects = [data, data, *(changed(data, rng) for _ in range(40))]
    expected = [alone(one) for one in objects]
    alike.forget()
    assert [plain(read(one)) for one in objects] == expected


def series(count: int, *, of: bytes) -> list[bytes]:
    """Copies of an object with UIDs of their own, some longer."""
    uid = read(of).values["SOPInstanceUID"].encode()
    at = of.rfind(uid, 0, 4096)
    found = []
    for number in range(count):
        new = uid[:-4] + f"{number:04d}".encode()
        found.append(of[:at] + new + of[at + len(uid) :])
    return found


@pytest.mark.parametrize("name", ["MR_small.dcm", "rtplan.dcm", "CT_small.dcm"])
def test_the_fourth_object_of_a_series_is_told_from_its_own_elements(name):
    objects = series(20, of=(SAMPLES / "dicom" / "pydicom" / name).read_bytes())
    alike.forget()
    results = [read(data) for data in objects]
    assert [result.pattern is not None for result in results] == [False] * 3 + [True] * 17
    assert len({result.values["SOPInstanceUID"] for result in results}) == 20
    assert len({id(result.pattern) for result in results[3:]}) == 1
    assert all("SOPInstanceUID" not in result.pattern.values for result in results[3:])
    assert [plain(result) for result in results] == [alone(data) for data in objects]


def test_an_object_that_ends_inside_its_header_does_not_fit():
    objects = series(4, of=(SAMPLES / "dicom" / "pydicom" / "MR_small.dcm").read_bytes())
    ends = range(400, 1900, 7)
    expected = [alone(objects[3][:end]) for end in ends]
    alike.forget()
    assert [fits(data) for data in objects] == [False, False, False, True]
    assert [plain(read(objects[3][:end])) for end in ends] == expected


def test_a_single_object_of_each_series_is_only_counted():
    for data in sample_objects():
        read(data)
        assert len(alike._walked) <= alike._MOST_SERIES


def test_one_object_with_another_character_set_is_of_another_kind():
    named = [data for data in sample_objects() if b"CS\x0a\0ISO_IR 100" in data]
    data = next(data for data in named if [fits(data) for _ in range(3)][-1])
    other = data.replace(b"ISO_IR 100", b"ISO_IR 144", 1)
    assert not fits(other)
    assert read(other).values["SpecificCharacterSet"] == ["ISO_IR 144"]
