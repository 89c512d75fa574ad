"""The objects of an import job: listed, checked against the quotas, read a bounded number at a time.

Belongs here: the input side of S3. Does not belong here: what an object holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_aws.healthimaging.results import split_uri
from local_aws.inprocess import CallError, S3Object

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from local_aws.inprocess import Caller
    from local_aws.settings import LocalSettings

WHOLE_BYTES = 64 * 2**20
PREFIX_BYTES = 4 * 2**20
CHUNK_OBJECTS = 32
CHUNK_BYTES = 32 * 2**20

FAILED = "DICOM import job has failed."


class JobFailedError(Exception):
    """The whole job fails; the text becomes its message."""

    @classmethod
    def because(cls, reason: str) -> JobFailedError:
        """In the documented words, with a reason."""
        return cls(f"{FAILED} {reason}")


class Source:
    """What lies under the input prefix of one job."""

    def __init__(self, settings: LocalSettings, caller: Caller, uri: str, closing: threading.Event) -> None:
        self._settings = settings
        self._caller = caller
        self._closing = closing
        self.bucket, self.prefix = split_uri(uri)

    def listing(self) -> list[S3Object]:
        """Every object in key order, but for the markers of folders.

        Raises:
            JobFailedError: There is none, or a quota is exceeded.
        """
        try:
            found = list(self._caller.list_objects(self.bucket, self.prefix))
        except CallError as error:
            raise JobFailedError.because(f"Input could not be listed: {error.code}") from error
        found = [o for o in found if not (o.key.endswith("/") and o.size == 0)]
        if not found:
            raise JobFailedError.because("No files were found at the input location")
        if len(found) > self._settings.max_files_per_job:
            raise JobFailedError.because("FILE_COUNTS_LIMIT_EXCEEDED")
        if sum(o.size for o in found) > self._settings.max_bytes_per_job:
            raise JobFailedError.because("FILE_SIZES_LIMIT_EXCEEDED")
        if len(_folders(o.key.removeprefix(self.prefix) for o in found)) > self._settings.max_folders_per_job:
            raise JobFailedError.because("FOLDER_COUNTS_LIMIT_EXCEEDED")
        return found

    def bodies(self, objects: list[S3Object]) -> Iterator[tuple[S3Object, bytes | CallError]]:
        """Bodies in key order, a bounded number of them in memory; of large objects the beginning."""
        chunk: list[S3Object] = []
        size = 0
        for item in objects:
            if self._closing.is_set():
                return
            if chunk and (len(chunk) == CHUNK_OBJECTS or size + item.size > CHUNK_BYTES):
                yield from self._fetch(chunk)
                chunk, size = [], 0
            chunk.append(item)
            size += item.size
        yield from self._fetch(chunk)

    def read(self, key: str, *, start: int = 0, limit: int | None = None) -> bytes:
        """One object, or a range of it.

        Raises:
            CallError: S3 refuses.
        """
        return self._caller.get_object(self.bucket, key, start=start, limit=limit)

    def _fetch(self, chunk: list[S3Object]) -> Iterator[tuple[S3Object, bytes | CallError]]:
        wanted = [(o.key, PREFIX_BYTES if o.size > WHOLE_BYTES else None) for o in chunk]
        yield from zip(chunk, self._caller.get_objects(self.bucket, wanted), strict=True)


def _folders(keys: Iterator[str]) -> set[str]:
    """Folders below the prefix, those that hold only folders included."""
    found: set[str] = set()
    for key in keys:
        folder = key.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found
