"""Dagster instances of tests. Belongs here: making one. Does not belong here: what runs on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest


@pytest.fixture(scope="session")
def dagster_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage with no run in it. Making its three databases takes a second of the disk: copied in, they are found."""
    folder = tmp_path_factory.mktemp("dagster")
    with dg.DagsterInstance.local_temp(str(folder)):
        return folder


@pytest.fixture
def instance(dagster_template: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of each test."""
    folder = shutil.copytree(dagster_template, tmp_path / "dagster")
    with dg.DagsterInstance.local_temp(str(folder)) as made:
        yield made
