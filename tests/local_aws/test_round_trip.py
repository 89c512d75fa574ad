"""Every indexable file in, then out again by metadata and frames: attributes and pixels are those of the original.

A client that speaks boto3 only rebuilds the instance (`rebuild.py`); frames that HealthImaging transcodes are decoded
with OpenJPEG, which the server does not use, and checked against the metadata's checksum. Runs over the samples of
the project, and as a drill over the folder that AHI_DICOM_CORPUS names, with its MANIFEST.csv.
"""

from __future__ import annotations

import base64
import csv
import math
import os
import uuid
import warnings
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array
from pydicom.tag import BaseTag

from tests.local_aws.conftest import Imaging
from tests.local_aws.rebuild import BINARY, instance_of

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
# Stored transfer syntax and content type of what a data store of a format transcodes.
LOSSLESS = {
    "HTJ2K": ("1.2.840.10008.1.2.4.202", "image/jph"),
    "JPEG_2000_LOSSLESS": ("1.2.840.10008.1.2.4.90", "image/j2c"),
}
RLE = "1.2.840.10008.1.2.5"
PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
MAX_PRIVATE = 2**20
# All that the documents of the service and its guide have, by level.
KEYS = {
    "document": {"SchemaVersion", "DatastoreID", "ImageSetID", "Patient", "Study"},
    "patient": {"DICOM"},
    "study": {"DICOM", "Series"},
    "series": {"DICOM", "Instances"},
    "instance": {"DICOM", "DICOMVRs", "StoredTransferSyntaxUID", "ChecksumType", "ImageFrames"},
    "frame": {"ID", "PixelDataChecksumFromBaseToFullResolution", "MinPixelValue", "MaxPixelValue", "FrameSizeInBytes"},
    "checksum": {"Width", "Height", "Checksum"},
}


@dataclass
class Row:
    """One transfer syntax of the report."""

    files: int = 0
    attributes: int = 0
    elements: int = 0
    frames: int = 0
    pixels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


# -- attributes -------------------------------------------------------------------------------------------------------


def canonical(vr: str, value: Any) -> list[Any]:
    """Values in a form in which two readings of an element are equal."""
    if value is None or value in ("", b""):
        return []
    if vr in BINARY:
        return [base64.b64decode(value) if isinstance(value, str) else bytes(value)]
    many = list(value) if isinstance(value, list | tuple | pydicom.multival.MultiValue) else [value]
    if vr == "AT":
        return [int(v, 16) if isinstance(v, str) else int(v) for v in many]
    if isinstance(many[0], int | float):
        return [None if isinstance(v, float) and not math.isfinite(v) else v for v in many]
    texts = [str(v).strip(" \0") if vr not in {"DS", "IS"} else str(v) for v in many]
    return texts if any(texts) else []


def original_value(data: pydicom.Dataset, tag: BaseTag) -> tuple[str, Any]:
    """VR and value of an element; the very text of a decimal or integer string."""
    raw = data.get_item(tag)
    if isinstance(raw, RawDataElement):
        known = raw.VR if raw.VR not in {None, "UN"} else None
        if known is None and tag.is_private and (raw.VR == "UN" or not tag.is_private_creator):
            # pydicom knows some private attributes; the object does not say what they are.
            if raw.length != 0xFFFFFFFF:
                return "UN", raw.value
        elif known is None and not tag.is_private:
            known = dictionary_VR(tag) if dictionary_has_tag(tag) else None
        if known in {"DS", "IS"}:
            return known, raw.value.decode("latin-1").rstrip("\0").split("\\") if raw.value else None
    element = data[tag]
    return element.VR, element.value


