"""Kept documents are read page by page, and each is indexed once."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from ahi import indexing
from ahi.index import catalog as c

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.index.store import Index

DAY, AT = "2026-11-21", dt.datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=dt.UTC)
STORES = ("s1", "s2")


def keep(index: Index, numbers: Sequence[int], *, version: int = 1, store: str = "", at: dt.datetime = AT) -> None:
    """Documents of image sets, many of one moment, of two data stores by turns; all seen and pending."""
    with index.transaction() as connection:
        for n in numbers:
            key = {"datastore_id": store or STORES[n % 2], "image_set_id": f"i{n:02}"}
            document = {"version": version, "object_key": f"k{n}", "sha256": "0", "size_bytes": 1, "is_primary": True}
            fetched = {"fetched_at": at + dt.timedelta(microseconds=n // 7), "day": DAY}
            connection.execute(c.documents.insert().values(**key, **document, **fetched))
            mine = sa.and_(*(c.sightings.c[name] == value for name, value in key.items()))
            connection.execute(c.sightings.delete().where(mine))
            seen = {"version": version, "gone": False, "seen_at": AT, "pending": True}
            connection.execute(c.sightings.insert().values(**key, **seen))


@pytest.fixture
def indexed(index: Index, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Image sets and versions in the order of their indexing, which marks them and writes nothing."""
    done: list[tuple[str, int]] = []

    def mark(_: object, chunk: Sequence[indexing.Kept], report: Any, *, replace: bool) -> None:
        done.extend((kept.image_set_id, kept.version) for kept in chunk)
        with index.transaction() as connection:
            for kept in chunk:
                mine = c.sightings.c.image_set_id == kept.image_set_id
                connection.execute(c.sightings.update().where(mine).values(pending=False))

    monkeypatch.setattr(indexing, "_index", mark)
    monkeypatch.setattr(indexing, "PAGE_DOCUMENTS", 5)
    monkeypatch.setattr(indexing, "CHUNK_DOCUMENTS", 3)
    return done


@pytest.mark.both_catalogs
@pytest.mark.parametrize("n", [4, 5, 23, 25])
def test_more_documents_than_a_page_are_all_indexed_once(index: Index, indexed: list[tuple[str, int]], n: int) -> None:
    pipeline: Any = SimpleNamespace(index=index)
    keep(index, range(n))
    keep(index, [2], version=2, at=AT + dt.timedelta(hours=1))
    expected = sorted((f"i{number:02}", 2 if number == 2 else 1) for number in range(n))
    indexing.catch_up(pipeline)
    assert sorted(indexed) == expected
    assert indexed[-1] == ("i02", 2), "the oldest first"
    indexed.clear()
    indexing.catch_up(pipeline)
    assert indexed == []
    indexing.index_again(pipeline, DAY)
    assert sorted(indexed) == expected


def test_what_comes_while_pages_are_indexed_is_left_to_the_next_time(
    index: Index, indexed: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline: Any = SimpleNamespace(index=index)
    keep(index, range(12))
    mark, more = indexing._index, iter(range(20, 99))

    def busy(*rest: Any, replace: bool) -> None:
        keep(index, [next(more)], at=AT + dt.timedelta(hours=1))
        mark(*rest, replace=replace)

    monkeypatch.setattr(indexing, "_index", busy)
    indexing.catch_up(pipeline)
    assert sorted(indexed) == [(f"i{n:02}", 1) for n in range(12)]
