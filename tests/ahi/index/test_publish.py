from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import date

import duckdb
import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.columns import Column, Tier
from ahi.index.query import open_index, query
from ahi.index.registry import TABLES
from ahi.index.store import Index
from ahi.index.tiers.build import build_tier, tier_root
from ahi.index.tiers.rules import LOWER

VIEWS = {
    *(name + end for name in TABLES.keys() - {"headers"} for end in ("", "_all")),
    *(f"{name}_history" for name in TABLES),
    *("patients", "studies", "headers", "index_versions"),
    *("objects", "import_jobs", "image_sets", "quarantine", "events", "freshness", "closure", "index_info"),
    *("ledger", "uploads", "study_closure", "fhir_jobs"),
    *("instances_provenance", "series_provenance", "studies_provenance"),
    *("archives", "archive_looks", "archive_shards", "archive_set_aside"),
    *("fhir_imports", "fhir_batches", "fhir_failures"),
    *("conflicts", "tombstones", "image_set_versions", "differences", "tag_registry", "cast_failures"),
}


def test_a_fresh_index_has_every_view_typed_and_explained(index: Index) -> None:
    publication = index.publish()
    assert (publication.seq, publication.is_new) == (0, True)
    assert {row[0] for row in index.query("SHOW TABLES").rows} == VIEWS
    # One look for all: opening the file costs more than most of its views.
    with open_index(index.path) as connection:
        for view in sorted(VIEWS - {"closure", "index_info", "tag_registry"}):
            assert connection.execute(f'FROM "{view}"').fetchall() == [], view
    assert index.query("SELECT landed, in_flight, closes FROM closure").rows == [(0, 0, True)]
    types = dict(index.query("SELECT column_name, column_type FROM (DESCRIBE series)").rows)
    assert {
        column.name: column.duckdb_type.replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")
        for column in TABLES["series"].columns
    }.keys() | {"row_source", "n_pending"} == types.keys()
    assert (types["StudyDate"], types["Rows"], types["SoftwareVersions"]) == ("DATE", "USMALLINT", "VARCHAR[]")
    unexplained = index.query(
        "SELECT view_name, NULL FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal AND comment IS NULL "
        "UNION ALL SELECT table_name, column_name FROM duckdb_columns() "
        "WHERE schema_name = 'main' AND NOT internal AND comment IS NULL "
        "AND (NOT ends_with(table_name, '_history') OR starts_with(column_name, 'valid_'))"
    )
    assert unexplained.rows == []


def test_nothing_in_the_file_calls_what_is_no_function_to_older_duckdb(index: Index, upload, index_documents) -> None:
    """To them `if` is syntax: kept in a macro or a view, as DuckDB 2 writes it, it is a function they do not have."""
    upload("1", "2")
    index_documents("1")
    index.publish()
    sql = (
        "SELECT view_name AS name, sql FROM duckdb_views() UNION ALL "
        "SELECT function_name, macro_definition FROM duckdb_functions() WHERE NOT internal"
    )
    told = index.query(sql).rows
    assert {"series_current", "diff", "series_diff", "studies_diff_counts", "series_as_of"} <= {
        name for name, _ in told
    }
    assert [name for name, kept in told if re.search(r"\b\"?if\"?\s*\(", str(kept), re.IGNORECASE)] == []


def test_no_view_has_a_window_and_an_anti_join_only_where_rows_are_dead(index: Index, put) -> None:
    put("one", {"a": 1})
    index.publish()

    def definitions() -> dict[str, str]:
        sql = "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal"
        return {str(name): str(text).upper() for name, text in index.query(sql).rows}

    before = definitions()
    assert not [name for name, text in before.items() if " OVER " in text or "ROW_NUMBER" in text]
    assert "ANTI JOIN" not in before["series_rows"]
    assert "UNION_BY_NAME" not in before["series_rows"]
    put("two", {"a": 2})
    index.publish()
    after = definitions()
    assert "ANTI JOIN" in after["series_rows"]
    assert "ANTI JOIN" not in after["headers_rows"]


