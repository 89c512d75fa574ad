"""The pictures of a plan in the docs are those that the asset shows, of the plan that the estimate's test reckons.

With AHI_WRITE_COOKBOOK=1 they are drawn again.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ahi.archive.estimate import estimate
from ahi.index.store import Index
from ahi.settings import Settings
from ahi_assets.archive_estimate import shown
from tests.ahi.archive.test_estimate import PLAN

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["time", "cost"])
def test_the_picture_is_the_assets_own(tmp_path, name: str) -> None:
    pipeline = SimpleNamespace(settings=Settings(), index=Index(tmp_path, f"sqlite:///{tmp_path / 'catalog.sqlite'}"))
    picture = shown(PLAN, estimate(pipeline, PLAN))[f"old: {name} as a picture"]
    drawn = base64.b64decode(picture.md_str.partition("base64,")[2].removesuffix(")")).decode()
    path = DOCS / f"archive-plan-{name}.svg"
    if os.environ.get("AHI_WRITE_COOKBOOK"):
        path.write_text(drawn)
    assert path.read_text() == drawn
