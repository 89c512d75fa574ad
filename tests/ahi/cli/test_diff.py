"""`ahi diff`: counts by table, rows of one, and one sentence for what it cannot take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ahi.cli.main import app
from ahi.index.store import Head, Index
from ahi.settings import load_settings


@pytest.fixture(autouse=True)
def own_settings():
    yield
    load_settings.cache_clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home").resolve()
    index = Index(folder / "index", f"sqlite:///{folder / 'index' / 'catalog.sqlite'}")
    files = [index.write("headers", [{"object_id": "o", "PatientID": "[b]P"}], batch_id="h")]
    with index.commit(batch_id="h", kind="h", files=files):
        pass
    sets = [
        {"datastore_id": "s", "image_set_id": name, "image_set_version": 1, "StudyInstanceUID": "1"}
        | {"SeriesInstanceUID": f"1.{name}", "is_primary": name == "a", "n_instances": 1}
        for name in "ab"
    ]
    with index.commit(batch_id="d", kind="d", files=[index.write("series", sets, batch_id="d")]) as commit:
        commit.raise_heads([Head("s", name, 1, name == "a", "1", f"1.{name}", 1) for name in "ab"])
    index.publish()
    return folder


def diff(home: Path, *arguments: str):
    load_settings.cache_clear()
    return CliRunner().invoke(app, ["diff", *arguments], env={"AHI_HOME": str(home), "COLUMNS": "160"})


def test_counts_and_rows(home: Path) -> None:
    said = diff(home, "2020-01-01", "--json")
    assert json.loads(said.output) == [
        {"table_name": name, "added": 1, "changed": 0, "deleted": 0}
        for name in ("headers", "patients", "series", "studies")
    ]
    said = diff(home, "2020-01-01", "now", "--table", "headers", "--json")
    assert json.loads(said.output) == [{"change": "added", "object_id": "o", "changes": None}]
    assert "0 tables" in diff(home, "2020-01-01", "2020-01-02").output


def test_studies_and_image_sets_that_are_not_primary(home: Path) -> None:
    added = {"change": "added", "datastore_id": "s", "changes": None}
    said = diff(home, "2020-01-01", "--table", "studies", "--json")
    assert json.loads(said.output) == [added | {"StudyInstanceUID": "1"}]
    for table, sets in (("series", "a"), ("series_all", "ab")):
        found = json.loads(diff(home, "2020-01-01", "--table", table, "--json").output)
        assert [one["image_set_id"] for one in found] == list(sets), table


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("yesterday",), "moment"),
        (("2026-01-02", "2026-01-01"), "earlier"),
        (("2026-01-01", "--table", "x"), "headers"),
        (("2026-01-01", "--table", "x"), "studies, patients"),
    ],
)
def test_what_it_cannot_take_is_a_sentence(home: Path, arguments: tuple[str, ...], word: str) -> None:
    said = diff(home, *arguments)
    assert said.exit_code == 2
    assert word in said.output
