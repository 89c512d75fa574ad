from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from ahi.index.registry import SCHEMA_VERSION
from ahi.index.sidecar import SUFFIX, sidecar_of

if TYPE_CHECKING:
    from pathlib import Path

    from ahi.index.store import Index


def every(index: Index, ending: str = "") -> list[Path]:
    return sorted(index.root.glob(f"data/*/*/*.parquet{ending}"))


def checked(index: Index) -> None:
    """What `sha256sum -c` says of every sidecar, from the folder that the file stands in."""
    files = every(index)
    assert files
    assert [sidecar_of(path) for path in files] == every(index, SUFFIX)
    for path in files:
        subprocess.run(["sha256sum", "-c", "--strict", "--quiet", sidecar_of(path).name], cwd=path.parent, check=True)


def test_each_file_has_its_digest_from_the_commit_to_the_expiry(index: Index, put, land) -> None:
    index.compact_files = 4
    for number in range(4):
        put(f"b{number}", {"a": number + 1, f"x{number}": 1})
        land(f"object{number}")
        checked(index)
    index.publish()
    index.compact()
    checked(index)
    index.publish()
    assert index.expire().retired == 8
    checked(index)


def test_what_a_loss_of_power_cut_short_is_mended(index: Index, put) -> None:
    put("one", {"a": 1, "b": 2})
    first, second = every(index)
    sidecar_of(first).write_bytes(b"")
    sidecar_of(second).unlink()
    stray = first.with_name("0.parquet.sha256")
    stray.write_text("of a file that is gone")
    index.expire()
    checked(index)
    assert not stray.exists()


def test_a_file_says_what_wrote_it(index: Index, series_row, put) -> None:
    file = index.write("series", [series_row("a", dagster_run_id="run-7")], batch_id="batch")
    assert file is not None
    assert pq.read_schema(index.root / file.path).metadata == {
        b"table": b"series",
        b"schema_version": SCHEMA_VERSION.encode(),
        b"batch_id": b"batch",
        b"run_id": b"run-7",
    }
    index.compact_files = 2
    put("one", {"a": 1})
    put("two", {"b": 1})
    index.compact()
    merged = [pq.read_schema(path).metadata for path in every(index) if path.parts[-3] == "series"]
    assert sum(b"batch_id" not in found and found[b"table"] == b"series" for found in merged) == 1
