"""`ahi diff`: counts by table, rows of one, and one sentence for what it cannot take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ahi.cli.main import app
from ahi.index.store import Index
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
    index.publish()
    return folder


def diff(home: Path, *arguments: str):
    load_settings.cache_clear()
    return CliRunner().invoke(app, ["diff", *arguments], env={"AHI_HOME": str(home), "COLUMNS": "160"})


def test_counts_and_rows(home: Path) -> None:
    said = diff(home, "2020-01-01", "--json")
    assert json.loads(said.output) == [{"table_name": "headers", "added": 1, "changed": 0, "deleted": 0}]
    said = diff(home, "2020-01-01", "now", "--table", "headers", "--json")
    assert json.loads(said.output) == [{"change": "added", "object_id": "o", "changes": None}]
    assert "0 tables" in diff(home, "2020-01-01", "2020-01-02").output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("yesterday",), "moment"),
        (("2026-01-02", "2026-01-01"), "earlier"),
        (("2026-01-01", "--table", "x"), "headers"),
    ],
)
def test_what_it_cannot_take_is_a_sentence(home: Path, arguments: tuple[str, ...], word: str) -> None:
    said = diff(home, *arguments)
    assert said.exit_code == 2
    assert word in said.output
