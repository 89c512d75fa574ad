"""The keys of an archive by listing its bucket (`ListObjectsV2`), side by side.

Belongs here: cutting an archive into ranges of keys, and listing one range. Does not belong here: keeping what was
listed (`inventory`).

A listing gives 1,000 keys a request and the next request needs the answer of the one before. So the archive is cut into
ranges, at folders, which are listed side by side. Ranges leave no gap whatever is added meanwhile; an archive whose
objects all lie in one folder is one range.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from mypy_boto3_s3 import S3Client

    from ahi.archive.archives import Archive
    from ahi.pipeline import Pipeline

ENTRIES = "AhiEntries"
"""Where an answer carries the columns of its entries, read by us."""

FOLDER_PAGES = 64
"""Requests spent on looking for folders to cut at."""

RANGES_PER_THREAD = 4
"""Ranges are of unequal size: with several for each thread no thread is long without work."""

SMALL_PAGES = 10
"""An archive of so few pages is listed in one go: each range ends with a page that is mostly thrown away."""

_FIELDS = ("Key", "ETag", "Size", "LastModified", "StorageClass")


@dataclass(frozen=True)
class KeyRange:
    """Keys behind `after`, up to `last` and with it; empty: from the start, to the end."""

    after: str
    last: str


def cut(pipeline: Pipeline, archive: Archive) -> list[KeyRange]:
    """Cut an archive into ranges of keys at its folders, in order; together they are all of it."""
    whole = KeyRange("", "")
    if sum(1 for _ in islice(pages(pipeline, archive, whole), SMALL_PAGES)) < SMALL_PAGES:
        return [whole]
    wanted = pipeline.settings.archive_list_threads * RANGES_PER_THREAD
    folders, n_pages = [archive.prefix], 0
    while folders and len(folders) < wanted and n_pages < FOLDER_PAGES:
        below: list[str] = []
        for folder in folders:
            for page in _folder_pages(pipeline, archive.bucket, folder):
                below += page
                n_pages += 1
                if n_pages >= FOLDER_PAGES:
                    break
            if n_pages >= FOLDER_PAGES:
                # What was not looked into is cut where it begins.
                below += [other for other in folders if other > folder]
                break
        if not below:
            break
        folders = below
    step = max(1, len(folders) // wanted)
    starts = [""] + [_before(folder) for folder in sorted(folders)[step::step]]
    return [KeyRange(after, last) for after, last in zip(starts, [*starts[1:], ""], strict=True)]


def _before(folder: str) -> str:
    """The greatest text below every key of a folder that a key may well be: its name without the slash."""
    return folder[:-1]


def _folder_pages(pipeline: Pipeline, bucket: str, folder: str) -> Iterator[list[str]]:
    s3 = pipeline.aws.s3
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder, Delimiter="/"):
        yield [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]


def pages(pipeline: Pipeline, archive: Archive, keys: KeyRange) -> Iterator[tuple[pa.Table, str]]:
    """Entries of a range, a page at a time and in order, each with the last key that it covers."""
    import pyarrow.compute as pc

    s3 = quick_listing(pipeline)
    more: dict[str, Any] = {"StartAfter": keys.after} if keys.after else {}
    while True:
        answer = s3.list_objects_v2(Bucket=archive.bucket, Prefix=archive.prefix, **more)
        rows = _table(cast("dict[str, list[str | None]]", answer.get(ENTRIES, {})))
        if rows.num_rows and keys.last and rows["key"][-1].as_py() > keys.last:
            yield rows.filter(pc.field("key") <= keys.last), keys.last
            return
        if rows.num_rows:
            yield rows, str(rows["key"][-1].as_py())
        if not answer.get("IsTruncated"):
            return
        more = {"ContinuationToken": answer["NextContinuationToken"]}


def _table(columns: dict[str, list[str | None]]) -> pa.Table:
    """Entries of one page in the columns of a part."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from ahi.archive.parts import schema

    texts = {name: pa.array(columns.get(name, []), pa.string()) for name in _FIELDS}
    rows: dict[str, Any] = {
        "key": texts["Key"],
        "version_id": pa.nulls(len(texts["Key"]), pa.string()),
        "etag": pc.utf8_trim(texts["ETag"], '"'),
        "size_bytes": pc.cast(texts["Size"], pa.int64()),
        "last_modified": pc.cast(texts["LastModified"], pa.timestamp("us", tz="UTC")),
        "storage_class": texts["StorageClass"],
    }
    return pa.table(rows, schema())


def quick_listing(pipeline: Pipeline) -> S3Client:
    """The pipeline's client of S3, which from now on leaves the entries of `ListObjectsV2` to us when we ask.

    botocore spends 0.1 s CPU on the 1,000 entries of a page: with it, a million keys cost two minutes.
    """
    return pipeline.aws.listing(_take_entries)


def _take_entries(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Read the entries out of an answer (event `before-parse` of botocore) and leave it the rest."""
    if response_dict.get("status_code") != 200:  # noqa: PLR2004
        return
    # The service's own answer over TLS, which botocore would give to the same parser.
    root = ET.fromstring(response_dict["body"])  # noqa: S314
    space = root.tag.rpartition("}")[0] + "}" if "}" in root.tag else ""
    names = {f"{space}{name}": name for name in _FIELDS}
    columns: dict[str, list[str | None]] = {name: [] for name in _FIELDS}
    encoded = root.findtext(f"{space}EncodingType") == "url"
    for entry in root.findall(f"{space}Contents"):
        found = {names[part.tag]: part.text for part in entry if part.tag in names}
        for name, values in columns.items():
            values.append(found.get(name))
        root.remove(entry)
    if encoded:
        keys = columns["Key"]
        columns["Key"] = [unquote_plus(key) if key and ("%" in key or "+" in key) else key for key in keys]
    customized_response_dict[ENTRIES] = columns
    response_dict["body"] = ET.tostring(root)
