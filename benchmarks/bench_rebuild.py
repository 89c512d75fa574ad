"""An index made again from kept documents: `python benchmarks/bench_rebuild.py [--documents N] [--s3 N] [--only-s3]`.

Documents of 100 instances each, of one day, are given to `ahi.indexing.index_again` beside a ledger of all their
objects, and the index is published and compacted. They come from files, by which the work of the pipeline alone is
measured; `--s3` of them once more from the S3 of the embedded stack, which is one Python process on the same machine.
Memory is the peak of this process, libraries included.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bench_documents import SLICE, document, taken_apart
from bench_emulator import Server
from filling import DAY, PER_SET, STORE, fill_catalog

from ahi import indexing
from ahi.aws import Aws
from ahi.clock import now
from ahi.index import catalog
from ahi.index.store import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARK = 777_000_777


class Folder:
    """Documents in files, as the S3 client would give them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803, ARG002 - the SDK's names
        """One document, which is read when the pipeline reads it."""
        return {"Body": SimpleNamespace(read=(self.root / Key).read_bytes)}


def documents(count: int) -> Iterator[tuple[str, bytes]]:
    """Kept documents by name: one image set's, under the ids of others."""
    text = document(taken_apart(SLICE, private=False), MARK, PER_SET).replace(f"{MARK:032x}".encode(), b"@SET@")
    for number in range(count):
        mine = text.replace(str(MARK).encode(), str(100_000_000 + number).encode()).replace(b"@SET@", b"%032d" % number)
        yield f"{number}.json.gz", gzip.compress(mine, 1)


def index_of(root: Path, sizes: list[int]) -> Index:
    """An index whose catalog knows the documents, and the objects that they are of."""
    index = Index(root, f"sqlite:///{root / 'catalog.sqlite'}", grace_seconds=0, compact_files=2)
    with index.commit(kind="fill", batch_id="fill") as commit:
        seq = commit.seq
    fill_catalog(index, len(sizes), seq)
    with index.transaction() as connection:
        row = {"datastore_id": STORE, "version": 1, "sha256": "", "is_primary": True, "fetched_at": now(), "day": DAY}
        rows = [
            row | {"image_set_id": f"{n:032d}", "object_key": f"{n}.json.gz", "size_bytes": size, "seq": seq}
            for n, size in enumerate(sizes)
        ]
        connection.execute(catalog.documents.insert(), rows)
    return index


def measured(label: str, what: Callable[[], object]) -> None:
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    what()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"{label:50} {wall:9.1f} {cpu:9.1f} {int(peak.split()[1]) / 1024:9.0f}", flush=True)


def rebuild(root: Path, s3: Any, bucket: str, sizes: list[int], label: str) -> None:
    settings = SimpleNamespace(datastore_id=STORE, lake_bucket=bucket, document_threads=8, patient_key_secret="bench")
    index = index_of(root, sizes)
    pipeline: Any = SimpleNamespace(index=index, aws=SimpleNamespace(s3=s3), settings=settings, run_id="bench")
    n_instances = len(sizes) * PER_SET
    measured(f"{n_instances:,} instances, {label}", lambda: indexing.index_again(pipeline, DAY))
    measured("publication", index.publish)
    measured("compaction", index.compact)
    index.publish()
    rows = index.query("SELECT (SELECT count(*) FROM instances), (SELECT count(*) FROM series)").rows
    assert rows == [(n_instances, len(sizes))], rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000)
    parser.add_argument("--s3", type=int, default=200, help="documents that are read from S3 as well")
    parser.add_argument("--only-s3", action="store_true", help="leave out the round from files")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ahi-bench-"))
    try:
        kept = folder / "documents"
        kept.mkdir()
        sizes = []
        for name, content in documents(wanted.documents):
            sizes.append((kept / name).write_bytes(content))
        print(f"{len(sizes)} documents of {sum(sizes) / len(sizes) / 1024:.0f} KiB, gzip")
        print(f"{'':50} {'wall s':>9} {'CPU s':>9} {'MiB':>9}")
        if not wanted.only_s3:
            rebuild(folder / "files", Folder(kept), "", sizes, "documents from files")
        if wanted.s3:
            (folder / "aws").mkdir()
            server = Server(folder / "aws")
            server.put("", ((name, (kept / name).read_bytes()) for name in (f"{n}.json.gz" for n in range(wanted.s3))))
            os.environ |= {name: value for name, value in server.env.items() if name.startswith("AWS_")}
            before = server.cpu()
            rebuild(folder / "s3", Aws().s3, server.env["AHI_STAGING_BUCKET"], sizes[: wanted.s3], "documents from S3")
            print(f"CPU of the embedded stack: {server.cpu() - before:.1f} s")
            server.stop()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
