"""The proof reads whatever killed processes leave, and dies on none of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import duckdb
import pytest

from ahi import proof
from ahi.index.columns import Tier
from ahi.index.copies import refresh_copies
from ahi.index.tiers.build import build_tier, tier_root
from ahi.index.tiers.transform import Keys
from ahi.proof import prove

if TYPE_CHECKING:
    from pathlib import Path

    from ahi.index.store import Index

UID, KEY = "1.2.840.99.7", b"key of the tests"


@pytest.fixture
def full(index: Index, put) -> Index:
    put("one", {"a": 1}, StudyInstanceUID="1.9")
    index.publish()
    return index


def left(index: Index, uid: str = UID) -> dict[str, str]:
    """Note of each place that holds a UID."""
    return {place.name: place.note for place in prove(index, uid, secret=KEY) if place.n and place.counts}


def orphan(index: Index, rows: int = 1) -> Path:
    """A file of no commit that holds the UID."""
    some = [{"image_set_id": f"i{n}", "StudyInstanceUID": UID, "SeriesInstanceUID": f"1.{n}"} for n in range(rows)]
    file = index.write("series", some, batch_id="never")
    assert file
    return index.root / file.path


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, "last byte", "no pages", "zeros"])
def test_a_torn_file_is_searched_as_bytes(full: Index, kept: float | str) -> None:
    path = orphan(full, rows=3)
    assert left(full) == {path.relative_to(full.root).as_posix(): ""}
    whole = path.read_bytes()
    torn = {
        "last byte": whole[:-1],
        "no pages": whole[:4] + b"\0" * (len(whole) // 2) + whole[4 + len(whole) // 2 :],
        "zeros": b"\0" * len(whole),
    }
    path.write_bytes(torn[kept] if isinstance(kept, str) else whole[: int(len(whole) * kept)])
    (name,) = [place for place in prove(full, UID, secret=KEY) if place.name == path.relative_to(full.root).as_posix()]
    assert (name.note, name.counts) == (proof.UNREADABLE, True)
    path.write_bytes(path.read_bytes() + UID.encode())
    assert left(full) == {name.name: proof.UNREADABLE}


def test_an_error_that_says_nothing_of_the_file_is_none_of_the_file(full: Index, monkeypatch) -> None:
    orphan(full)

    def count(*_: object) -> int:
        raise duckdb.OutOfMemoryException

    monkeypatch.setattr(proof, "_count", count)
    with pytest.raises(duckdb.OutOfMemoryException):
        prove(full, UID, secret=KEY)


def test_files_that_upkeep_removes_meanwhile_are_passed_over(full: Index, monkeypatch) -> None:
    paths = [orphan(full), full.root / ".index-1.duckdb", full.root / ".export-1" / "index.duckdb"]
    paths[2].parent.mkdir()
    stored = proof._stored

    def removed_since(root: Path) -> list[Path]:
        for path in paths[1:]:
            path.write_text(UID)
        found = stored(root)
        for path in paths:
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(proof, "_stored", removed_since)
    assert left(full) == {}


def test_what_killed_publishers_and_queries_leave_is_searched(full: Index, monkeypatch) -> None:
    with duckdb.connect(str(full.root / ".index-0f.duckdb")) as connection:
        # Texts stand one behind the other in it, so that no pattern of a whole UID would be found.
        connection.execute("SET force_compression = 'uncompressed'")
        connection.execute(f"CREATE TABLE t AS SELECT '{UID}' AS a UNION ALL SELECT '1.2.840.99.{'8' * 20}'")
    monkeypatch.setattr(proof, "BLOCK_BYTES", 7)
    (full.root / ".spill").mkdir()
    (full.root / ".spill" / "duckdb_temp_1_0_storage_DEFAULT-0.tmp").write_bytes(b"\0" * 3 + UID.encode() + b"\0" * 9)
    (full.root / "data" / "_schemas").mkdir(exist_ok=True)
    (full.root / "data" / "_schemas" / "series.parquet.0f").write_text(UID)
    assert left(full) == dict.fromkeys(
        [".index-0f.duckdb", ".spill/duckdb_temp_1_0_storage_DEFAULT-0.tmp", "data/_schemas/series.parquet.0f"],
        proof.LEFT_OVER,
    )
    assert left(full, "1.2.840.99.6") == {}


def test_a_copy_that_was_left_is_searched_and_may_be_torn(full: Index) -> None:
    folder = full.root / ".export-0f"
    folder.mkdir()
    (folder / "index.duckdb").write_bytes(b"torn " + UID.encode())
    os.link(orphan(full), folder / "series.parquet")
    assert left(full)[".export-0f/index.duckdb"] == proof.UNREADABLE
    assert ".export-0f/series.parquet" in left(full)


def test_left_overs_of_a_tier_are_searched_for_what_stands_for_the_uid(full: Index) -> None:
    build_tier(full, Tier.DEIDENTIFIED, KEY)
    root = tier_root(full.root, Tier.DEIDENTIFIED)
    (root / ".index-0f").write_text(Keys(KEY, Tier.DEIDENTIFIED).name(UID))
    assert left(full) == {(root / ".index-0f").relative_to(full.root).as_posix(): proof.LEFT_OVER}


def test_the_catalog_and_sidecars_are_not_searched_as_bytes(full: Index) -> None:
    """The first keeps ids on purpose and is asked row by row; the others hold digests, never a UID."""
    names = {place.name for place in prove(full, "a", secret=KEY) if place.kind == "file"}
    assert not [name for name in names if name.startswith("catalog.sqlite") or name.endswith(".sha256")]
    assert "index.duckdb" in names


def test_copies_are_searched_as_the_index_is(full: Index, put, tmp_path: Path) -> None:
    put("two", {"b": 1}, StudyInstanceUID=UID)
    full.publish()
    build_tier(full, Tier.DEIDENTIFIED, KEY)
    out = tmp_path / "heads"
    out.mkdir()
    made = refresh_copies(full.root, (Tier.IDENTIFIED, Tier.DEIDENTIFIED), str(out))
    found = {place.name: place for place in prove(full, UID, secret=KEY, copies=[out]) if place.n}
    assert {f"{copy.place}/{name}" for copy in made for name in ("index.duckdb", "series.parquet")} < found.keys()
    assert not any(str(out) in name for name in left(full))
    torn = out / "identified" / ".export-0f" / "series.parquet"
    torn.parent.mkdir()
    torn.write_bytes(b"PAR1 torn")
    (place,) = [place for place in prove(full, UID, secret=KEY, copies=[out]) if place.name == str(torn)]
    assert (place.n, place.unreadable) == (0, True)


def test_an_index_that_cannot_be_read_is_a_place(full: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> set[str]:
        return {place.name for place in prove(full, UID, secret=KEY) if place.unreadable}

    assert unreadable() == set()
    with monkeypatch.context() as refused:

        def hold(path: Path, _: object) -> bool:
            raise PermissionError(13, "Permission denied", str(path))

        refused.setattr(proof, "_bytes_hold", hold)
        (full.root / ".left").write_text("x")
        assert ".left" in unreadable()
    with monkeypatch.context() as torn:
        count = proof._count

        def counted(connection: duckdb.DuckDBPyConnection, rows: str, words: list[tuple[str, str]]) -> int:
            if "series_history" in rows:
                raise duckdb.IOException("a file of it is gone")
            return count(connection, rows, words)

        torn.setattr(proof, "_count", counted)
        assert "series_history" in unreadable()
    full.path.write_bytes(full.path.read_bytes()[:5000])
    assert unreadable() == {"index.duckdb"}