def compare(original: pydicom.Dataset, rebuilt: pydicom.Dataset, row: Row, where: str = "") -> bool:
    """Whether every element of the original is in the rebuilt data set, and nothing else."""
    same = True
    tags = [t for t in original._dict if t.element and (where or t not in PIXELS)]
    for extra in {t for t in rebuilt._dict if t.element} - set(tags):
        same = False
        row.differences.append(f"{where}{extra} is not in the original")
    for tag in tags:
        vr, value = original_value(original, tag)
        if tag not in rebuilt:
            same = False
            row.differences.append(f"{where}{tag} {vr} is missing")
            continue
        other = rebuilt[tag]
        row.elements += 1
        if vr == "SQ":
            if len(value) != len(other.value):
                same = False
                row.differences.append(f"{where}{tag} has {len(other.value)} items, not {len(value)}")
                continue
            pairs = zip(value, other.value, strict=True)
            same = sum(not compare(a, b, row, f"{where}{tag}/") for a, b in pairs) == 0 and same
            continue
        if tag.is_private and vr in BINARY and len(value or b"") > MAX_PRIVATE and not other.value:
            row.reasons["private value above 1 MiB is stored apart"] += 1
            continue
        # What the dictionary does not know and the document gives no VR for is compared by the original's.
        left, right = canonical(vr, value), canonical(vr if other.VR == "UN" else other.VR, other.value)
        if left != right:
            same = False
            row.differences.append(f"{where}{tag} {vr}: {str(left)[:60]} became {other.VR}: {str(right)[:60]}")
    return same


# -- pixels -----------------------------------------------------------------------------------------------------------


def decoded(body: bytes, bits: int) -> np.ndarray[Any, Any]:
    """Samples of a lossless stream, by a decoder that is not the server's where there is one."""
    if bits > 16:  # OpenJPEG ends before 32 bits
        import imagecodecs

        return np.asarray(imagecodecs.htj2k_decode(body))
    from openjpeg.utils import decode

    return np.asarray(decode(body))


def reference(data: pydicom.Dataset, index: int) -> tuple[np.ndarray[Any, Any], str]:
    """Samples of the original, and who decoded them: pydicom, OpenJPEG, or a codec that is not the server's if any."""
    last = data.file_meta.TransferSyntaxUID.rpartition(".4.")[2]
    if data.BitsAllocated == 1 and data.file_meta.TransferSyntaxUID == RLE:
        stream = list(generate_frames(data.PixelData, number_of_frames=frame_count(data)))[index]
        bits = np.unpackbits(np.frombuffer(pack_bits(stream[64:]), np.uint8), bitorder="little")
        return bits[: data.Rows * data.Columns].reshape(data.Rows, data.Columns), "PackBits"
    if last not in {"51", "57", "70", "80", "81", "90", "92", "93", "201", "202"}:
        return pixel_array(data, raw=True, index=index), "pydicom"
    stream = list(generate_frames(data.PixelData, number_of_frames=frame_count(data)))[index]
    if last >= "90" or len(last) == 3:
        return signed(data, decoded(stream, 8)), "OpenJPEG"
    import imagecodecs

    for name in {"57": ("jpegsof3", "jpeg8"), "70": ("jpegsof3", "jpeg8"), "51": ("jpeg8",)}.get(last, ("jpegls",)):
        try:
            return signed(data, np.asarray(getattr(imagecodecs, f"{name}_decode")(stream))), name
        except (RuntimeError, ValueError):
            continue
    raise AssertionError("no decoder for the original")


def frame_count(data: pydicom.Dataset) -> int:
    """Number of frames; one where the object says nonsense, as HealthImaging must also assume."""
    try:
        return int(data.get("NumberOfFrames") or 1)
    except ValueError:
        return 1


def pack_bits(stream: bytes) -> bytes:
    """One RLE segment (PS3.5, annex G): pydicom decodes none of single bits."""
    out = bytearray()
    position = 0
    while position + 1 < len(stream):
        count = stream[position]
        if count < 128:
            out += stream[position + 1 : position + 2 + count]
            position += 2 + count
        else:
            out += stream[position + 1 : position + 2] * (257 - count if count > 128 else 0)
            position += 2 if count > 128 else 1
    return bytes(out)