def test_primary_rows_are_apart_from_the_others(index: Index, put) -> None:
    put("one", {"a": 1})
    put("two", {"b": 2}, is_primary=False)
    index.publish()
    assert index.query("SELECT image_set_id FROM series").rows == [("a",)]
    assert index.query("SELECT image_set_id FROM series_all ORDER BY 1").rows == [("a",), ("b",)]
    assert index.query("SELECT count(*) FROM instances").rows == [(1,)]
    assert index.query("SELECT count(*) FROM instances_all").rows == [(3,)]
    assert index.query("SELECT image_set_id, is_primary, version FROM image_sets ORDER BY 1").rows == [
        ("a", True, 1),
        ("b", False, 2),
    ]


def test_studies_and_patients_sum_up_their_series(index: Index, put) -> None:
    put("one", {"a": 2}, Modality="CT", patient_key="p", StudyDescription="Head", sop_class_uids=["1", "2"])
    put("two", {"b": 3}, Modality="SR", patient_key="p", StudyDescription="Thorax", sop_class_uids=["2", "3"])
    put("three", {"c": 9}, is_primary=False, patient_key="p")
    index.publish()
    columns = (
        "StudyInstanceUID, ModalitiesInStudy, SOPClassesInStudy, NumberOfStudyRelatedSeries, "
        "NumberOfStudyRelatedInstances, StudyDescription, conflict_attrs"
    )
    assert index.query(f"SELECT {columns} FROM studies").rows == [
        ("1.2.3", ["CT", "SR"], ["1", "2", "3"], 2, 5, None, ["StudyDescription"])
    ]
    assert index.query("SELECT patient_key, n_studies, n_series, n_instances, conflict_attrs FROM patients").rows == [
        ("p", 1, 2, 5, [])
    ]


def test_studies_without_patient_id_are_of_a_patient_each(index: Index, put) -> None:
    for number in ("1", "2"):
        put(number, {f"a{number}": 1}, StudyInstanceUID=f"1.{number}", PatientName=f"N{number}")
    put("3", {"a3": 1}, StudyInstanceUID="1.2", PatientName="N2")
    put("4", {"a4": 1}, StudyInstanceUID="1.4", PatientName="N4", patient_key="p")
    index.publish()
    shown = "SELECT patient_key, PatientName, n_studies, n_series, conflict_attrs FROM patients ORDER BY 2"
    assert index.query(shown).rows == [(None, "N1", 1, 1, []), (None, "N2", 1, 2, []), ("p", "N4", 1, 1, [])]
    assert index.query("SELECT entity, entity_id FROM conflicts WHERE entity = 'patient'").rows == []
    for tier in LOWER:
        build_tier(index, tier, b"secret")
        assert query(tier_root(index.root, tier) / "index.duckdb", "SELECT count(*) FROM patients").rows == [(3,)]


def test_nothing_new_leaves_the_file_alone(index: Index, put) -> None:
    put("one", {"a": 1})
    first = index.publish()
    inode = index.path.stat().st_ino
    again = index.publish()
    assert (again.seq, again.published_at, again.is_new) == (first.seq, first.published_at, False)
    assert index.path.stat().st_ino == inode
    index.path.unlink()
    assert index.publish().is_new


def test_what_a_killed_publisher_left_is_swept(index: Index, put) -> None:
    left = index.root / ".index-0123.duckdb"
    left.write_bytes(b"half")
    put("one", {"a": 1})
    index.publish()
    assert not left.exists()
    assert not list(index.root.glob(".index-*"))


def test_a_reader_keeps_the_publication_it_opened(index: Index, put) -> None:
    put("one", {"a": 1})
    index.publish()
    with duckdb.connect(str(index.path), read_only=True) as old:
        put("two", {"a": 2, "b": 1})
        index.publish()
        assert old.execute("SELECT image_set_version FROM series").fetchall() == [(1,)]
    assert index.query("SELECT image_set_version FROM series ORDER BY image_set_id").rows == [(2,), (1,)]


