"""Where the emulated service keeps pixels: one file of frames for each import, rows that say where each frame lies.

Belongs here: bytes of frames, as they are stored. Does not belong here: decoding and encoding (`codecs.py`), what
the metadata says about a frame (`frames.py`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from local_aws.healthimaging.syntaxes import LOSSLESS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

    from local_aws.healthimaging.store import Store

# One write to the file holds the frames of many small instances.
BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class Form:
    """What the bytes of a frame are.

    Attributes:
        syntax: Transfer syntax of the bytes.
        stored_syntax: Transfer syntax in which GetImageFrame hands them out.
        rows: Height in pixels.
        columns: Width in pixels.
        samples: Samples per pixel.
        bits_allocated: Bits of a sample.
        bits_stored: Bits of a sample that carry a value.
        signed: Whether samples are signed.
        planar: Planar configuration of the bytes.
        photometric: Photometric interpretation of the bytes.
        blob: Whether they are the whole value of PixelData as the object had it (with its items when it was
            encapsulated), because its frames could not be made out or not be decoded.
    """

    syntax: str
    stored_syntax: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: int
    photometric: str
    blob: bool = False


@dataclass(frozen=True, kw_only=True)
class StoredFrame(Form):
    """One frame as it lies in the store.

    Attributes:
        data: The frame's own stream (native bytes, or all its fragments joined).
        place: Where it lies; the same for the same bytes.
    """

    data: bytes
    place: str = ""

    @classmethod
    def of(cls, data: bytes, form: Form, place: str = "") -> StoredFrame:
        """The bytes of a frame, and what they are."""
        return cls(**vars(form), data=data, place=place)


@lru_cache(maxsize=1024)
def _text(form: Form) -> str:
    return json.dumps(list(vars(form).values()), separators=(",", ":"))


@lru_cache(maxsize=1024)
def _form(text: str) -> Form:
    return Form(*json.loads(text))


@dataclass(frozen=True)
class FrameRules:
    """What an import finds out about frames.

    Attributes:
        checked_bytes: Decoded bytes of an object up to which its compressed frames are decoded.
        pyramid: Whether transcoded frames have checksums of lower resolutions, too.
        encoded_sizes: Whether the size of a transcoded frame is that of its stream.
    """

    checked_bytes: int = 2**26
    pyramid: bool = False
    encoded_sizes: bool = False


class PixelStore:
    """The frames of all image sets. Safe from several threads."""

    def __init__(self, folder: Path, store: Store, rules: FrameRules | None = None) -> None:
        self._folder = folder
        self._store = store
        self._rules = rules or FrameRules()
        self._sweep()

    def _sweep(self) -> None:
        """Remove files that belong to no image set: an import that was killed leaves one."""
        known = {r["file"] for r in self._store.rows("SELECT DISTINCT file FROM pixel_files")}
        for path in self._folder.glob("*/*") if self._folder.exists() else ():
            if f"{path.parent.name}/{path.name}" not in known:
                path.unlink()

    def writer(self, datastore_id: str, job_id: str) -> PixelWriter:
        """A writer for one import; use it as a context manager, and `keep` it once its rows are committed."""
        return PixelWriter(
            self._store, self._folder, datastore_id, job_id, self.lossless_syntax(datastore_id), self._rules
        )

    def lossless_syntax(self, datastore_id: str) -> str:
        """Transfer syntax into which a data store transcodes, by its `losslessStorageFormat`."""
        rows = self._store.rows("SELECT format FROM datastores WHERE id = ?", (datastore_id,))
        return LOSSLESS[(rows[0]["format"] if rows else None) or "HTJ2K"]

    def read(self, datastore_id: str, image_set_id: str, frame_id: str) -> StoredFrame | None:
        """A frame of an image set, whichever of its versions had it; None when the set never had it."""
        rows = self._store.rows(
            "SELECT file, offset, length, form FROM frames"
            " WHERE datastore_id = ? AND image_set_id = ? AND frame_id = ?",
            (datastore_id, image_set_id, frame_id),
        )
        if not rows:
            return None
        file, offset, length, form = rows[0]
        try:
            with (self._folder / file).open("rb", buffering=0) as handle:
                data = os.pread(handle.fileno(), length, offset)
        except FileNotFoundError:  # the image set was deleted since
            return None
        return StoredFrame.of(data, _form(form), f"{file}:{offset}")

    def copy(
        self, datastore_id: str, source_id: str, destination_id: str, frame_ids: Collection[str] | None = None
    ) -> None:
        """Give frames of one image set to another as well, under the same ids. Call it inside a transaction.

        Args:
            datastore_id: The data store of both.
            source_id: The image set that has them.
            destination_id: The image set that gets them.
            frame_ids: Which; None for all.
        """
        sql = (
            "INSERT OR IGNORE INTO frames SELECT datastore_id, ?, frame_id, file, offset, length, form FROM frames"
            " WHERE datastore_id = ? AND image_set_id = ?"
        )
        key = (destination_id, datastore_id, source_id)
        if frame_ids is None:
            self._store.execute(sql, key)
        else:
            self._store.execute_many(f"{sql} AND frame_id = ?", [(*key, one) for one in frame_ids])
        self._store.execute(
            "INSERT OR IGNORE INTO pixel_files SELECT DISTINCT datastore_id, image_set_id, file FROM frames"
            " WHERE datastore_id = ? AND image_set_id = ?",
            (datastore_id, destination_id),
        )

    def drop(self, datastore_id: str, image_set_id: str) -> None:
        """Forget the frames of a deleted image set, and the files that nobody else needs."""
        key = (datastore_id, image_set_id)
        with self._store.transaction():
            where = "WHERE datastore_id = ? AND image_set_id = ?"
            files = {r["file"] for r in self._store.rows(f"SELECT file FROM pixel_files {where}", key)}  # noqa: S608
            self._store.execute(f"DELETE FROM frames {where}", key)  # noqa: S608
            self._store.execute(f"DELETE FROM pixel_files {where}", key)  # noqa: S608
            kept = {f for f in files if self._store.rows("SELECT 1 FROM pixel_files WHERE file = ? LIMIT 1", (f,))}
        for file in files - kept:
            (self._folder / file).unlink(missing_ok=True)


class PixelWriter:
    """The pixels of one import: bytes go to its file at once, rows into the database with the import's own.

    Attributes:
        lossless: Transfer syntax into which the data store transcodes.
        rules: What an import finds out about frames.
    """

    def __init__(
        self, store: Store, folder: Path, datastore_id: str, job_id: str, lossless: str, rules: FrameRules
    ) -> None:
        self.lossless = lossless
        self.rules = rules
        self._store = store
        self._datastore_id = datastore_id
        self._file = f"{datastore_id}/{job_id}"
        self._path = folder / self._file
        self._handle: BinaryIO | None = None
        self._position = 0
        self._frames: dict[str, tuple[int, int, Form]] = {}
        self._assigned = False
        self._kept = False

    def __enter__(self) -> PixelWriter:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; without `keep`, as if nothing had been written."""
        if self._handle:
            self._handle.close()
            if not self._kept:
                self._path.unlink(missing_ok=True)

    @property
    def position(self) -> int:
        """Where the next byte goes."""
        return self._position

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; returns where they begin."""
        if self._handle is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._path.open("wb", buffering=BUFFER_BYTES)
        begin = self._position
        self._position += self._handle.write(data)
        return begin

    def rewind(self, position: int) -> None:
        """Forget the bytes from `position` on."""
        if self._handle and position < self._position:
            self._handle.seek(position)
            self._handle.truncate()
            self._position = position

    def frame(self, frame_id: str, offset: int, length: int, form: Form) -> None:
        """Say that a frame lies there."""
        self._frames[frame_id] = (offset, length, form)

    def assign(self, image_set_id: str, frame_ids: Iterable[str]) -> None:
        """Add the rows of instances that go into an image set. Call it inside the import's transaction.

        Args:
            image_set_id: The image set.
            frame_ids: The frames of its new instances.
        """
        if self._handle:
            self._handle.flush()
        rows = []
        for frame_id in frame_ids:
            offset, length, form = self._frames[frame_id]
            key = (self._datastore_id, image_set_id, frame_id)
            rows.append((*key, self._file, offset, length, _text(form)))
        if rows:
            self._store.execute_many("INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._store.execute(
                "INSERT OR REPLACE INTO pixel_files VALUES (?, ?, ?)", (self._datastore_id, image_set_id, self._file)
            )
            self._assigned = True

    def keep(self) -> None:
        """The transaction with the rows is committed: the file stays."""
        self._kept = self._assigned
