"""The objects of a job as instances, or as failures.

Belongs here: one object after the other. Does not belong here: S3 (`sources.py`), DICOM (`dicom.py`, `instances.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from local_aws.healthimaging import dicom, instances
from local_aws.healthimaging.values import load_libraries
from local_aws.inprocess import CallError

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_aws.healthimaging.grouping import Gathered
    from local_aws.healthimaging.json_metadata import JsonMetadata
    from local_aws.healthimaging.pixel_store import PixelWriter
    from local_aws.healthimaging.results import Results
    from local_aws.healthimaging.sources import Source
    from local_aws.inprocess import S3Object

log = logging.getLogger(__name__)

INTERNAL = "Internal error during import"
TOO_LARGE = "File is larger than the limit"


class Reading:
    """Reads the objects of one job."""

    def __init__(
        self,
        job_id: str,
        source: Source,
        metadata: JsonMetadata,
        writer: PixelWriter,
        rules: instances.Rules,
        most_bytes: int,
    ) -> None:
        """Say what is read and by which rules.

        Args:
            job_id: What makes ids of frames unique.
            source: Where the objects are.
            metadata: What enhances them.
            writer: Where their pixels go.
            rules: What is forgiven.
            most_bytes: Size of a file above which it fails.
        """
        self._job_id = job_id
        self._source = source
        self._metadata = metadata
        self._writer = writer
        self._rules = rules
        self._most_bytes = most_bytes

    def run(self, objects: list[S3Object], gathered: Gathered, results: Results, reached: Callable[[], None]) -> None:
        """Every object as an instance into `gathered`; those that are none go to `results`.

        Args:
            objects: What to read, in this order.
            gathered: Takes the instances.
            results: Takes the failures.
            reached: Called before each object.
        """
        load_libraries()
        for item in objects:
            if item.size > self._most_bytes:
                results.fail(item.key, TOO_LARGE)
        for item, body in self._source.bodies([o for o in objects if o.size <= self._most_bytes]):
            reached()
            if isinstance(body, CallError):
                results.fail(item.key, f"Object could not be read from S3: {body.code}")
                continue
            try:
                gathered.add(item.key, self._instance(item, body))
            except dicom.DicomError as error:
                results.fail(item.key, str(error))
            except Exception:
                log.exception("an object of import job %s could not be read", self._job_id)
                results.fail(item.key, INTERNAL, "InternalServerException")

    def _instance(self, item: S3Object, body: bytes) -> instances.Instance:
        try:
            return self._made(item, dicom.read(body, item.size))
        except dicom.DicomError:
            if len(body) == item.size:
                raise
        # The beginning was not enough: an attribute before the pixels is longer than it.
        return self._made(item, dicom.read(self._source.read(item.key)))

    def _made(self, item: S3Object, parsed: dicom.Parsed) -> instances.Instance:
        def fetch(start: int, length: int) -> bytes:
            return self._source.read(item.key, start=start, limit=length)

        self._metadata.apply(parsed)
        return instances.instance(parsed, f"{self._job_id}/{item.key}", self._writer, fetch, self._rules)
