"""A backfill as a person launches it: partitions selected in Dagster's launch dialog, in a browser, until green.

Needs Debian's `chromium`. AHI_SCREENSHOTS names a folder for its pictures; those in the docs were made so.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.archive_fixtures import planned, small_objects
from tests.conftest import wait_for
from tests.dagster_project.archive_stack import PARTITIONS, ask_dagster, is_through, pipeline_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_MS = 60_000


@pytest.mark.drill
@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_backfill_is_launched_in_the_ui_and_turns_green(stack, monkeypatch, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    pipeline, folder = pipeline_of(stack, monkeypatch), Path(os.environ.get("AHI_SCREENSHOTS") or tmp_path)
    objects = sorted(small_objects(300, bad_every=50).items())
    keys = planned(pipeline, [dict(objects[start : start + 50]) for start in range(0, 300, 50)])

    def there() -> bool:
        return len(ask_dagster(stack, PARTITIONS)["assetNodeOrError"]["partitionKeys"]) == len(keys)

    wait_for(there, seconds=120, what="the partitions")
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{stack.ui}/assets/archive_imports?view=partitions")
        page.get_by_text(keys[0]).first.wait_for()
        page.get_by_role("button", name="Materialize").first.click()
        page.get_by_role("button", name="Missing", exact=True).click()
        expect(page.get_by_text(f"{len(keys)} partitions").first).to_be_visible(timeout=WAIT_MS)
        expect(page.get_by_text("Loading pipeline and partition sets")).to_have_count(0, timeout=WAIT_MS)
        page.screenshot(path=folder / "archive-launch.png")
        page.get_by_role("button", name="Launch backfill").click()
        wait_for(lambda: is_through(pipeline), seconds=300, what="the archive")
        page.goto(f"{stack.ui}/assets/archive_imports?view=partitions")
        page.get_by_text(keys[0]).first.click()
        expect(page.get_by_text("archive: percent").first).to_be_visible(timeout=WAIT_MS)
        page.screenshot(path=folder / "archive-partition.png")
        page.goto(f"{stack.ui}/runs?view=backfills")
        expect(page.get_by_text("Success").first).to_be_visible(timeout=WAIT_MS)
        page.screenshot(path=folder / "archive-backfill.png")
        browser.close()
