"""A look at an archive finds every key once, by listing and by S3 Inventory, again after a kill, and what changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest

from ahi.archive import archives, inventory, listing, parts
from ahi.archive.listing import KeyRange
from ahi.errors import PermanentError
from tests.ahi.archive.conftest import Holding

KEYS = [
    *(f"pacs/2019/p{n}/s{m}/{i}.dcm" for n in range(3) for m in range(2) for i in range(3)),
    *("pacs/2019", "pacs/2019!x", "pacs/2020/Müller, Jörg/a b+c%20.dcm", "pacs/loose.dcm", "pacs/zz/ü/1"),
]


def keys_of(pipeline, archive, tmp_path, found=None) -> list[str]:
    of = found or inventory.newest(pipeline, archive)
    paths = parts.fetch(pipeline, inventory.part_keys(pipeline, of), tmp_path / str(of.generation))
    return [key for path in paths for key in pq.read_table(path)["key"].to_pylist()]


@pytest.fixture
def filled(holding: Holding, monkeypatch: pytest.MonkeyPatch) -> Holding:
    monkeypatch.setattr(listing, "SMALL_PAGES", 0)
    holding.put({key: key.encode() for key in KEYS} | {"other/1.dcm": b"not in it"})
    return holding


@pytest.mark.parametrize("threads", [1, 4])
def test_a_listing_finds_every_key_once_and_in_order(site, filled: Holding, tmp_path, monkeypatch, threads) -> None:
    monkeypatch.setenv("AHI_ARCHIVE_LIST_THREADS", str(threads))
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs")
    ranges = listing.cut(site.pipeline, archive)
    assert len(ranges) > 3
    assert ranges[0].after == ranges[-1].last == ""
    assert [one.last for one in ranges[:-1]] == [one.after for one in ranges[1:]]
    seen: list[int] = []
    found = inventory.look(site.pipeline, archive, progress=seen.append)
    assert keys_of(site.pipeline, archive, tmp_path) == sorted(KEYS)
    assert (found.n_objects, found.n_bytes) == (len(KEYS), sum(len(key.encode()) for key in KEYS))
    assert sum(seen) == len(KEYS)
    assert (found.generation, found.n_added, found.n_changed, found.n_vanished) == (1, len(KEYS), 0, 0)


def test_keys_in_one_folder_are_cut_too(site, holding: Holding, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(listing, "SMALL_PAGES", 0)
    keys = [f"pacs/1.2.840.113619.{n}" for n in [*range(30), "1.9", "1/x"]]
    holding.put(dict.fromkeys(keys, b"x"))
    archive = archives.add(site.pipeline, f"s3://{holding.bucket}/pacs")
    assert len(listing.cut(site.pipeline, archive)) > 20
    inventory.look(site.pipeline, archive)
    assert keys_of(site.pipeline, archive, tmp_path) == sorted(keys)


def test_a_small_archive_is_listed_in_one_go(site, filled: Holding, monkeypatch) -> None:
    monkeypatch.setattr(listing, "SMALL_PAGES", 2)
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs")
    assert listing.cut(site.pipeline, archive) == [KeyRange("", "")]
    assert inventory.look(site.pipeline, archive).n_objects == len(KEYS)


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_an_inventory_report_gives_what_a_listing_gives(site, filled: Holding, tmp_path, kind: str) -> None:
    listed = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs", name="listed")
    inventory.look(site.pipeline, listed)
    row = filled.s3.list_objects_v2(Bucket=filled.bucket, Prefix="pacs/loose.dcm")["Contents"][0]
    old = (filled.bucket, "pacs/loose.dcm", "v0", False, False, 9, row["LastModified"], "0" * 32, "GLACIER")
    marker = (filled.bucket, "pacs/deleted.dcm", "v2", True, True, None, row["LastModified"], None, "STANDARD")
    manifest = filled.report(kind, extra=[old, marker])
    reported = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs", name="reported", report_uri=manifest)
    found = inventory.look(site.pipeline, reported)
    assert (found.n_objects, found.as_of.year) == (len(KEYS), 2025)
    columns = ["key", "etag", "size_bytes", "storage_class"]

    def table(archive):
        of = inventory.newest(site.pipeline, archive)
        paths = parts.fetch(site.pipeline, inventory.part_keys(site.pipeline, of), tmp_path / archive.archive_id)
        rows = [row for path in paths for row in pq.read_table(path, columns=columns).to_pylist()]
        return sorted(rows, key=lambda row: row["key"])

    assert table(reported) == table(listed)


def test_a_folder_of_reports_gives_its_newest_whole_one(site, filled: Holding) -> None:
    filled.report("CSV", day="2026-11-19T01-00Z")
    newest = filled.report("CSV", day="2026-11-20T01-00Z")
    filled.put({newest.partition("daily/")[0].partition(f"{filled.bucket}/")[2] + "daily/2026-11-21T01-00Z/x": b""})
    folder = newest.rpartition("daily/")[0] + "daily"
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs", report_uri=folder)
    report = inventory.s3_inventory.newest_report(site.pipeline, archive)
    assert report.key.endswith("2026-11-20T01-00Z/manifest.json")


def test_a_report_that_is_not_whole_is_refused(site, filled: Holding) -> None:
    manifest = filled.report("Parquet", files=1)
    key = manifest.partition(f"{filled.bucket}/")[2]
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs", report_uri=manifest)
    file = inventory.s3_inventory.newest_report(site.pipeline, archive).files[0]
    filled.put({file.key: b"half"})
    with pytest.raises(PermanentError, match="is not what its manifest says"):
        inventory.look(site.pipeline, archive)
    filled.put({key: b"{}"})
    with pytest.raises(PermanentError, match=r"manifest\.checksum says"):
        inventory.s3_inventory.newest_report(site.pipeline, archive)


def test_a_look_that_broke_off_goes_on_where_it_was(site, filled: Holding, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AHI_ARCHIVE_LIST_THREADS", "2")
    monkeypatch.setenv("AHI_ARCHIVE_PART_KEYS", "1")
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs")
    put_part, written = parts.put_part, 0

    def dies(*arguments):
        nonlocal written
        written += 1
        if written > 4:
            raise KeyboardInterrupt
        return put_part(*arguments)

    monkeypatch.setattr(parts, "put_part", dies)
    with pytest.raises(KeyboardInterrupt):
        inventory.look(site.pipeline, archive)
    assert inventory.newest(site.pipeline, archive) is None
    monkeypatch.setattr(parts, "put_part", put_part)
    asked: list[KeyRange] = []
    pages = listing.pages
    monkeypatch.setattr(listing, "pages", lambda p, a, keys: (asked.append(keys), pages(p, a, keys))[1])
    found = inventory.look(site.pipeline, archive)
    assert found.generation == 1
    assert keys_of(site.pipeline, archive, tmp_path) == sorted(KEYS)
    assert len(asked) < len(listing.cut(site.pipeline, archive))


def test_two_who_look_at_once_waste_work_and_nothing_else(site, filled: Holding, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AHI_ARCHIVE_PART_KEYS", "2")
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs")
    assert site.pipeline.settings.archive_part_keys == 2
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: inventory.look(site.pipeline, archive), range(2)))
    for one in {look.generation: look for look in found}.values():
        assert keys_of(site.pipeline, archive, tmp_path, one) == sorted(KEYS)


def test_a_second_look_names_what_changed_and_what_vanished(site, filled: Holding, tmp_path) -> None:
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs")
    inventory.look(site.pipeline, archive)
    filled.put({"pacs/loose.dcm": b"corrected", "pacs/2021/new.dcm": b"1"})
    filled.delete("pacs/2019", "pacs/zz/ü/1")
    found = inventory.look(site.pipeline, archive)
    assert (found.generation, found.n_added, found.n_changed, found.n_vanished) == (2, 1, 1, 2)
    assert archives.find(site.pipeline, archive.uri).generation == 2
    [key] = [k for k in parts.lake_keys(site.pipeline, f"{archive.folder}inventory/00002/", "") if "differ" in k]
    [path] = parts.fetch(site.pipeline, [key], tmp_path / "d")
    assert {(r["key"], r["difference"]) for r in pq.read_table(path).to_pylist()} == {
        ("pacs/loose.dcm", "changed"),
        ("pacs/2021/new.dcm", "added"),
        ("pacs/2019", "vanished"),
        ("pacs/zz/ü/1", "vanished"),
    }


def test_the_parts_of_the_last_two_looks_are_kept_and_all_differences(site, filled: Holding, tmp_path) -> None:
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs")
    for _ in range(4):
        inventory.look(site.pipeline, archive)
    keys = parts.lake_keys(site.pipeline, f"{archive.folder}inventory/", "")
    kinds = {generation: {key.split("/")[4].partition("-")[0] for key in keys if f"/0000{generation}/" in key}
             for generation in range(1, 5)}  # fmt: skip
    assert kinds[1] == kinds[2] == {"differences"}
    assert {"units", "parts", "differences", "000000"} <= kinds[3]
    assert keys_of(site.pipeline, archive, tmp_path) == sorted(KEYS)


def test_a_report_is_read_once(site, filled: Holding) -> None:
    archive = archives.add(site.pipeline, f"s3://{filled.bucket}/pacs", report_uri=filled.report("CSV"))
    assert inventory.look(site.pipeline, archive) == inventory.look(site.pipeline, archive)


@pytest.mark.parametrize("uri", ["http://x/y", "s3://", "old-pacs/2019"])
def test_what_is_no_archive_is_said_so(site, uri: str) -> None:
    with pytest.raises(PermanentError, match="s3://bucket"):
        archives.add(site.pipeline, uri)


def test_the_pipelines_own_buckets_are_no_archives(site) -> None:
    with pytest.raises(PermanentError, match="bucket of the pipeline"):
        archives.add(site.pipeline, f"s3://{site.settings.lake_bucket}/inbox")
