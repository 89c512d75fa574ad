"""`ahi proof` passes only what it could read: copies in a folder too, and it names those in a bucket."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from ahi.index.store import Index
from tests.command_line import ahi

if TYPE_CHECKING:
    from pathlib import Path

UID = "1.2.840.99.7"
AGAIN = "run `ahi proof` again after the next upkeep"


@pytest.fixture
def home(tmp_path: Path, index_template: Path) -> Path:
    """A deployment whose index is published and empty."""
    folder = tmp_path / "home"
    (folder / "index").mkdir(parents=True)
    shutil.copy(index_template, folder / "index")
    Index(folder / "index", f"sqlite:///{folder / 'index' / 'catalog.sqlite'}").publish()
    return folder


def test_what_cannot_be_read_is_no_proof(home: Path) -> None:
    whole = ahi(home, "proof", "--no-lake", UID)
    assert (whole.returncode, whole.stdout.splitlines()[-1]) == (0, "Nothing is left.")
    database = home / "index" / "index.duckdb"
    database.write_bytes(database.read_bytes()[:5000])
    said = ahi(home, "proof", "--no-lake", UID)
    assert (said.returncode, said.stderr) == (1, "")
    assert said.stdout.splitlines()[-1] == f"Nothing was found, but 1 file could not be read: {AGAIN}."
    said = ahi(home, "proof", "--no-lake", "--json", UID)
    assert (said.returncode, AGAIN in said.stderr) == (1, True)
    assert [place["name"] for place in json.loads(said.stdout) if place["unreadable"]] == ["index.duckdb"]


def test_every_line_of_a_narrow_record_has_its_name(home: Path) -> None:
    said = ahi(home, "proof", "--no-lake", UID, env={"COLUMNS": "40"})
    assert "name: archive_corrections" in said.stdout
    assert not [line for line in said.stdout.splitlines() if line.startswith(":")]


def test_copies_in_a_folder_are_searched_and_those_in_a_bucket_named(home: Path, tmp_path: Path) -> None:
    left = tmp_path / "copies" / "limited" / "latest.json"
    left.parent.mkdir(parents=True)
    left.write_text(UID)
    said = ahi(home, "proof", "--no-lake", "--json", UID, env={"AHI_COPIES_TO": str(tmp_path / "copies")})
    assert said.returncode == 1
    assert [place["name"] for place in json.loads(said.stdout) if place["n"]] == [str(left)]
    said = ahi(home, "proof", "--no-lake", UID, env={"AHI_COPIES_TO": str(tmp_path / "none")})
    assert said.returncode == 0
    said = ahi(home, "proof", "--no-lake", UID, env={"AHI_COPIES_TO": "s3://copies/x"})
    assert said.returncode == 0
    assert "Copies in s3://copies/x are not searched: its lifecycle rule removes them." in said.stdout