def test_a_reader_may_attach_it_under_another_name(index: Index, put) -> None:
    put("one", {"a": 1})
    index.publish()
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{index.path}' AS idx (READ_ONLY)")
        assert connection.execute("SELECT n_instances FROM idx.patients").fetchall() == [(1,)]
        assert connection.execute("SELECT closes FROM idx.closure").fetchall() == [(True,)]


def test_a_moved_index_is_published_again(index: Index, put, tmp_path, catalog_url: str) -> None:
    put("one", {"a": 1})
    index.publish()
    there = tmp_path / "it's [moved]*"
    shutil.move(index.root, there)
    moved = Index(there, catalog_url.replace(str(index.root), str(there)))
    assert moved.publish().is_new
    assert moved.query("SELECT image_set_id FROM series").rows == [("a",)]


def test_new_dropped_and_changed_columns(index: Index, put, catalog_url: str) -> None:
    put("one", {"a": 1}, SliceThickness=1.5, SeriesNumber=7)
    index.publish()
    old = TABLES["series"]
    kept = [column for column in old.columns if column.name != "SliceThickness"]
    changed = [replace(x, duckdb_type="VARCHAR") if x.name == "SeriesNumber" else x for x in kept]
    table = replace(old, columns=(*changed, Column("flow", "DOUBLE", "A new column.", Tier.DEIDENTIFIED)))
    newer = Index(index.root, catalog_url, tables=TABLES | {"series": table})
    assert newer.publish().is_new
    assert newer.query("SELECT image_set_id, SeriesNumber, flow FROM series").rows == [("a", "7", None)]
    row = {"datastore_id": "store", "image_set_id": "b", "image_set_version": 1, "is_primary": True, "flow": 0.5}
    with newer.commit(batch_id="two", kind="test", files=[newer.write("series", [row], batch_id="two")]):
        pass
    newer.publish()
    assert newer.query("SELECT image_set_id, SeriesNumber, flow FROM series ORDER BY 1").rows == [
        ("a", "7", None),
        ("b", None, 0.5),
    ]
    assert "SliceThickness" not in newer.query("FROM series").columns


def ledger(index: Index) -> dict[str, tuple[object, ...]]:
    rows = index.query("SELECT object_id, state, header_published_at FROM objects").rows
    assert len({row[0] for row in rows}) == len(rows)
    return {str(row[0]): row[1:] for row in rows}


def test_the_ledger_adds_up_and_gets_its_publishing_times_once(index: Index, land) -> None:
    land("a", "b", header=True)
    land("c", state="failed")
    first = index.publish()
    assert ledger(index) == {
        "a": ("ready", first.published_at),
        "b": ("ready", first.published_at),
        "c": ("failed", None),
    }
    assert index.query("SELECT landed, failed, ready, in_flight, closes FROM closure").rows == [(3, 1, 2, 2, True)]
    land("b", state="imported", header=True)
    index.publish()
    assert ledger(index)["a"] == ("ready", first.published_at)
    assert ledger(index)["b"] == ("imported", first.published_at)
    with index.snapshot() as connection:
        stamps = set(connection.scalars(sa.select(c.objects.c.header_published_at)))
    assert stamps == {first.published_at, None}
    hops = index.query("SELECT arrival_to_header_queryable_s FROM freshness WHERE object_id = 'a'").rows[0][0]
    assert isinstance(hops, float)
    assert 0 < hops < 60


