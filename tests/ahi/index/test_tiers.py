"""The tiers hold what their rules say and nothing else, and follow the index."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow.parquet as pq
import pytest

from ahi.documents import flatten, patient_key_function
from ahi.index import ordering
from ahi.index.columns import Tier
from ahi.index.dictionary import dictionary
from ahi.index.query import query
from ahi.index.registry import COLUMNS, TABLES
from ahi.index.tiers import build
from ahi.index.tiers.build import build_tier, tier_files, tier_root
from ahi.index.tiers.rules import LOWER, ROW_VERSION, Dates, Policy, crosses, rule_for
from tests.ahi.index.tiers_canary import DATES, MARK, UID, canary_document, canary_row, traces

if TYPE_CHECKING:
    from ahi.index.store import Head, Index

DOCUMENT = Path(__file__).resolve().parents[2] / "data" / "healthimaging" / "usdoppler.json"
SECRET = b"of the tests"
HASHED = ("patient_key", "DeviceSerialNumber", "StationName", "PerformedProcedureStepID")
CODE = {"code": "121322", "scheme": "DCM"}
SETS = {name: table for name, table in TABLES.items() if crosses(table, Tier.DEIDENTIFIED)}


def ask(index: Index, tier: Tier, sql: str) -> list[tuple[object, ...]]:
    return query(tier_root(index.root, tier) / "index.duckdb", sql).rows


@pytest.fixture
def stuffed(index: Index) -> Index:
    """An index whose every cell of text, date and UID can be found again."""
    files = [
        index.write(name, [canary_row(table, f"{MARK}one"), canary_row(table, f"{MARK}two")], batch_id=f"{MARK}batch")
        for name, table in TABLES.items()
        if table.row_key == "image_set_id"
    ]
    with index.commit(batch_id=f"{MARK}batch", kind="test", run_id=f"{MARK}run", files=files):
        pass
    index.publish()
    return index


@pytest.mark.parametrize("dates", Dates)
def test_no_canary_is_in_the_deidentified_tier(stuffed: Index, dates: Dates) -> None:
    report = build_tier(stuffed, Tier.DEIDENTIFIED, SECRET, Policy(dates))
    assert (report.is_new, report.made, report.rows["series"]) == (True, len(SETS), 2)
    folder = tier_root(stuffed.root, Tier.DEIDENTIFIED)
    for name in SETS:
        assert ask(stuffed, Tier.DEIDENTIFIED, f"SELECT count(*) FROM {name}") == [(2,)]
    assert traces(folder, MARK, UID, *DATES) == []
    # The search would find them: they are all in the index, and some in the limited tier.
    found = " ".join(text for _, text in traces(stuffed.root / "data", MARK))
    assert [name for name in SETS if f"{MARK}^{name}." not in found] == []


def test_no_canary_of_a_document_is_in_the_deidentified_tier(index: Index) -> None:
    """The way that real rows take: document, flattener, writer, tier."""
    document = canary_document(json.loads(DOCUMENT.read_text()), COLUMNS.values())
    stamp = {"dagster_run_id": f"{MARK}run"}
    key_of = patient_key_function(SECRET)
    rows = flatten(document, version=1, is_primary=True, patient_key=key_of, stamp=stamp)
    files = [index.write(name, rows.tables[name], batch_id=f"{MARK}batch") for name in rows.tables]
    with index.commit(batch_id=f"{MARK}batch", kind="test", files=files):
        pass
    build_tier(index, Tier.DEIDENTIFIED, SECRET, Policy(Dates.SHIFT))
    folder = tier_root(index.root, Tier.DEIDENTIFIED)
    assert traces(folder, MARK, UID, rows.patient_key, *DATES) == []
    assert ask(index, Tier.DEIDENTIFIED, "SELECT count(*) FROM instances") == [(1,)]
    assert ask(index, Tier.DEIDENTIFIED, "SELECT count(*) > 0 FROM frames") == [(True,)]
    assert len(traces(index.root / "data", MARK)) > 100


def test_the_limited_tier_holds_only_columns_of_the_registrys_limited_tier(stuffed: Index) -> None:
    build_tier(stuffed, Tier.LIMITED, SECRET)
    folder = tier_root(stuffed.root, Tier.LIMITED)
    identified = [
        f"{MARK}^{table.name}.{column.name}"
        for table in SETS.values()
        for column in table.columns
        if column.tier is Tier.IDENTIFIED or column.vr == "PN" or column.name in HASHED
    ]
    assert len(identified) >= 20
    found = traces(folder, *identified)
    longer = {f"{MARK}^{t.name}.{c.name}" for t in SETS.values() for c in t.columns if rule_for(t, c, Tier.LIMITED)}
    assert [(where, text) for where, text in found if not any(name in text for name in longer)] == []
    assert ask(stuffed, Tier.LIMITED, "SELECT DISTINCT StudyDate FROM series") == [(dt.date(1987, 6, 5),)]


def test_no_file_of_a_tier_names_a_file_of_a_higher_one(stuffed: Index) -> None:
    for tier in LOWER:
        build_tier(stuffed, tier, SECRET)
    above = [path.stem for path in stuffed.root.glob("data/*/*/*.parquet")]
    limited = [path.stem for path in tier_root(stuffed.root, Tier.LIMITED).glob("data/*/*.parquet")]
    assert traces(tier_root(stuffed.root, Tier.LIMITED), *above) == []
    assert traces(tier_root(stuffed.root, Tier.DEIDENTIFIED), *above, *limited, "tiers/limited") == []


def test_hashes_join_within_a_tier_and_with_nothing_else(index: Index, put) -> None:
    put("one", {"a": 2, "b": 1}, patient_key="p", PatientID="MRN1")
    for tier in LOWER:
        build_tier(index, tier, SECRET)
    joined = "SELECT count(*), count(DISTINCT s.SeriesInstanceUID) FROM series s JOIN instances i USING (image_set_id)"
    assert ask(index, Tier.DEIDENTIFIED, joined) == [(3, 2)]
    keys = {str(ask(index, tier, "SELECT DISTINCT patient_key FROM series")[0][0]) for tier in LOWER}
    assert len(keys | {"p"}) == 3
    assert ask(index, Tier.DEIDENTIFIED, "SELECT n_studies, n_series FROM patients") == [(1, 2)]
    build_tier(index, Tier.DEIDENTIFIED, b"another secret")
    assert len(tier_files(index.root)) == 6, "another secret makes other files"


@pytest.mark.parametrize("tier", LOWER)
def test_two_persons_under_one_key_do_not_make_a_third(index: Index, put, tier: Tier) -> None:
    """The smaller of each attribute would be a woman of 60 kg, who is neither."""
    put("one", {"a": 1}, patient_key="p", PatientSex="M", PatientWeight=60.0, SmokingStatus="YES")
    put("two", {"b": 1}, patient_key="p", PatientSex="F", PatientWeight=90.0, PatientID="MRN2")
    build_tier(index, tier, SECRET)
    assert ask(index, tier, "SELECT PatientSex, n_series, conflict_attrs FROM patients") == [(None, 2, ["PatientSex"])]
    sql = "SELECT PatientWeight, SmokingStatus, patient_key IS NULL, conflict_attrs FROM studies"
    assert ask(index, tier, sql) == [(None, "YES", False, ["PatientWeight"])]


@pytest.mark.parametrize("tier", LOWER)
def test_a_study_of_two_patients_is_of_neither(index: Index, put, tier: Tier) -> None:
    put("one", {"a": 1}, patient_key="p")
    put("two", {"b": 1}, patient_key="q")
    build_tier(index, tier, SECRET)
    assert ask(index, tier, "SELECT patient_key, conflict_attrs FROM studies") == [(None, ["patient_key"])]
    assert ask(index, tier, "SELECT count(*), count(patient_key) FROM patients WHERE conflict_attrs = []") == [(2, 2)]


def test_what_is_printed_of_a_columns_tier_is_what_the_built_tiers_have(index: Index, put) -> None:
    put("one", {"a": 1})
    index.publish()
    columns = "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'main' AND NOT internal"
    built = {Tier.IDENTIFIED: set(index.query(columns).rows)}
    for tier in LOWER:
        build_tier(index, tier, SECRET)
        built[tier] = set(ask(index, tier, columns))
    # The columns of the lowest tier are in the end those that say so.
    lowest = {column: tier.value for tier in Tier for column in built[tier]}
    for tier in Tier:
        printed = {(page.name, one.name): one.tier for page in dictionary(tier) for one in page.columns}
        assert printed == {column: lowest[column] for column in built[tier]}
    published = index.query("SELECT table_name, column_name, tier FROM tag_registry").rows
    assert len(published) > 300
    assert {(table, column): tier for table, column, tier in published} == {
        (table, column): lowest[table, column] for table, column, _ in published
    }
    assert lowest["series", "ManufacturerModelName"] == lowest["series_ct", "ConvolutionKernel"] == "limited"


def test_a_shift_keeps_the_days_between_the_dates_of_a_patient(index: Index, put) -> None:
    days = [dt.date(2020, 1, 1), dt.date(2021, 2, 3)]
    for number, day in enumerate(days):
        put(f"{number}", {f"a{number}": 1}, patient_key="p", StudyDate=day, patient_age_years=43.2)
    put("other", {"b": 1}, StudyDate=dt.date(2020, 5, 6))
    build_tier(index, Tier.DEIDENTIFIED, SECRET, Policy(Dates.SHIFT))
    rows = ask(
        index, Tier.DEIDENTIFIED, "SELECT StudyDate, patient_age_years FROM series WHERE patient_key IS NOT NULL"
    )
    first, last = sorted(row[0] for row in rows)
    assert last - first == days[1] - days[0]
    assert 1 <= (days[0] - first).days <= 365
    assert {row[1] for row in rows} == {43.0}
    unknown = ask(index, Tier.DEIDENTIFIED, "SELECT StudyDate FROM series WHERE patient_key IS NULL")
    assert unknown == [(None,)], "the year of an unknown patient may stand in the study of a known one"


def test_instances_are_shifted_like_their_series(index: Index, series_row) -> None:
    from ahi.index.store import Head as AHead

    day = dt.date(2020, 5, 6)
    row = series_row("a", patient_key="p", StudyDate=day)
    instance = {k: row[k] for k in ("datastore_id", "image_set_id", "image_set_version", "is_primary")}
    files = [
        index.write("series", [row], batch_id="one"),
        index.write("instances", [instance | {"AcquisitionDate": day}], batch_id="one"),
    ]
    head: Head = AHead("store", "a", 1, True, "1.2.3", "1.2.3.a", 1, patient_key="p")
    with index.commit(batch_id="one", kind="test", files=files) as commit:
        commit.raise_heads([head])
    build_tier(index, Tier.DEIDENTIFIED, SECRET, Policy(Dates.SHIFT))
    sql = "SELECT StudyDate = AcquisitionDate, StudyDate <> DATE '2020-05-06' FROM series, instances"
    assert ask(index, Tier.DEIDENTIFIED, sql) == [(True, True)]


def test_a_build_makes_only_what_is_new(index: Index, put) -> None:
    put("one", {"a": 1})
    first = build_tier(index, Tier.DEIDENTIFIED, SECRET)
    again = build_tier(index, Tier.DEIDENTIFIED, SECRET)
    assert (first.made, first.is_new, again.made, again.is_new) == (2, True, 0, False)
    put("two", {"a": 2, "b": 1})
    third = build_tier(index, Tier.DEIDENTIFIED, SECRET)
    assert (third.made, third.is_new, third.commits_behind) == (2, True, 0)
    shown = ask(index, Tier.DEIDENTIFIED, "SELECT image_set_version, count(*) FROM instances GROUP BY 1 ORDER BY 1")
    assert shown == [(1, 1), (2, 2)], "version 1 of one image set and 2 of the other"


def test_deleted_rows_and_retired_files_leave_the_tier(index: Index, put) -> None:
    index.compact_files = 2
    put("one", {"a": 1, "b": 1})
    put("two", {"c": 1})
    build_tier(index, Tier.LIMITED, SECRET)
    with index.commit(kind="delete") as commit:
        commit.bury("store", "a", version=None, reason="test", at=commit.committed_at)
    report = build_tier(index, Tier.LIMITED, SECRET)
    assert (report.made, report.is_new) == (0, True)
    remaining = "SELECT image_set_id FROM series_all ORDER BY 1"
    assert ask(index, Tier.LIMITED, remaining) == [("b",), ("c",)]
    index.compact()
    index.grace_seconds = 3_600
    report = build_tier(index, Tier.LIMITED, SECRET)
    assert (report.made, report.retired, report.removed) == (2, 4, 0)
    index.grace_seconds = -1
    report = build_tier(index, Tier.LIMITED, SECRET)
    assert (report.made, report.retired, report.removed) == (0, 0, 4)
    assert ask(index, Tier.LIMITED, remaining) == [("b",), ("c",)]
    ids = {name for path in tier_files(index.root) for name in pq.read_table(path)["image_set_id"].to_pylist()}
    assert ids == {"b", "c"}


def test_what_a_killed_builder_left_is_removed(index: Index, put, monkeypatch: pytest.MonkeyPatch) -> None:
    put("one", {"a": 1})
    build_tier(index, Tier.LIMITED, SECRET)
    put("two", {"b": 1})
    replace, kills = os.replace, []
    root = tier_root(index.root, Tier.LIMITED)

    def killed(source: object, target: object) -> None:
        kills.append(target)
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build_tier(index, Tier.LIMITED, SECRET)
    monkeypatch.undo()
    assert kills
    assert replace is os.replace
    assert list(root.glob("data/*/.new-*"))
    assert ask(index, Tier.LIMITED, "SELECT count(*) FROM series") == [(1,)]
    assert build_tier(index, Tier.LIMITED, SECRET).made == 2
    assert not list(root.glob("data/*/.new-*"))
    assert ask(index, Tier.LIMITED, "SELECT count(*) FROM series") == [(2,)]


@pytest.mark.parametrize("kept", [0, 1])
def test_the_views_leave_out_no_value_of_the_files(index: Index, kept: int) -> None:
    """Columns without values in the index are constants in the views; a code tells its meaning where none was sent."""
    files = []
    for name, table in SETS.items():
        filled = {column.name for number, column in enumerate(table.columns) if number % 2 == kept}
        filled |= {table.row_key, "is_primary"} | {
            column.name for column in table.columns if column.name.rpartition("_")[2] in CODE
        }
        row = {key: value for key, value in canary_row(table, "one").items() if key in filled}
        row |= {key: CODE[key.rpartition("_")[2]] for key in row if key.rpartition("_")[2] in CODE}
        files.append(index.write(name, [row], batch_id="b"))
    with index.commit(batch_id="b", kind="test", files=files):
        pass
    n_values = 0
    for tier in LOWER:
        build_tier(index, tier, SECRET, Policy(Dates.SHIFT))
        root = tier_root(index.root, tier)
        for name in SETS:
            shown = f"SELECT * FROM {name}_all"
            stored = f"SELECT * EXCLUDE ({ROW_VERSION}) FROM read_parquet('{root}/data/{name}/*.parquet')"
            assert ask(index, tier, f"({shown} EXCEPT ALL {stored}) UNION ALL ({stored} EXCEPT ALL {shown})") == []
            n_values += sum(value is not None for value in ask(index, tier, shown)[0])
    assert n_values > 200
    assert ask(index, Tier.DEIDENTIFIED, "SELECT code, meaning IS NULL FROM codes") == [(CODE["code"], False)]


def test_the_tier_opens_with_stock_duckdb_and_says_what_it_is(index: Index, put) -> None:
    put("one", {"a": 1})
    assert [build_tier(index, Tier.DEIDENTIFIED, SECRET).is_new for _ in range(2)] == [True, False]
    with index.commit(kind="other"):
        pass
    report = build_tier(index, Tier.DEIDENTIFIED, SECRET)
    assert (report.seq, report.made, report.is_new) == (2, 0, True)
    with duckdb.connect(str(tier_root(index.root, Tier.DEIDENTIFIED) / "index.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT tier, seq, dates FROM index_info").fetchall() == [("deidentified", 2, "year")]
        without = connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE schema_name = 'main' AND NOT internal AND comment IS NULL AND table_name NOT LIKE '%_all'"
        ).fetchall()
        assert without == []
        views = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    assert views == {"patients", "studies", "index_info", *SETS, *(f"{name}_all" for name in SETS)}


@pytest.mark.parametrize("tier", LOWER)
def test_a_large_file_of_a_tier_has_the_rows_of_a_small_one(
    index: Index, put, monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    """They are written in two ways."""
    put("one", {str(number): 3 for number in range(40)})
    monkeypatch.setattr(build, "group_rows", lambda _table: 16)
    made = []
    for cells in (ordering.CELLS, -1):
        monkeypatch.setattr(ordering, "CELLS", cells)
        root = tier_root(index.root, tier)
        shutil.rmtree(root, ignore_errors=True)
        build_tier(index, tier, SECRET)
        made.append({path.name: pq.ParquetFile(path) for path in sorted(root.glob("data/*/*.parquet"))})
    small, large = made
    assert small.keys() == large.keys() != set()
    for name, file in large.items():
        assert file.read().equals(small[name].read().cast(file.schema_arrow))
        assert file.metadata.num_row_groups == -(-file.metadata.num_rows // 16)
        written = {key: value for key, value in small[name].metadata.metadata.items() if key != b"ARROW:schema"}
        assert file.metadata.metadata == written
    assert sum(file.metadata.num_rows for file in large.values()) == 40 + 120
