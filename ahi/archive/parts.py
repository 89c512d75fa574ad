"""Parts: the keys of an archive as Parquet files in the lake bucket.

Belongs here: their columns, writing one, fetching some to local disk. Does not belong here: where keys come from
(`listing`, `s3_inventory`) and what is made of them (`inventory`, `plan`).
"""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from ahi.pipeline import Pipeline

NOTE = b"ahi"
"""Name of our own entry in a part's Parquet metadata."""

LOCK = ".lock"
"""File of a local folder that its process holds a lock on."""

GATE = "scratch.lock"
"""File beside all of them, locked while one of them is made."""


def schema() -> pa.Schema:
    """Columns of every part: what a listing and an S3 Inventory both know of an object."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {
        "key": pa.string(),
        "version_id": pa.string(),
        "etag": pa.string(),
        "size_bytes": pa.int64(),
        "last_modified": pa.timestamp("us", tz="UTC"),
        "storage_class": pa.string(),
    }
    return pa.schema(types)


def put_part(pipeline: Pipeline, folder: str, number: int, rows: pa.Table, note: dict[str, object]) -> str:
    """Write rows as a part of its own name, so that two who do the same work never overwrite each other."""
    import pyarrow.parquet as pq

    body = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({NOTE: json.dumps(note).encode()}), body, compression="zstd")
    key = f"{folder}{number:06d}-{uuid.uuid4().hex}.parquet"
    pipeline.aws.s3.put_object(Bucket=pipeline.settings.lake_bucket, Key=key, Body=body.getvalue())
    return key


def put_json(pipeline: Pipeline, key: str, value: object) -> None:
    """Write a small JSON object into the lake."""
    body = json.dumps(value, ensure_ascii=False).encode()
    pipeline.aws.s3.put_object(Bucket=pipeline.settings.lake_bucket, Key=key, Body=body)


def get_json(pipeline: Pipeline, key: str) -> object:
    """Read one back."""
    return json.loads(pipeline.aws.s3.get_object(Bucket=pipeline.settings.lake_bucket, Key=key)["Body"].read())


def lake_keys(pipeline: Pipeline, folder: str, ending: str) -> list[str]:
    """Keys below a folder of the lake."""
    pages = pipeline.aws.s3.get_paginator("list_objects_v2").paginate(
        Bucket=pipeline.settings.lake_bucket, Prefix=folder
    )
    return [entry["Key"] for page in pages for entry in page.get("Contents", []) if entry["Key"].endswith(ending)]


def fetch(pipeline: Pipeline, keys: Sequence[str], folder: Path) -> list[Path]:
    """Bring objects of the lake to a local folder, side by side and streamed, in the order of `keys`."""
    folder.mkdir(parents=True, exist_ok=True)

    def one(numbered: tuple[int, str]) -> Path:
        number, key = numbered
        path = folder / f"{number:06d}.parquet"
        answer = pipeline.aws.s3.get_object(Bucket=pipeline.settings.lake_bucket, Key=key)
        with path.open("wb") as out:
            shutil.copyfileobj(answer["Body"], out, 2**20)
        return path

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, enumerate(keys)))


@contextmanager
def scratch(pipeline: Pipeline) -> Iterator[Path]:
    """A local folder that is gone afterwards. What killed processes left is removed: nobody holds its lock any more."""
    root = pipeline.settings.home.resolve() / "scratch"
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # One at a time: a folder between its making and its lock looks like one that a killed process left.
        with root.with_name(GATE).open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            for left in root.iterdir():
                with suppress(OSError), (left / LOCK).open("r") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="archive-", dir=root))
            mine = stack.enter_context((Path(folder) / LOCK).open("a"))
            fcntl.flock(mine, fcntl.LOCK_EX)
        yield Path(folder)