def test_studies_and_uploads_add_up_in_the_ledger(index: Index, land) -> None:
    land("a", "b", state="imported")
    land("c", state="failed")
    land("d", state="held")
    land("e", state="imported")
    with index.transaction() as connection:
        for object_id, study in {"a": "1.1", "b": "1.2", "c": "1.2", "d": "1.3"}.items():
            own = c.objects.update().where(c.objects.c.object_id == object_id)
            connection.execute(own.values(StudyInstanceUID=study, SOPInstanceUID=f"{study}.{object_id}", batch_id="x"))
        connection.execute(c.objects.update().where(c.objects.c.object_id == "a").values(association_prefix="in/1/"))
    index.publish()
    counts = "landed, imported, failed, in_flight, closes, verdict"
    assert index.query(f"SELECT StudyInstanceUID, {counts}, missing_uids FROM study_closure ORDER BY 1").rows == [
        ("1.1", 1, 1, 0, 0, True, "closed", None),
        ("1.2", 2, 1, 1, 0, True, "failed", ["1.2.c"]),
        ("1.3", 1, 0, 0, 1, True, "open", ["1.3.d"]),
    ]
    assert index.query(
        f"SELECT upload_id, prefix, n_studies, {counts} FROM uploads WHERE n_studies > 0 ORDER BY 1"
    ).rows == [
        ("in/1/", "in/1/", 1, 1, 1, 0, 0, True, "closed"),
        ("x", None, 2, 3, 1, 1, 1, True, "open"),
    ]
    assert index.query("SELECT object_id FROM ledger").rows == index.query("SELECT object_id FROM objects").rows


def test_a_state_that_nobody_knows_does_not_close(index: Index, land) -> None:
    land("a", state="lost")
    index.publish()
    assert index.query("SELECT landed, closes FROM closure").rows == [(1, False)]


def test_jobs_quarantine_and_events_are_shown(index: Index) -> None:
    with index.commit(kind="test") as commit:
        moment = now()
        commit.connection.execute(
            c.quarantine.insert().values(
                item_id="q", source="uploads", reason_code="EMPTY", reason_text="x", evidence="k:1", first_seen=moment
            )
        )
        commit.connection.execute(
            c.events.insert().values(event_id="e", detail_type="t", batch_id="b", outcome="recorded")
        )
        commit.connection.execute(
            c.jobs.insert().values(
                job_key="j",
                service="medical-imaging",
                state="planned",
                day="2026-11-21",
                datastore_id="store",
                input_uri="i",
                output_uri="o",
                in_place=False,
                n_objects=1,
                n_bytes=1,
                planned_at=moment,
            )
        )
    index.publish()
    assert index.query("SELECT item_id, first_seen FROM quarantine").rows == [("q", moment)]
    assert index.query("SELECT event_id, outcome FROM events").rows == [("e", "recorded")]
    assert index.query("SELECT job_key, in_place, n_objects, run_s FROM import_jobs").rows == [("j", False, 1, None)]


def test_conflicts_show_both_sides(index: Index, put) -> None:
    put("one", {"a": 1}, PatientID="P1", StudyDescription="CHEST", StudyDate=date(2026, 1, 1))
    put("two", {"b": 1}, PatientID="P2", StudyDescription="CHEST", StudyDate=None, is_primary=False)
    index.publish()
    found = index.query("SELECT entity, attribute, sides FROM conflicts WHERE entity = 'study'").rows
    of = {str(attribute): (entity, sides) for entity, attribute, sides in found}
    # The image set put aside lacks the date, which is a difference of it from the primary one.
    assert of.keys() == {"PatientID", "StudyDate", "is_primary"}
    entity, sides = of["PatientID"]
    assert entity == "study"
    shown = {"source": "document", "sop_instance_uids": None, "object_ids": None}
    assert sides == [
        {"value": "P1", "is_primary": True, "image_set_ids": ["a"]} | shown,
        {"value": "P2", "is_primary": False, "image_set_ids": ["b"]} | shown,
    ]


def test_a_deleted_image_set_leaves_a_tombstone(index: Index, put) -> None:
    put("one", {"a": 2})
    with index.commit(kind="test") as commit:
        commit.bury("store", "a", version=None, reason="deleted in HealthImaging", at=now())
    index.publish()
    assert index.query("SELECT image_set_id, last_version, delete_reason FROM tombstones").rows == [
        ("a", 2, "deleted in HealthImaging")
    ]
    assert index.query("FROM series_all").rows == []


