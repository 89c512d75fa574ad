"""The cookbook's answers: each question is asked of an index of the samples, and the answer is the one that is printed.

`AHI_WRITE_COOKBOOK=1 pytest tests/docs` writes the answers of the present code into the page; read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import duckdb

from ahi.index.store import Index
from tests.site_fixtures import SAMPLES, make_site

__all__ = ["make_site"]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "cookbook.md"
README = PAGE.parents[1] / "README.md"
QUESTION = re.compile(r"### (?P<title>[^\n]+)\n\n```sql\n(?P<sql>.*?)\n```\n\n(?P<answer>(?:\|[^\n]*\n)+)", re.DOTALL)


def cell(value: object) -> str:
    """A value as the page prints it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(cell(one) or "none" for one in value)
    return str(value)


def table(columns: list[str], rows: list[tuple[object, ...]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_every_answer_is_the_one_printed(make_site):
    page = PAGE.read_text()
    questions = list(QUESTION.finditer(page))
    assert len(questions) == page.count("\n### ") >= 30
    site = make_site()
    site.send(sorted(str(path.relative_to(SAMPLES)) for path in SAMPLES.rglob("*") if path.is_file()))
    assert site.drive(seconds=120).closes
    answers = {}
    for question in questions:
        answer = site.pipeline.index.query(question["sql"])
        answers[question["title"]] = table(list(answer.columns), list(answer.rows))
    if os.environ.get("AHI_WRITE_COOKBOOK"):
        for question in reversed(questions):
            page = page[: question.start("answer")] + answers[question["title"]] + page[question.end("answer") :]
        PAGE.write_text(page)
    else:
        assert {question["title"]: question["answer"] for question in questions} == answers


def test_moments_have_seconds():
    """DuckDB 1.4, which may open the index, refuses `12:00Z`."""
    short = re.compile(r"'[\d-]+ \d\d:\d\d(?!:)[^']*'")
    assert short.search("'2026-11-01 12:00Z'")
    assert [found for page in (PAGE, README) for found in short.findall(page.read_text())] == []


def test_the_examples_of_the_readme_run(tmp_path):
    (sql,) = re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    index = Index(tmp_path, f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    index.publish()
    columns, *others = [index.query(one) for one in sql.split(";") if one.strip()]
    assert [name for name, *_ in columns.rows] == list(index.query("FROM series").columns)
    assert len(others) == 3


def test_reports_are_in_the_order_of_the_document():
    """No sample has ten items side by side, where the order of text and that of numbers part."""
    (order,) = re.findall(r"FROM sr_content WHERE .*?ORDER BY ([^;]+)", PAGE.read_text(), re.DOTALL)
    paths = "(VALUES ('1.10'), ('1.2'), ('1'), ('1.1.1'), ('1.1')) AS items(item_path)"
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT item_path FROM {paths} ORDER BY {order}").fetchall()
    assert [path for (path,) in rows] == ["1", "1.1", "1.1.1", "1.2", "1.10"]


def sql_of(title: str) -> str:
    (sql,) = (found["sql"] for found in QUESTION.finditer(PAGE.read_text()) if found["title"].startswith(title))
    return str(sql)


def test_lossy_images_are_those_whose_syntax_or_flag_says_so():
    """No sample has every transfer syntax."""
    lossy = {"50", "51", "81", "100", "100.1", "102", "108"}
    told = lossy | {"57", "70", "80", "90", "91", "201", "203"}
    rows = [(one, None) for one in told] + [(one, "01") for one in ("91", "203")] + [("90", "00")]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE series (image_set_id INTEGER, Modality VARCHAR)")
        connection.execute("INSERT INTO series VALUES (1, 'CT')")
        connection.execute(
            "CREATE TABLE instances (image_set_id INTEGER, TransferSyntaxUID VARCHAR, LossyImageCompression VARCHAR)"
        )
        connection.executemany("INSERT INTO instances VALUES (1, '1.2.840.10008.1.2.4.' || ?, ?)", rows)
        found = connection.execute(sql_of("Lossy images")).fetchall()
    assert {uid.removeprefix("1.2.840.10008.1.2.4.") for _, uid, _ in found} == lossy | {"91", "203"}


def test_an_instance_is_imported_twice_in_one_series_by_two_uploads():
    columns = "state, association_prefix, shard_key, batch_id, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID"
    rows = [
        # One upload twice, two series, two uploads, one that failed, and three without an association.
        *[("imported", "a", None, "1", "1", "2", "3")] * 2,
        *[("imported", one, None, "1", "1", one, "4") for one in "ab"],
        *[("imported", one, None, "1", "1", "2", "5") for one in "ab"],
        *[(state, state, None, "1", "1", "2", "6") for state in ("imported", "failed")],
        *[("imported", None, None, one, "1", "2", "7") for one in "123"],
    ]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE objects ({columns.replace(',', ' VARCHAR,')} VARCHAR)")
        connection.executemany("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        assert connection.execute(sql_of("Which instances are imported twice")).fetchall() == [(2, 3)]


def test_studies_of_women_are_a_row_for_each_study():
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE series AS SELECT 's' AS datastore_id, '1' AS StudyInstanceUID, 'F' AS PatientSex"
        )
        connection.execute("INSERT INTO series FROM series")
        connection.execute(
            "CREATE TABLE studies AS SELECT 's' AS datastore_id, '1' AS StudyInstanceUID, "
            "DATE '2020-01-01' AS StudyDate, 24 AS patient_age_years, ['CT'] AS ModalitiesInStudy"
        )
        assert len(connection.execute(sql_of("Studies of women")).fetchall()) == 1
