from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pytest

from ahi.index.columns import Tier
from ahi.index.query import IndexNotPublishedError, IndexQueryError, query
from ahi.index.registry import TABLES
from ahi.index.tiers.views import write_empty

if TYPE_CHECKING:
    from pathlib import Path

    from ahi.index.store import Index


def test_an_answer_has_names_types_and_rows(index: Index, put) -> None:
    put("one", {"a": 1, "b": 2})
    index.publish()
    answer = index.query("SELECT image_set_id, n_instances FROM series WHERE n_instances > ? ORDER BY 1", [0])
    assert (answer.columns, answer.types) == (("image_set_id", "n_instances"), ("VARCHAR", "INTEGER"))
    assert answer.dicts() == [{"image_set_id": "a", "n_instances": 1}, {"image_set_id": "b", "n_instances": 2}]


@pytest.mark.parametrize(
    "names",
    [("x", "x"), ("x", "X", "x"), ("x", "x", "x_1"), ("x_1", "x", "x", "x"), ("x", "x", "x_1", "x"), ("x", "y")],
)
def test_columns_of_one_name_are_told_apart_as_duckdb_does(index: Index, names: tuple[str, ...]) -> None:
    index.publish()
    sql = f"SELECT {', '.join(f'{number} AS {name}' for number, name in enumerate(names))}"
    assert index.query(sql).dicts() == [dict(zip(index.query(f"FROM ({sql})").columns, range(len(names)), strict=True))]


@pytest.mark.parametrize(
    "sql", ["DESCRIBE series", "SHOW TABLES", "SUMMARIZE series", "EXPLAIN FROM series", "FROM closure"]
)
def test_every_way_to_look_is_open(index: Index, sql: str) -> None:
    index.publish()
    assert index.query(sql).rows


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELEC 1", "syntax error"),
        ("", "One statement"),
        ("SELECT 1; SELECT 2", "One statement"),
        ("FROM nothing", "The index has: archive_looks, archive_set_aside, archive_shards, "),
        ("SELECT Modalty FROM series", "Modality"),
        ("DROP VIEW series", "read-only"),
        ("CREATE TABLE t AS SELECT 1", "read-only"),
        ("COPY series TO '/tmp/out.csv'", "read-only"),
        ("SET threads = 1", "read-only"),
        ("ATTACH '/tmp/other.duckdb'", "read-only"),
        ("SELECT * FROM read_text('/etc/hostname')", "Permission"),
        ("SELECT 'x'::INTEGER", "cannot be run"),
    ],
)
def test_a_query_that_cannot_be_answered_gets_a_sentence(index: Index, sql: str, said: str) -> None:
    index.publish()
    with pytest.raises(IndexQueryError, match=said) as caught:
        index.query(sql)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "said", "unsaid"),
    [
        ("FROM conflict", 'Did you mean "conflicts"', "pg_"),
        ("FROM zzqq", "ahi schema", "pg_"),
        ("FROM zzqq", "ahi schema", "most also"),
        ("FROM serie_as_of(now())", 'Did you mean "series_as_of"', "json"),
        ("SELECT lenght('x')", 'Did you mean "length"', "The index has"),
    ],
)
def test_only_tables_of_the_index_are_offered(index: Index, sql: str, said: str, unsaid: str) -> None:
    index.publish()
    with pytest.raises(IndexQueryError, match=said) as caught:
        index.query(sql)
    assert unsaid not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("FROM conflicts", "^conflicts is in the identified tier only"),
        ("FROM series_as_of(now())", "^series_as_of is in the identified tier only"),
        ("SELECT PatientName FROM patients", "PatientName is in the identified tier only"),
        ("SELECT p.patientname FROM patients p", "patientname is in the identified tier only"),
        ("FROM nothing", "`ahi schema --tier limited` lists all"),
    ],
)
def test_what_only_a_higher_tier_has_is_named(tmp_path: Path, sql: str, said: str) -> None:
    with duckdb.connect(str(tmp_path / "index.duckdb")) as connection:
        write_empty(connection, TABLES, Tier.LIMITED)
    with pytest.raises(IndexQueryError, match=said):
        query(tmp_path / "index.duckdb", sql, tier=Tier.LIMITED)


def test_an_index_that_was_never_published(index: Index) -> None:
    with pytest.raises(IndexNotPublishedError, match="make up"):
        index.query("FROM series")