def test_the_tag_registry_counts_what_did_not_fit(index: Index, put) -> None:
    failure = {"keyword": "SeriesDate", "vr": "DA", "raw": "soon", "reason": "not a date"}
    put("one", {"a": 1}, cast_failures=[failure])
    put("two", {"b": 1})
    index.publish()
    sql = "SELECT tag, vr, tier, n_cast_failures FROM tag_registry WHERE table_name = 'series' AND column_name = "
    assert index.query(f"{sql}'SeriesDate'").rows == [("(0008,0021)", "DA", "deidentified", 1)]
    assert index.query(f"{sql}'StudyDate'").rows == [("(0008,0020)", "DA", "deidentified", 0)]
    kept = sum(column.tag is not None for table in TABLES.values() for column in table.columns)
    assert index.query("SELECT count(*), sum(n_cast_failures)::INTEGER FROM tag_registry").rows == [(kept, 1)]


def test_failed_casts_of_all_tables_are_in_one_view(index: Index, put) -> None:
    failure = {"keyword": "SeriesDate", "vr": "DA", "raw": "soon", "reason": "not a date"}
    put("one", {"a": 1}, cast_failures=[failure, failure | {"raw": "late"}])
    put("two", {"b": 1}, cast_failures=[], is_primary=False)
    said = {"object_id": "o", "StudyInstanceUID": "1.2.3", "SOPInstanceUID": "1.5", "cast_failures": [failure]}
    with index.commit(batch_id="h", kind="test", files=[index.write("headers", [said], batch_id="h")]):
        pass
    index.publish()
    assert index.query("SELECT * EXCLUDE (keyword, vr, reason) FROM cast_failures ORDER BY ALL").rows == [
        ("headers", None, "1.2.3", None, "1.5", "soon"),
        ("series", "store", "1.2.3", "1.2.3.a", None, "late"),
        ("series", "store", "1.2.3", "1.2.3.a", None, "soon"),
    ]
    assert index.query("SELECT DISTINCT keyword, vr, reason FROM cast_failures").rows == [
        ("SeriesDate", "DA", "not a date")
    ]
    [(sql,)] = index.query("SELECT sql FROM duckdb_views() WHERE view_name = 'cast_failures'").rows
    kept = {table.name for table in TABLES.values() if any(x.name == "cast_failures" for x in table.columns)}
    assert not [name for name in kept if f"internal.{name}_rows" not in str(sql)]


def test_columns_without_a_value_are_not_asked_of_the_files(index: Index, put) -> None:
    index.compact_files = 2
    put("one", {"a": 1}, SoftwareVersions=[], PatientSex="F")
    put("two", {"b": 1}, PatientSex=None, StationName="X")
    asked = "SELECT SoftwareVersions, PatientSex, StationName, RequestAttributesSequence FROM series_all ORDER BY ALL"
    for _ in range(2):
        index.publish()
        rows = index.query(asked)
        assert rows.rows == [([], "F", None, None), (None, None, "X", None)]
        assert str(rows.types[-1]).startswith("STRUCT(")
        [(read,)] = index.query("SELECT sql FROM duckdb_views() WHERE view_name = 'series_files'").rows
        constants = {name for name in TABLES["series"].columns if f" AS {name.name}," in read.replace('"', "")}
        assert {"ReasonForStudy", "RequestAttributesSequence"} <= {column.name for column in constants}
        assert not {"PatientSex", "StationName", "SoftwareVersions"} & {column.name for column in constants}
        index.compact()
    with index.transaction() as connection:
        connection.execute(c.files.update().values(empty_columns=None))  # as in a catalog of earlier code
    put("three", {"c": 1})
    index.publish()
    assert len(index.query("SELECT * FROM series_all").rows) == 3