def signed(data: pydicom.Dataset, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give the samples the sign that JPEG does not carry."""
    if not data.PixelRepresentation or array.dtype.kind == "i":
        return array
    spare = data.BitsAllocated - data.BitsStored
    return (array.astype(f"i{data.BitsAllocated // 8}") << spare) >> spare


def check_frames(
    client: Imaging, image_set: str, data: pydicom.Dataset, instance: dict[str, Any], row: Row, form: str
) -> None:
    """Fetch every frame of an instance and compare it with the original's."""
    count = frame_count(data)
    kept = originals(data, count)
    frames = instance["ImageFrames"]
    for index, frame in enumerate(frames):
        answer = client.api.get_image_frame(
            datastoreId=client.datastore, imageSetId=image_set, imageFrameInformation={"imageFrameId": frame["ID"]}
        )
        body, kind = answer["imageFrameBlob"].read(), answer["contentType"]
        checksum = frame["PixelDataChecksumFromBaseToFullResolution"][0]["Checksum"]
        stored = instance["StoredTransferSyntaxUID"]
        if stored != LOSSLESS[form][0]:
            row.pixels["kept as they are"] += 1
            if zlib.crc32(body) != checksum or frame["FrameSizeInBytes"] != len(body):
                row.differences.append(f"frame {index}: checksum or size of a kept frame")
            if kind == "application/octet-stream" and data.file_meta.TransferSyntaxUID not in NATIVE:
                row.reasons["of them the whole value as one blob"] += 1
                if not body.startswith(data.PixelData):
                    row.differences.append("the blob is not the original's value")
            elif body.rstrip(b"\0") != kept[index].rstrip(b"\0"):
                row.differences.append(f"frame {index}: a kept frame is not the original's")
            continue
        array = decoded(body, data.BitsAllocated)
        found = (kind, zlib.crc32(array.tobytes()), array.nbytes)
        if found != (LOSSLESS[form][1], checksum, frame["FrameSizeInBytes"]):
            row.differences.append(f"frame {index}: {kind}, checksum or size")
        wanted, by = reference(data, index)
        if not np.array_equal(array, wanted) or array.dtype.itemsize != wanted.dtype.itemsize:
            row.differences.append(
                f"frame {index}: {array.dtype}{array.shape} against {by} {wanted.dtype}{wanted.shape}"
            )
        row.pixels[f"equal to {by}"] += 1


def originals(data: pydicom.Dataset, count: int) -> list[bytes]:
    """Frames of the original as they stand in it."""
    if data.file_meta.TransferSyntaxUID not in NATIVE:
        try:
            return list(generate_frames(data.PixelData, number_of_frames=count))
        except ValueError:
            return []
    if data.BitsAllocated != 1:  # JPEG 2000 has no 32 bits: one blob, in little endian
        order = "<" if data.original_encoding[1] else ">"
        return [np.frombuffer(data.PixelData, f"{order}u{data.BitsAllocated // 8}").astype("<u4").tobytes()]
    bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
    size = data.Rows * data.Columns
    return [np.packbits(bits[i * size : (i + 1) * size], bitorder="little").tobytes() for i in range(count)]


def strange_keys(document: dict[str, Any]) -> set[str]:
    """Keys beside the attributes that no document of the service has."""
    series = list(document["Study"]["Series"].values())
    items = [item for one in series for item in one["Instances"].values()]
    frames = [frame for item in items for frame in item["ImageFrames"]]
    checksums = [c for frame in frames for c in frame["PixelDataChecksumFromBaseToFullResolution"]]
    parts = ([document], [document["Patient"]], [document["Study"]], series, items, frames, checksums)
    return {key for known, found in zip(KEYS.values(), parts, strict=True) for one in found for key in set(one) - known}


# -- the run ----------------------------------------------------------------------------------------------------------


def waves(folder: Path, manifest: Path) -> list[dict[str, Path]]:
    """Indexable files, in groups that have each series once: then no file replaces or is merged with another."""
    groups: list[dict[str, Path]] = []
    seen: Counter[str] = Counter()
    for line in csv.DictReader(manifest.read_text().splitlines()):
        if line["expected"] == "indexable":
            path = folder / line["file"]
            series = str(pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID)
            number = seen[series]
            seen[series] += 1
            if number == len(groups):
                groups.append({})
            groups[number][f"{len(groups[number]):04}.dcm"] = path
    return groups


def round_trip(stack: Any, folder: Path, manifest: Path, form: str) -> dict[str, Row]:
    """Import, rebuild, compare; a row for each transfer syntax."""
    rows: dict[str, Row] = defaultdict(Row)
    client = Imaging(stack)
    for files in waves(folder, manifest):
        wanted = {"datastoreName": f"r-{uuid.uuid4().hex}", "losslessStorageFormat": form}
        client.datastore = client.api.create_datastore(**wanted)["datastoreId"]
        outcome = client.run({key: path.read_bytes() for key, path in files.items()})
        assert outcome.failure == [], [files[line["inputFile"].rpartition("/")[2]] for line in outcome.failure]
        warned = {line["inputFile"] for line in outcome.warning}
        for line in outcome.success:
            path = files[line["inputFile"].rpartition("/")[2]]
            image_set = line["importResponse"]["imageSetId"]
            data = pydicom.dcmread(path)
            row = rows[data.file_meta.TransferSyntaxUID]
            row.files += 1
            before = len(row.differences)
            document = client.document(image_set)
            row.differences += sorted(strange_keys(document))
            rebuilt, instance = instance_of(document, data.SOPInstanceUID)
            whole = pydicom.Dataset()
            whole._dict = {**data.file_meta._dict, **data._dict}
            whole.set_original_encoding(*data.original_encoding, data.original_character_set)
            if line["inputFile"] in warned and rebuilt.pop("WarningReason", None):
                row.reasons["imported with a warning, which the metadata names"] += 1
            row.attributes += compare(whole, rebuilt, row)
            if "PixelData" in data:
                data.NumberOfFrames = frame_count(data)
                row.frames += len(instance["ImageFrames"])
                try:
                    check_frames(client, image_set, data, instance, row, form)
                except Exception as error:  # noqa: BLE001 -- one file that breaks must not hide the others
                    row.differences.append(f"{type(error).__name__}: {error}")
            row.differences[before:] = [f"{path.name}: {text}" for text in row.differences[before:]]
    return rows


def report(rows: dict[str, Row]) -> str:
    """The table."""
    lines = [f"{'transfer syntax':26}{'files':>6}{'equal':>6}{'elements':>9}{'frames':>7}  frames by, and reasons"]
    for syntax, row in sorted(rows.items()):
        notes = ", ".join(f"{n} {text}" for text, n in [*row.pixels.items(), *row.reasons.items()])
        lines.append(f"{syntax:26}{row.files:>6}{row.attributes:>6}{row.elements:>9}{row.frames:>7}  {notes}")
        lines += [f"    {text}" for text in row.differences]
    return "\n".join(lines)


def check(stack: Any, folder: Path, manifest: Path, form: str = "HTJ2K") -> None:
    """One run over a corpus, its table printed, without a difference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = round_trip(stack, folder, manifest, form)
    print("\n" + report(rows))  # noqa: T201 -- the report is the point of a drill
    assert sum(row.files for row in rows.values()) > 0
    assert [text for row in rows.values() for text in row.differences] == []


def test_the_samples_come_out_as_they_went_in(aws_stack):
    aws_stack.reset()
    check(aws_stack, SAMPLES / "dicom", SAMPLES / "MANIFEST.csv")


@pytest.mark.drill
@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.skipif("AHI_DICOM_CORPUS" not in os.environ, reason="AHI_DICOM_CORPUS names no corpus")
def test_a_larger_corpus_comes_out_as_it_went_in(make_aws_stack, form):
    folder = Path(os.environ["AHI_DICOM_CORPUS"])
    check(make_aws_stack(), folder, folder / "MANIFEST.csv", form)
