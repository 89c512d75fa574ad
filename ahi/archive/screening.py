"""Headers of an archive's objects, read before it is planned.

Belongs here: setting non-DICOM aside, and how often a series begins. Does not belong here: what a header is
(`ahi.dicom.headers`), and reading all of them, which the import does.

Every header is read when its shard starts; that one read tells non-DICOM from DICOM, fills the ledger and costs nothing
twice. Reading a million headers to plan would take twenty minutes of CPU. So planning reads only what its name or size
makes doubtful: an object counts as no DICOM by its header, never by its name.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ahi.archive.choices import Screen
from ahi.archive.entry import read_object
from ahi.dicom.headers import Header, HeaderFailure
from ahi.events import ObjectCreated
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ahi.archive.keys import Keys
    from ahi.pipeline import Pipeline

SAMPLE = 64
"""Pairs of neighbours whose headers are read for an estimate: the share is known to 6 points at worst."""

ASIDE = {Reason.NOT_DICOM, Reason.NOT_AN_INSTANCE, Reason.EMPTY}
"""What is no instance, whatever is done. Broken objects stay in: their import tells why they fail."""


@dataclass(frozen=True)
class Sample:
    """What neighbours in a folder told: how many pairs could be read, and in how many the series changes."""

    n_pairs: int
    n_changes: int


def screen(pipeline: Pipeline, bucket: str, keys: Keys, which: Screen) -> int:
    """Set aside what its header shows to be no DICOM instance. Returns how many headers were read."""
    if which is Screen.NONE:
        return 0
    n_read = 0

    def judged() -> Iterator[tuple[str, str]]:
        nonlocal n_read
        with ThreadPoolExecutor(pipeline.settings.header_threads) as pool:
            for rows in keys.suspects(every=which is Screen.ALL):
                n_read += len(rows)
                for row, found in zip(rows, pool.map(lambda row: _header(pipeline, bucket, row), rows), strict=True):
                    if isinstance(found, HeaderFailure) and found.reason in ASIDE:
                        yield row["key"], str(found.reason)

    keys.judge(judged())
    return n_read


def sample(pipeline: Pipeline, bucket: str, keys: Keys) -> Sample:
    """Read the headers of some pairs of neighbours. Pairs that cannot be read do not count."""
    pairs = keys.neighbours(SAMPLE)
    with ThreadPoolExecutor(pipeline.settings.header_threads) as pool:
        found = list(pool.map(lambda pair: [_series(_header(pipeline, bucket, row)) for row in pair], pairs))
    read = [(one, other) for one, other in found if one and other]
    return Sample(len(read), sum(one != other for one, other in read))


def _series(header: Header | HeaderFailure) -> object:
    return header.values.get("SeriesInstanceUID") if isinstance(header, Header) else None


def _header(pipeline: Pipeline, bucket: str, row: dict[str, Any]) -> Header | HeaderFailure:
    """The header of an object. What S3 does not give now fails no plan: its shard's start waits for it, and tells."""
    item = ObjectCreated(bucket, row["key"], row["version_id"], row["etag"], row["size_bytes"], "", None)
    return read_object(pipeline, item, at_last=True)
