"""What a shard imports is read back as it was planned, from one row group of its manifest."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from ahi.archive import shards
from ahi.archive.shards import ArchiveObject, read_shard, write_manifest
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog_archives as c
from ahi.index.catalog_archives import ShardState
from tests.conftest import AwsStack

DAY = dt.datetime(2019, 3, 4, 5, 6, 7, tzinfo=dt.UTC)


def some_objects(first: int, last: int) -> list[ArchiveObject]:
    return [
        ArchiveObject("old-pacs", f"Müller/{n:05d} ü+%.dcm", f"v{n}" if n % 2 else None, f"{n:032x}", n * 1_000, DAY)
        for n in range(first, last)
    ]


@pytest.mark.parametrize("footer_bytes", [128, shards.FOOTER_BYTES])
def test_a_shard_reads_back_its_own_row_group(site, aws_stack: AwsStack, monkeypatch, footer_bytes: int) -> None:
    monkeypatch.setattr(shards, "FOOTER_BYTES", footer_bytes)
    parts = [some_objects(0, 3), some_objects(3, 2_503), some_objects(2_503, 2_504)]
    write_manifest(site.pipeline, "archives/a/plans/p.parquet", parts)
    with site.pipeline.index.transaction() as connection:
        for number, objects in enumerate(parts, 1):
            row: dict[str, Any] = {"shard_key": f"a-{number:05d}", "archive_id": "a", "number": number, "generation": 1}
            row |= {"state": ShardState.PLANNED, "n_objects": len(objects), "n_bytes": 1, "planned_at": now()}
            row |= {"manifest_key": "archives/a/plans/p.parquet", "row_group": number - 1}
            connection.execute(c.archive_shards.insert().values(row))
    for number, objects in enumerate(parts, 1):
        assert list(read_shard(site.pipeline, f"a-{number:05d}")) == objects


def test_an_unknown_shard_is_a_sentence(site) -> None:
    with pytest.raises(PermanentError, match="ahi archive list"):
        list(read_shard(site.pipeline, "a-00009"))
