"""`ahi fhir ...` as a person types it, in this process, between the steps that runs make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ahi.cli.main import app
from ahi.index.catalog_fhir import fhir_files
from ahi.settings import load_settings
from tests.ahi.healthlake.conftest import Chain, lines, patient, shared, shared_deployment

__all__ = ["shared", "shared_deployment"]
BAD = b'{"resourceType": "Patient", "id": "p1", "gender": "Secret^Name"}'
BASIC = b'{"resourceType": "Basic", "id": "b1", "code": {"text": "x"}}'
"""Valid R4, of a type that HealthLake does not take."""


@pytest.fixture(autouse=True)
def _settings_of_now() -> None:
    load_settings.cache_clear()


def ahi(*words: str, code: int = 0) -> str:
    """What a command says; values of resources and names of senders' files are never in it."""
    done = CliRunner().invoke(app, ["fhir", *words], env={"COLUMNS": "200"})
    assert done.exit_code == code, (done.output, done.exception)
    assert "Secret" not in done.output
    return done.output


def said(*words: str) -> Any:
    return json.loads(ahi(*words, "--json"))


def status(import_id: str) -> dict[str, Any]:
    return next(one for one in said("status")["imports"] if one["import_id"] == import_id)


def order(chain: Chain, import_id: str) -> list[str]:
    """Batches of an import as HealthLake got them."""
    return [name.rsplit("-", 2)[0] for name in chain.starts() if name.startswith(import_id)]


def test_files_of_this_machine_go_in_and_what_failed_is_corrected(shared, tmp_path: Path):
    folder = tmp_path / "Secret^Name"
    folder.mkdir()
    (folder / "a.ndjson").write_bytes(lines(patient("p0"), BAD, BASIC))
    (folder / "b.ndjson").write_bytes(lines(patient("p2")))
    planned = said("import", str(folder), "--files-per-batch", "1")
    chain, (first, second) = planned["import_id"], planned["batch_ids"]
    assert (planned["n_files"], planned["n_known"]) == (2, 0)
    keys = shared.rows(sa.select(fhir_files.c.key).where(fhir_files.c.import_id == chain))
    assert len(keys) == 2
    assert "Secret" not in str(keys)
    shared.drive()
    found = status(chain)
    assert (found["settled"], found["imported"], found["open_failures"]) == (1, 1, 2)
    assert f"{chain} is stopped: 2 of 3 resources of a batch failed." in ahi("status")
    assert "Nothing is late." in ahi("late")
    assert f"Stopped: {chain}." in ahi("wait", "--timeout", "5", code=1)
    shown = {one["batch_id"]: one for one in said("batches", chain)}
    assert list(shown) == [first, second]
    assert (shown[first]["state"], shown[first]["refused"], shown[first]["errors"]) == ("settled", 1, 1)
    assert [one["batch_id"] for one in said("batches", "--open")] == [second]
    assert "frozen, planned" in ahi("batches", second)
    assert first in ahi("failures")
    other = said("import", f"s3://{shared.bucket}/{shared.put_each(lines(patient('p9')))}")["import_id"]
    shared.drive()
    ahi("wait", other)
    assert {(group["stage"], group["n_lines"]) for group in said("failures", "--batch", first)} == {
        ("validation", 1),
        ("import", 1),
    }
    assert "gender" in ahi("failures")
    assert [group["resource_type"] for group in said("warnings", "--batch", first)] == ["Basic"]
    assert "HealthLake does not list" in ahi("warnings")
    assert "No warning." in ahi("warnings", "--batch", second)
    exported = tmp_path / "failed.ndjson"
    assert ahi("failures", "--batch", first, "--export", str(exported)).startswith("2 lines in ")
    assert exported.read_bytes() == lines(BAD, BASIC)
    ahi("resubmit", first, code=2)
    assert "No failed line of this batch is open" in ahi("resubmit", second, str(exported), code=2)
    exported.write_bytes(lines(patient("p1", gender="other"), patient("b1")))
    new = ahi("resubmit", first, str(exported)).removeprefix("Planned as ").rstrip(".\n")
    ahi("continue", chain)
    shared.drive()
    assert status(chain)["open_failures"] == 0
    assert order(shared, chain) == [first, new, second]
    assert "From the end of a job to the start of the next" in ahi("status")
    ahi("wait")


def test_a_chain_is_steered_by_hand(shared):
    prefix = shared.put_each(*(lines(patient(f"p{number}")) for number in range(4)), b"")
    source = f"s3://{shared.bucket}/{prefix}"
    words = ("--policy", "ratio", "--ratio", "0.2", "--no-ordered", "--files-per-batch", "1")
    planned = said("import", source, *words)
    chain, (one, two, three, four) = planned["import_id"], planned["batch_ids"]
    assert planned["n_skipped"] == 1
    assert status(chain)["policy"] == "stop_if_ratio"
    assert "4 files planned before, 1 object left out: not .ndjson, or empty." in ahi("import", source)
    ahi("stop", chain)
    shared.drive()
    assert (order(shared, chain), status(chain)["stopped_reason"]) == ([], "stopped by hand")
    assert ahi("hold", chain) == "4 batches held.\n"
    assert status(chain)["held"] == 4
    assert ahi("release", chain) == "4 batches released.\n"
    assert ahi("hold", one) == "1 batch held.\n"
    ahi("move", four, "--before", two)
    assert ahi("priority", four, "-1") == "1 batch changed.\n"
    assert ahi("priority", four, "0") == "1 batch changed.\n"
    assert ahi("priority", three, "5") == "1 batch changed.\n"
    ahi("continue", chain)
    shared.drive()
    assert order(shared, chain) == [three, four, two]
    assert "cannot be held" in ahi("hold", two, code=2)
    assert "does not wait any more" in ahi("move", one, "--before", two, code=2)
    ahi("release", one)
    shared.drive()
    assert order(shared, chain) == [three, four, two, one]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("import", "/nowhere"), "holds no .ndjson file"),
        (("import", "s3://"), "an address such as s3://bucket/history/"),
        (("import", "s3://bucket/", "--policy", "never"), "--policy is one of stop, continue, ratio"),
        (("hold", "nothing"), "There is no batch and no import nothing"),
        (("move", "nothing", "--before", "nothing"), "There is no batch nothing"),
        (("again", "nothing"), "There is no batch nothing"),
        (("batches", "nothing"), "There is no batch and no import nothing"),
        (("wait", "nothing"), "There is no import nothing"),
        (("failures", "--batch", "nothing"), "There is no batch nothing"),
        (("import", "s3://nobody-has-this-bucket/"), "There is no bucket nobody-has-this-bucket"),
        (("priority", "nothing", "1"), "There is no batch and no import nothing"),
        (("stop", "nothing"), "There is no import nothing"),
        (("continue", "nothing"), "There is no import nothing"),
        (("resubmit", "nothing", "--server-errors"), "There is no batch nothing"),
        (("failures", "--export", "there"), "--export needs --batch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_sentence(shared, words, why):
    assert why in ahi(*words, code=2)
