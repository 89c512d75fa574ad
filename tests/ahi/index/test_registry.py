from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ahi.index import registry
from ahi.index.columns import SHAPES, Column
from ahi.index.keywords_side import SIDES
from ahi.index.registry import COLUMNS, HEADER_KEYWORDS, TABLES, Tier, arrow_schema, arrow_type

SIDE_COLUMNS = {side.attribute.name: side.attribute for sides in SIDES.values() for side in sides}
# SCHEMA_VERSION, and the digest of every table's columns in it.
SCHEMA = ("3", "c931173753e8ea7e")
DICOM_COLUMNS = [column for column in (*COLUMNS.values(), *SIDE_COLUMNS.values()) if column.tag is not None]


@pytest.mark.parametrize("column", DICOM_COLUMNS, ids=lambda column: column.name)
def test_declaration_is_that_of_the_dictionary(column):
    from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

    assert column.tag == tag_for_keyword(column.name)
    assert (column.vr, column.vm) == (dictionary_VR(column.tag), dictionary_VM(column.tag))


def test_sequence_fields_are_those_of_the_dictionary():
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    for fields in SHAPES.values():
        for field in fields:
            assert [tag_for_keyword(keyword) for keyword in field.keywords] == list(field.tags)
            assert field.vr == dictionary_VR(field.tags[0])


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_table_is_documented_and_consistent(table):
    names = [column.name for column in table.columns]
    assert len({name.lower() for name in names}) == len(names), "DuckDB names ignore case"
    assert table.row_key in names
    assert set(table.sort_by) <= set(names)
    assert table.sort_by[0] == "StudyInstanceUID", "a study reads one row group of a file"
    assert table.description.endswith(".")
    for column in table.columns:
        assert column.description.endswith("."), column.name
        assert isinstance(column.tier, Tier)
        assert (column.tag is None) == (column.level == "")
        assert (column.name == column.name.lower()) == (column.tag is None) or column.name == "PatientName_parts"


def test_names_of_people_and_numbers_of_patients_are_identified():
    assert all(column.tier is Tier.IDENTIFIED for column in DICOM_COLUMNS if column.vr == "PN")
    assert COLUMNS["PatientID"].tier is COLUMNS["AccessionNumber"].tier is Tier.IDENTIFIED
    assert all(column.tier is not Tier.DEIDENTIFIED for column in DICOM_COLUMNS if column.vr in {"DA", "TM", "DT"})


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_duckdb_reads_the_arrow_types_back(table):
    import duckdb

    relation = duckdb.from_arrow(arrow_schema(table).empty_table())
    for column, kind in zip(table.columns, relation.types, strict=True):
        expected = column.duckdb_type.replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")
        assert str(kind).replace('"', "") == expected, column.name


@pytest.mark.parametrize("module", ["patient", "study", "series", "instance", "side"])
def test_a_keyword_is_one_line(module):
    path = Path(registry.__file__).with_name(f"keywords_{module}.py")
    lines = [line for line in path.read_text().splitlines() if re.match(r' +_(col|side)\("\w+", 0x', line)]
    names = [line.split('"')[1] for line in lines]
    shown = {column.name for table in TABLES.values() for column in table.columns}
    assert len(lines) > 10
    for line, name in zip(lines, names, strict=True):
        assert line.rstrip().endswith("),"), line
        assert name in shown or {f"{name}_min", f"{name}_max"} <= shown, f"{name} is in no table"


def test_every_attribute_of_a_header_comes_from_the_registry():
    assert all(isinstance(column, Column) and column.tag == tag for tag, column in HEADER_KEYWORDS.items())
    names = [column.name for column in TABLES["headers"].columns]
    assert [column.name for column in HEADER_KEYWORDS.values()] == names[: len(HEADER_KEYWORDS)]


def test_the_schema_version_rises_with_the_columns():
    columns = (
        f"{table.name}.{column.name} {column.duckdb_type}" for table in TABLES.values() for column in table.columns
    )
    digest = hashlib.sha256("\n".join(sorted(columns)).encode()).hexdigest()[:16]
    assert (registry.SCHEMA_VERSION, digest) == SCHEMA, (
        "Columns were changed: raise SCHEMA_VERSION in ahi/index/registry.py and write the new digest here."
    )


def test_unknown_type_says_what_to_do():
    with pytest.raises(ValueError, match="add it to"):
        arrow_type("HUGEINT")


def test_headers_stop_before_the_bulk():
    assert max(HEADER_KEYWORDS) < 0x00290000
    identity = {"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"}
    assert identity <= {column.name for column in HEADER_KEYWORDS.values()}


def test_import_is_light():
    code = (
        "import sys, ahi.index.registry, ahi.index.values, ahi.dicom.headers, ahi.documents;"
        "print({'pydicom', 'pyarrow', 'duckdb', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
