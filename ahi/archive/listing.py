"""The keys of an archive by listing its bucket (`ListObjectsV2`), side by side.

Belongs here: cutting an archive into ranges of keys, and listing one range. Does not belong here: keeping what was
listed (`inventory`).

A listing gives 1,000 keys a request and the next request needs the answer of the one before. So the archive is cut into
ranges, which are listed side by side: at the characters in which its keys begin to differ, be that in names of folders
or of objects. Ranges leave no gap whatever is added meanwhile.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
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

HIGHEST = "\U0010ffff"
"""Behind a start of keys, this is beyond every key with it."""

MOST_BRANCHES = 64
"""Characters looked for at one place of a key; names in figures have ten or so."""

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
    """Cut an archive into ranges of keys, in order; together they are all of it."""
    whole = KeyRange("", "")
    if sum(1 for _ in islice(pages(pipeline, archive, whole), SMALL_PAGES)) < SMALL_PAGES:
        return [whole]
    threads = pipeline.settings.archive_list_threads
    wanted, starts, growing = threads * RANGES_PER_THREAD, [archive.prefix], True
    with ThreadPoolExecutor(threads) as pool:
        while growing and len(starts) < wanted:
            found = list(pool.map(lambda start: _branches(pipeline, archive.bucket, start), starts))
            growing = any(len(some) > 1 for some in found)
            starts = sorted(start for some in found for start in some)
    step = max(1, len(starts) // wanted)
    bounds = ["", *starts[step::step], ""]
    return [KeyRange(after, last) for after, last in pairwise(bounds)]


def _branches(pipeline: Pipeline, bucket: str, start: str) -> list[str]:
    """The longer starts that the keys with a start divide into, at the first character in which they differ."""

    def first(after: str) -> str | None:
        answer = pipeline.aws.s3.list_objects_v2(Bucket=bucket, Prefix=start, StartAfter=after, MaxKeys=1)
        return next((entry["Key"] for entry in answer.get("Contents", [])), None)

    key = first(start)
    if key is None:
        return [start]
    # All keys have as much in common with the first as nothing lies beyond.
    at, longest = len(start), len(key)
    while at < longest:
        middle = (at + longest + 1) // 2
        at, longest = (middle, longest) if first(key[:middle] + HIGHEST) is None else (at, middle - 1)
    if at == len(key):
        key = first(key)
    found = list[str]()
    while key is not None and len(found) < MOST_BRANCHES:
        found.append(key[: at + 1])
        key = first(found[-1] + HIGHEST)
    return found or [start]


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
