"""Whatever disagrees within a patient, study or series is in `conflicts`, and no view shows a mixture of it."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import duckdb
import pytest

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.store import Head, Index

STUDY, SERIES = "1.2", "1.2.9"
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@pytest.fixture
def indexed(index: Index):
    """Commit an image set with its instances, and the headers of its objects: by instance, what each says."""

    def commit(
        headers: dict[str, dict[str, object]],
        instances: dict[str, dict[str, object]] | None = None,
        *,
        frames: dict[str, list[dict[str, object]]] | None = None,
        side: dict[str, object] | None = None,
        documents: dict[str, dict[str, object]] | None = None,
        series_uid: str = SERIES,
        study_uid: str = STUDY,
        image_set_id: str = "",
        is_primary: bool = True,
        **series: object,
    ) -> None:
        ident = image_set_id or f"i{series_uid}"
        names, batch_id = list(instances or headers), f"b{ident}"
        uids = dict(zip(UIDS, (study_uid, series_uid), strict=False))
        base = uids | {"datastore_id": "store", "image_set_id": ident, "image_set_version": 1}
        base |= {"is_primary": is_primary}
        files = [
            index.write("series", [base | {"n_instances": len(names)} | series], batch_id=batch_id),
            index.write(
                "instances",
                [base | {"SOPInstanceUID": f"{series_uid}.{one}"} | (instances or {}).get(one, {}) for one in names],
                batch_id=batch_id,
            ),
        ]
        if frames:
            shown = [
                base | {"SOPInstanceUID": f"{series_uid}.{one}", "frame_number": number} | values
                for one, found in frames.items()
                for number, values in enumerate(found, 1)
            ]
            files.append(index.write("frames_functional", shown, batch_id=batch_id))
        if side:
            files.append(index.write("series_ct", [base | side], batch_id=batch_id))
        if documents:
            kept = [
                base | {"SOPInstanceUID": f"{series_uid}.{one}", "metadata_json": json.dumps(values)}
                for one, values in documents.items()
            ]
            files.append(index.write("instance_metadata", kept, batch_id=batch_id))
        objects = [
            uids | {"object_id": f"o{series_uid}.{one}", "SOPInstanceUID": f"{series_uid}.{one}"} for one in headers
        ]
        if headers:
            said = [row | values for row, values in zip(objects, headers.values(), strict=True)]
            files.append(index.write("headers", said, batch_id=batch_id))
        with index.commit(batch_id=batch_id, kind="test", files=files) as one:
            one.raise_heads([Head("store", ident, 1, is_primary, study_uid, series_uid, len(names))])
            seqs = dict.fromkeys(("header_seq", "changed_seq", "indexed_seq"), one.seq)
            for row in objects:
                values = {"bucket": "b", "key": "k", "state": "imported", "state_since": now(), "day": "2026-11-21"}
                values |= {"landed_at": now(), "attempts": 0, "image_set_id": base["image_set_id"]} | seqs
                one.connection.execute(c.objects.insert().values(**row, **values))
        index.publish()

    return commit


def sides(index: Index, where: str = "true") -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """By entity and attribute: value, source, and the last parts of the UIDs of instances."""
    rows = index.query(f"SELECT entity, attribute, sides FROM conflicts WHERE {where}").rows
    assert len({row[:2] for row in rows}) == len(rows), "one row for each attribute"
    return {
        (str(entity), str(attribute)): [
            (one["value"], one["source"], [uid[-1] for uid in one["sop_instance_uids"] or ()]) for one in found
        ]
        for entity, attribute, found in rows  # type: ignore[attr-defined]
    }


def test_another_person_and_body_part_inside_a_series(index: Index, indexed) -> None:
    """HealthImaging keeps one set of attributes of the upper levels; what other objects say is in their headers."""
    indexed(
        {
            "1": {"PatientName": "A", "BodyPartExamined": "CHEST", "Modality": "CT "},
            "2": {"PatientName": "B", "BodyPartExamined": "HEAD", "StudyDescription": None},
        },
        PatientName="A",
        BodyPartExamined="CHEST",
        StudyDescription="x",
        Modality="CT",
    )
    # Also what is of the patient: headers contradict it within the study.
    assert sides(index) == {
        ("study", "PatientName"): [("A", "document", []), ("B", "header", ["2"])],
        ("series", "BodyPartExamined"): [("CHEST", "document", []), ("HEAD", "header", ["2"])],
    }
    assert sides(index, f"entity = 'series' AND entity_id = '{SERIES}'").keys() == {("series", "BodyPartExamined")}
    assert sides(index, "entity_id = '9.9'") == {}
    ((found,),) = index.query("SELECT sides[2] FROM conflicts WHERE entity = 'series'").rows
    assert found == {
        "value": "HEAD",
        "is_primary": True,
        "image_set_ids": [f"i{SERIES}"],
        "source": "header",
        "sop_instance_uids": [f"{SERIES}.2"],
        "object_ids": [f"o{SERIES}.2"],
    }


def test_what_a_series_calls_mixed_is_shown_with_its_ends(index: Index, indexed) -> None:
    """Attributes of instances by the smallest and largest value as numbers, others by what headers say."""
    depths = {"1": 9.0, "2": 10.0, "3": 100.0, "4": 9.0}
    indexed(
        {"1": {"BodyPartExamined": "CHEST"}, "2": {"BodyPartExamined": "HEAD"}},
        {
            one: {"SliceThickness": depth, "SpacingBetweenSlices": depth, "PixelSpacing": [depth, depth]}
            for one, depth in depths.items()
        },
        mixed_attrs=["BodyPartExamined", "PixelSpacing", "SliceThickness"],
    )
    indexed({}, {"1": {"SliceThickness": 1.0}, "2": {"SliceThickness": 2.0}}, series_uid="1.2.8")
    assert sides(index) == {
        ("series", "SliceThickness"): [("100.0", "instance", ["3"]), ("9.0", "instance", ["1", "4"])],
        ("series", "PixelSpacing"): [("[10.0, 10.0]", "instance", ["2"]), ("[9.0, 9.0]", "instance", ["1", "4"])],
        ("series", "BodyPartExamined"): [("CHEST", "header", ["1"]), ("HEAD", "header", ["2"])],
    }


def test_what_a_side_table_calls_mixed_is_shown_as_the_instances_have_it(index: Index, indexed) -> None:
    documents: dict[str, dict[str, object]] = {
        "1": {"KVP": "120 ", "ConvolutionKernel": ["B30f", "2"], "FilterType": "A"},
        "2": {"KVP": "80", "ConvolutionKernel": "B30f", "FilterType": "B"},
        "3": {"KVP": "no number", "ConvolutionKernel": "B30f"},
        "4": {"KVP": "120"},
    }
    side = {"mixed_attrs": ["ConvolutionKernel", "KVP", "TableSpeed"]}
    indexed({}, {one: {} for one in documents}, side=side, documents=documents)
    indexed({}, {"1": {}, "2": {}}, side={"KVP": 1.0}, documents=documents, series_uid="1.2.8")
    assert sides(index) == {
        ("series", "KVP"): [("80", "instance", ["2"]), ("no number", "instance", ["3"])],
        ("series", "ConvolutionKernel"): [("B30f", "instance", ["2", "3"]), ('["B30f","2"]', "instance", ["1"])],
    }


def test_what_only_frames_of_enhanced_objects_differ_in(index: Index, indexed) -> None:
    """Their instances say none of it themselves; where instances and frames do, the ends are of both."""
    thick = [{"SliceThickness": depth, "PixelSpacing": [1.0, 1.0], "KVP": depth} for depth in (10.0, 9.0, 9.0)]
    frames = {"1": thick, "2": [{"SpacingBetweenSlices": 3.0}]}
    instances: dict[str, dict[str, object]] = {
        "1": {},
        "2": {},
        "3": {"SpacingBetweenSlices": 1.0},
        "4": {"SpacingBetweenSlices": 2.0},
    }
    indexed({}, instances, frames=frames, mixed_attrs=["SliceThickness", "SpacingBetweenSlices"])
    indexed({}, {"1": {}}, frames={"1": thick}, series_uid="1.2.8")
    assert sides(index) == {
        ("series", "SliceThickness"): [("10.0", "frame", ["1"]), ("9.0", "frame", ["1"])],
        ("series", "SpacingBetweenSlices"): [("1.0", "instance", ["3"]), ("3.0", "frame", ["2"])],
    }


def test_two_persons_under_one_key_are_not_made_into_a_third(index: Index, indexed) -> None:
    for number, (name, born, sex) in enumerate([("A", date(1980, 1, 1), "M"), ("B", date(1970, 1, 1), None)]):
        told = {"PatientName": name, "PatientBirthDate": born, "PatientSex": sex, "patient_key": "k", "PatientID": "P"}
        indexed({"1": {}}, series_uid=f"1.2.{number}", **told)
    names = "PatientName, PatientBirthDate, PatientSex, PatientID, conflict_attrs"
    expected = [(None, None, "M", "P", ["PatientName", "PatientBirthDate"])]
    assert index.query(f"SELECT {names} FROM patients").rows == expected
    assert index.query(f"SELECT {names} FROM patients_as_of(now())").rows == expected
    assert {("patient", "PatientName"), ("study", "PatientName")} <= sides(index).keys()


def test_a_study_under_two_patients_is_of_neither(index: Index, indexed) -> None:
    """The issuer is in one series only: the keys differ, and no attribute does."""
    indexed({"1": {}}, series_uid="1.2.1", PatientID="P", patient_key="k1")
    indexed({"1": {}}, series_uid="1.2.2", PatientID="P", patient_key="k2", IssuerOfPatientID="X")
    indexed({"1": {}}, series_uid="1.2.3")
    assert index.query("SELECT patient_key, conflict_attrs FROM studies").rows == [(None, ["patient_key"])]
    assert sides(index) == {("study", "patient_key"): [("k1", "document", []), ("k2", "document", [])]}
    assert index.query("SELECT patient_key FROM patients ORDER BY 1").rows == [("k1",), ("k2",), (None,)]


def test_every_image_set_that_was_put_aside_is_in_a_conflict_and_why(index: Index, indexed) -> None:
    """HealthImaging puts aside what lacks a value or has an instance again, and leaves it when the primary one goes."""
    told = {"AccessionNumber": "A", "StudyID": "1", "BodyPartExamined": "HEAD"}
    indexed({}, {"1": {}}, series_uid="1.2.1", **told)
    assert sides(index) == {}, "nothing was put aside"
    indexed(
        {}, {"1": {}}, series_uid="1.2.1", image_set_id="less", is_primary=False, **told | {"AccessionNumber": None}
    )
    indexed({}, {"1": {}}, series_uid="1.2.2", **told | {"StudyID": None})
    indexed({}, {"1": {}}, series_uid="1.2.3", study_uid="1.3", **told)
    indexed({}, {"1": {}}, series_uid="1.2.3", study_uid="1.3", image_set_id="same", is_primary=False, **told)
    indexed({}, {"1": {}}, series_uid="1.2.4", study_uid="1.4", is_primary=False, **told)
    sql = "SELECT entity_id, attribute, sides FROM conflicts"
    found = {
        (entity_id, attribute): {one["value"]: (one["is_primary"], one["image_set_ids"]) for one in found}
        for entity_id, attribute, found in index.query(sql).rows  # type: ignore[attr-defined]
    }
    assert found == {
        ("1.2", "AccessionNumber"): {"A": (True, ["i1.2.1", "i1.2.2"]), None: (False, ["less"])},
        ("1.2", "is_primary"): {"true": (True, ["i1.2.1", "i1.2.2"]), "false": (False, ["less"])},
        ("1.2.1", "is_primary"): {"true": (True, ["i1.2.1"]), "false": (False, ["less"])},
        **{
            (entity_id, "is_primary"): {"true": (True, ["i1.2.3"]), "false": (False, ["same"])}
            for entity_id in ("1.3", "1.2.3")
        },
        ("1.4", "is_primary"): {"false": (False, ["i1.2.4"])},
    }


def test_they_are_found_in_an_attached_index(index: Index, indexed) -> None:
    indexed({"1": {"PatientName": "A"}, "2": {"PatientName": "B"}}, PatientName="A")
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{index.path}' AS idx (READ_ONLY)")
        assert connection.execute("SELECT attribute FROM idx.conflicts").fetchall() == [("PatientName",)]
        assert connection.execute("SELECT header_value FROM idx.differences").fetchall() == [("B",)]
