"""The command line against an index on disk and the embedded AWS: what a person types and reads."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ahi.cli.freshness import HOPS, percentile
from ahi.cli.main import app
from ahi.cli.send import find
from ahi.index import catalog
from ahi.index.store import Index
from tests.conftest import AwsStack


def ahi(
    home: Path, *arguments: str, env: dict[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AHI_", "AWS_"))}
    return subprocess.run(
        [sys.executable, "-m", "ahi.cli.main", *arguments],
        env=own | {"AHI_HOME": str(home), "COLUMNS": "160"} | (env or {}),
        capture_output=True, text=True, check=False, input=stdin, timeout=60,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment whose index is published and empty."""
    folder = tmp_path_factory.mktemp("home").resolve()
    Index(folder / "index", f"sqlite:///{folder / 'index' / 'catalog.sqlite'}").publish()
    return folder


@pytest.mark.parametrize("command", ["send", "status", "wait", "query", "failures"])
def test_help_teaches_by_example(command: str) -> None:
    said = CliRunner().invoke(app, [command, "--help"])
    assert said.exit_code == 0
    assert "Example" in said.output


@pytest.mark.parametrize("arguments", [("send", "."), ("wait",), ("status",), ("failures",), ("query", "SELECT 1")])
def test_without_a_stack_it_says_so_and_makes_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    said = ahi(tmp_path / "none", *arguments)
    assert said.returncode == 2
    assert "make up" in said.stderr
    assert len(said.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_a_stack_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    gone = {"AHI_LANDING_BUCKET": "landing", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "123456789012", "AWS_SECRET_ACCESS_KEY": "x", "AWS_MAX_ATTEMPTS": "1"}
    said = ahi(tmp_path, "send", __file__, env=gone | keys)
    assert said.returncode == 2
    assert "Nothing answers at http://127.0.0.1:9" in said.stderr


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    said = ahi(tmp_path, "status", env={"AHI_MAX_FILES_PER_JOB": "many"})
    assert said.returncode == 2
    assert "AHI_MAX_FILES_PER_JOB" in said.stderr


@pytest.mark.parametrize("sql", ["SELEC 1", "DROP VIEW series"])
def test_broken_sql_is_a_sentence(home: Path, sql: str) -> None:
    said = ahi(home, "query", sql)
    assert said.returncode == 2
    assert said.stderr.startswith("ahi: ")
    assert "Traceback" not in said.stderr


def test_answers_as_table_json_and_csv(home: Path) -> None:
    sql = "SELECT 1 AS n, ['a', 'b'] AS list, DATE '2024-02-29' AS day, NULL AS nothing"
    assert "2024-02-29" in ahi(home, "query", sql).stdout
    assert json.loads(ahi(home, "query", sql, "--json").stdout) == [
        {"n": 1, "list": ["a", "b"], "day": "2024-02-29", "nothing": None}
    ]
    rows = list(csv.DictReader(io.StringIO(ahi(home, "query", "-", "--csv", stdin=sql).stdout)))
    assert rows == [{"n": "1", "list": '["a", "b"]', "day": "2024-02-29", "nothing": ""}]


def test_markup_in_a_value_is_shown_as_it_is(home: Path) -> None:
    assert "[red]x" in ahi(home, "query", "SELECT '[red]x' AS v").stdout


def test_sending_to_a_bucket_that_is_not_there(home: Path, aws_stack: AwsStack) -> None:
    said = ahi(home, "send", __file__, env=aws_stack.env | {"AHI_LANDING_BUCKET": "not-there"})
    assert said.returncode == 2
    assert "The landing bucket not-there does not exist" in said.stderr


def test_what_was_sent_is_open_until_the_pipeline_has_taken_it(home: Path, aws_stack: AwsStack, tmp_path: Path) -> None:
    (tmp_path / "DOE^JOHN.dcm").write_bytes(b"no DICOM")
    sent = json.loads(ahi(home, "send", str(tmp_path), "--json", env=aws_stack.env).stdout)
    assert (sent["sent"], sent["bytes"], sent["skipped"]) == (1, 8, [])
    (key,) = [entry["Key"] for entry in aws_stack.client("s3").list_objects_v2(Bucket=sent["bucket"])["Contents"]
              if sent["upload_id"] in entry["Key"]]  # fmt: skip
    assert "DOE" not in key
    assert "DOE" in (home / "uploads" / f"{sent['upload_id']}.csv").read_text()
    waited = ahi(home, "wait", "--timeout", "0", env=aws_stack.env)
    assert waited.returncode == 1
    assert "messages on the queue of uploads" in waited.stdout
    # A lost event: the bucket itself still says that something is open.
    aws_stack.drain("UPLOAD")
    waited = ahi(home, "wait", "--timeout", "0", "--json", env=aws_stack.env)
    assert waited.returncode == 1
    assert "no event has announced" in json.loads(waited.stdout)["open"][0]


def test_status_of_an_empty_ledger_closes(home: Path) -> None:
    status = json.loads(ahi(home, "status", "--json").stdout)
    assert status["closure"]["closes"]
    assert status["closure"]["landed"] == 0
    assert len(status["freshness_seconds"]) == len(HOPS)


def test_failures_of_an_empty_ledger(home: Path) -> None:
    assert ahi(home, "failures").stdout == "Nothing has failed.\n"
    assert ahi(home, "failures", "--csv").stdout.startswith("what,code,reason,advice,where,file,since")


def test_finding_files_leaves_nothing_unsaid(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "empty").mkdir()
    (tmp_path / "a" / "1.dcm").write_bytes(b"123")
    (tmp_path / "a" / ".hidden").write_bytes(b"")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "1.dcm")
    os.mkfifo(tmp_path / "a" / "pipe")
    found = find([tmp_path / "a", tmp_path / "a" / "1.dcm", tmp_path / "gone"])
    assert [(path.name, size) for path, size in found.files] == [(".hidden", 0), ("1.dcm", 3)]
    assert {item.path.name: item.is_error for item in found.skipped} == {
        "empty": False, "link": False, "pipe": True, "1.dcm": False, "gone": True,
    }  # fmt: skip


def test_a_link_that_is_named_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert [path.name for path, _ in find([tmp_path / "link"]).files] == ["link"]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_a_value_with_its_share_below(values: list[float], share: float) -> None:
    ordered = sorted(values)
    at = percentile(ordered, share)
    assert at in ordered
    assert sum(value <= at for value in ordered) >= share * len(ordered)


def test_a_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 0.5) is None


def test_hops_name_columns_of_the_ledger() -> None:
    assert {name for _, start, end in HOPS for name in (start, end)} <= set(catalog.objects.c.keys())
