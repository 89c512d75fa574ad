"""One process of the trouble tests: `python worker.py ROLE ROOT SEED`. Not a test itself.

A story is a list of deliveries about shared image sets, the same for every process; each process plays a part of it in
its own order, with repeats, as queues deliver.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import sys
import time
from pathlib import Path

from ahi.index.query import IndexNotPublishedError, query
from ahi.index.store import AlreadyCommitted, Head, Index

IMAGE_SETS = 8
VERSIONS = 4
DELETED = ("3", "5")
AT = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)

Delivery = tuple[str, int]


def open_index(root: Path) -> Index:
    url = os.environ.get("WORKER_CATALOG", f"sqlite:///{root / 'catalog.sqlite'}")
    return Index(root, url, compact_files=6, grace_seconds=60)


def story() -> list[Delivery]:
    """Every version of every image set, and deletions (version 0)."""
    told = [(str(number), version) for number in range(IMAGE_SETS) for version in range(1, VERSIONS + 1)]
    return told + [(name, 0) for name in DELETED]


def expected() -> dict[str, tuple[int, int]]:
    """Version and instance rows by image set when all is told: version v has v instances."""
    return {str(n): (VERSIONS, VERSIONS) for n in range(IMAGE_SETS) if str(n) not in DELETED}


def tell(index: Index, batch_id: str, deliveries: list[Delivery]) -> None:
    """Commit one batch, as the pipeline does: the highest version of an image set in it, and deletions."""
    highest = {name: max(v for other, v in deliveries if other == name) for name, version in deliveries if version}
    series = [row(name, version) for name, version in highest.items()]
    instances = [
        {key: value for key, value in row(name, version).items() if key != "Modality"}
        | {"SOPInstanceUID": f"{name}.{number}", "InstanceNumber": number}
        for name, version in highest.items()
        for number in range(version)
    ]
    files = [index.write("series", series, batch_id=batch_id), index.write("instances", instances, batch_id=batch_id)]
    try:
        with index.commit(batch_id=batch_id, kind="test", files=files) as commit:
            commit.raise_heads(
                [Head("s", name, version, True, "1", name, version) for name, version in highest.items()]
            )
            for name in {name for name, version in deliveries if not version}:
                commit.bury("s", name, version=None, reason="deleted", at=AT)
    except AlreadyCommitted:
        return


def row(name: str, version: int) -> dict[str, object]:
    return {
        "datastore_id": "s",
        "image_set_id": name,
        "image_set_version": version,
        "is_primary": True,
        "StudyInstanceUID": "1",
        "SeriesInstanceUID": f"1.{name}",
        "Modality": "CT",
    }


def write(root: Path, seed: int) -> None:
    """Tell the whole story in an order of one's own, with 20 % of batches twice, and say each batch when it is true."""
    index, chance = open_index(root), random.Random(seed)
    told = story()
    chance.shuffle(told)
    batches = [(f"w{seed}-{start}", told[start : start + 4]) for start in range(0, len(told), 4)]
    batches += chance.sample(batches, len(batches) // 5)
    chance.shuffle(batches)
    for batch_id, deliveries in batches:
        tell(index, batch_id, deliveries)
        print(batch_id, flush=True)  # noqa: T201 - the parent counts acknowledged commits


def keep(root: Path, seed: int) -> None:
    """Compact, publish and expire for ever."""
    index = open_index(root)
    index.grace_seconds = seed
    while True:
        index.compact()
        index.publish()
        index.expire()
        print("kept", flush=True)  # noqa: T201
        time.sleep(0.05)


def read(root: Path) -> str:
    """Look once; a sentence if what is shown cannot be."""
    sql = """
        SELECT s.image_set_id, s.image_set_version, count(*) OVER (PARTITION BY s.image_set_id), i.n, i.version
        FROM series s LEFT JOIN (
            SELECT image_set_id, count(*) AS n, max(image_set_version) AS version FROM instances GROUP BY ALL
        ) i USING (image_set_id)
    """
    try:
        rows = query(root / "index.duckdb", sql).rows
    except IndexNotPublishedError:
        return ""
    for name, version, heads, instances, instance_version in rows:
        if heads != 1 or instances != version or instance_version != version:
            return f"image set {name}: version {version}, {heads} rows, {instances} instances of {instance_version}"
    return ""


def watch(root: Path, _seed: int) -> None:
    """Look for ever; stop with a sentence at the first thing that cannot be."""
    while True:
        if wrong := read(root):
            sys.exit(wrong)
        print("looked", flush=True)  # noqa: T201
        time.sleep(0.05)  # leave the processors to the writers; nothing waits for this


if __name__ == "__main__":
    {"write": write, "keep": keep, "watch": watch}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
