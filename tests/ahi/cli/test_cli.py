"""The command line against an index on disk and the embedded AWS: what a person types and reads."""

import csv
import io
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ahi.cli.main import app
from ahi.cli.send import find
from ahi.cli.wait import LISTING_SECONDS, Watch
from ahi.clock import now
from ahi.index import catalog
from ahi.index.store import Index
from ahi.settings import Settings
from tests.command_line import ahi
from tests.conftest import AwsStack


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, index_template: Path) -> Path:
    """A deployment whose index is published and empty."""
    folder = tmp_path_factory.mktemp("home").resolve()
    (folder / "index").mkdir()
    shutil.copy(index_template, folder / "index")
    Index(folder / "index", f"sqlite:///{folder / 'index' / 'catalog.sqlite'}").publish()
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "send",
        "status",
        "wait",
        "query",
        "failures",
        "schema",
        "reindex",
        "export",
        "diff",
        "proof",
        "archive add",
        "archive list",
        "archive plan",
    ],
)
def test_help_teaches_by_example(command: str) -> None:
    said = CliRunner().invoke(app, [*command.split(), "--help"])
    assert said.exit_code == 0
    assert "Example" in said.output


@pytest.mark.parametrize(
    "arguments", [("send", "."), ("wait",), ("status",), ("failures",), ("query", "SELECT 1"), ("reindex",)]
)
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


def strictly(text: str) -> Any:
    """JSON as strict readers take it, which know no NaN and no Infinity."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_json_has_every_column_and_strict_readers_take_it(home: Path) -> None:
    sql = "SELECT 1 AS x, 2 AS x, 'nan'::DOUBLE AS n, ['inf'::DOUBLE, 1.5] AS list, {'a': '-inf'::FLOAT} AS struct, "
    sql += "MAP {DATE '2024-02-29': 'nan'::DOUBLE} AS map"
    (answer,) = strictly(ahi(home, "query", sql, "--json").stdout)
    assert list(answer.items()) == [
        *(("x", 1), ("x_1", 2), ("n", "NaN"), ("list", ["Infinity", 1.5])),
        *(("struct", {"a": "-Infinity"}), ("map", {"2024-02-29": "NaN"})),
    ]
    (row,) = csv.DictReader(io.StringIO(ahi(home, "query", sql, "--csv").stdout))
    assert strictly(row["list"]) == ["Infinity", 1.5]


@pytest.mark.parametrize("command", [("query", "SELECT 1"), ("diff", "2020-01-01"), ("failures",)])
def test_two_forms_of_one_answer_are_refused(home: Path, command: tuple[str, ...]) -> None:
    said = ahi(home, *command, "--csv", "--json")
    assert (said.returncode, said.stdout) == (2, "")
    assert "choose one" in said.stderr


def test_a_table_of_a_higher_tier_is_named_so(home: Path) -> None:
    said = ahi(home, "schema", "conflicts", "--tier", "limited")
    assert (said.returncode, said.stderr) == (2, "ahi: conflicts is in the identified tier only.\n")
    assert "There is no table conflict." in ahi(home, "schema", "conflict").stderr


def test_markup_in_a_value_is_shown_as_it_is(home: Path) -> None:
    assert "[red]x" in ahi(home, "query", "SELECT '[red]x' AS v").stdout


def test_sending_to_a_bucket_that_is_not_there(home: Path, aws_stack: AwsStack) -> None:
    said = ahi(home, "send", __file__, env=aws_stack.env | {"AHI_LANDING_BUCKET": "not-there"})
    assert said.returncode == 2
    assert "The landing bucket not-there does not exist" in said.stderr


def test_copying_to_a_bucket_that_is_not_there(home: Path, aws_stack: AwsStack) -> None:
    said = ahi(home, "export", "s3://not-there/copy", env=aws_stack.env)
    assert (said.returncode, said.stdout) == (2, "")
    assert "The bucket not-there does not exist at this endpoint" in said.stderr


def test_what_was_sent_is_open_until_the_pipeline_has_taken_it(home: Path, aws_stack: AwsStack, tmp_path: Path) -> None:
    aws_stack.reset()
    (tmp_path / "DOE^JOHN.dcm").write_bytes(b"no DICOM")
    sent = json.loads(ahi(home, "send", str(tmp_path), "--json", env=aws_stack.env).stdout)
    assert (sent["sent"], sent["bytes"], sent["skipped"]) == (1, 8, [])
    (key,) = [entry["Key"] for entry in aws_stack.client("s3").list_objects_v2(Bucket=sent["bucket"])["Contents"]
              if sent["upload_id"] in entry["Key"]]  # fmt: skip
    assert "DOE" not in key
    assert "DOE" in (home / "uploads" / f"{sent['upload_id']}.csv").read_text()
    waited = ahi(home, "wait", "--timeout", "0", env=aws_stack.env)
    assert waited.returncode == 1
    assert "1 message on the queue of uploads" in waited.stdout
    assert (home / "uploads" / f"{sent['upload_id']}.csv").stat().st_mode & 0o777 == 0o600
    # A lost event: the bucket itself still says that something is open.
    aws_stack.drain("UPLOAD")
    waited = ahi(home, "wait", "--timeout", "0", "--json", env=aws_stack.env)
    assert waited.returncode == 1
    assert "no event has announced" in json.loads(waited.stdout)["open"][0]


def test_status_of_an_empty_ledger_closes(home: Path) -> None:
    status = json.loads(ahi(home, "status", "--json").stdout)
    assert status["closure"]["closes"]
    assert status["closure"]["landed"] == 0
    assert status["freshness_seconds"] == []
    assert status["pending_batches"] == []


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


def test_a_running_stack_wins_over_the_shell(aws_stack: AwsStack, tmp_path: Path) -> None:
    """Profile, region and endpoints of the caller belong to another account than the stack of this home."""
    home = tmp_path / "home"
    Index(home / "index", f"sqlite:///{home / 'index' / 'catalog.sqlite'}").publish()
    (home / "stack.env").write_text("".join(f"{name}={value}\n" for name, value in aws_stack.env.items()))
    of_a_hospital = {
        "AWS_PROFILE": "hospital", "AWS_DEFAULT_REGION": "eu-north-1", "AWS_REGION": "eu-north-1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_SESSION_TOKEN": "x", "AHI_LANDING_BUCKET": "hospital-landing",
    }  # fmt: skip
    said = ahi(home, "send", __file__, env=of_a_hospital)
    assert said.returncode == 0, said.stderr
    assert "Sent 1 file," in said.stdout


@pytest.fixture
def pending(tmp_path: Path, index_template: Path) -> tuple[Path, Index]:
    """A deployment with one batch that no run has consumed."""
    (tmp_path / "index").mkdir()
    shutil.copy(index_template, tmp_path / "index")
    index = Index(tmp_path / "index", f"sqlite:///{tmp_path / 'index' / 'catalog.sqlite'}")
    batch = {"batch_id": "b" * 32, "queue": "uploads", "day": "2024-01-01", "object_key": "inbox/b", "n_messages": 1}
    with index.transaction() as connection:
        connection.execute(catalog.batches.insert().values(**batch, received_at=now(), requests=3))
    index.publish()
    return tmp_path, index


def test_pending_batches_say_where_to_look(pending: tuple[Path, Index], aws_stack: AwsStack) -> None:
    home, _ = pending
    aws_stack.reset()
    waited = ahi(home, "wait", "--timeout", "0", env=aws_stack.env)
    assert waited.returncode == 1
    assert "1 inbox batch of uploads not consumed" in waited.stdout
    assert "asked for 3 times" in waited.stdout
    assert f"ahi/batch={'b' * 32}" in waited.stdout
    (shown,) = json.loads(ahi(home, "status", "--json").stdout)["pending_batches"]
    assert (shown["queue"], shown["requests"]) == ("uploads", 3)
    assert "1 batch pending" in ahi(home, "status").stdout


def test_waiting_lists_the_bucket_seldom_and_last(pending: tuple[Path, Index], make_aws_stack) -> None:
    home, index = pending
    stack = make_aws_stack()
    stack.client("s3").put_object(Bucket=stack.env["AHI_LANDING_BUCKET"], Key="lost", Body=b"1")
    stack.wait_for(lambda: stack.drain("UPLOAD"), what="the event, which is then lost")
    stack.reset()  # the events of its data stores, made a moment ago
    settings = Settings(home=home, **{n[4:].lower(): v for n, v in stack.env.items() if n.startswith("AHI_")})
    clients = SimpleNamespace(s3=stack.client("s3"), sqs=stack.client("sqs"))
    watch = Watch(settings, clients, index)
    assert "inbox batch" in watch.look()[0]
    assert stack.calls("ListObjectsV2") == []
    with index.transaction() as connection:
        connection.execute(catalog.batches.update().values(consumed_at=now()))
    began = time.monotonic()
    for _ in range(5):
        assert watch.look() == ["1 object in the landing bucket that no event has announced"]
    listings = len(stack.calls("ListObjectsV2"))
    assert listings == 1 or time.monotonic() - began > LISTING_SECONDS


def test_sending_nothing_is_a_sentence_and_leaves_nothing(aws_stack: AwsStack, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    home = tmp_path / "home"
    said = ahi(home, "send", str(tmp_path / "gone"), env=aws_stack.env)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == f"ahi: {tmp_path / 'gone'} does not exist\n"
    said = ahi(home, "send", str(tmp_path / "empty"), env=aws_stack.env)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("ahi: nothing to send")
    assert json.loads(ahi(home, "send", str(tmp_path / "gone"), "--json", env=aws_stack.env).stdout)["sent"] == 0
    assert not home.exists()


def test_a_row_wider_than_the_terminal_is_a_block_of_lines(home: Path) -> None:
    columns = ", ".join(f"'value_{n}' AS column_{n}" for n in range(100))
    said = ahi(home, "query", f"SELECT {columns}, NULL AS nothing, 'a b' AS words").stdout
    assert "-[ 1 ]-" in said
    assert "column_99: value_99\n" in said
    assert "nothing: NULL\n" in said
    assert "1 row\n" in said
    assert "column_99: value_99\n" in ahi(home, "query", f"SELECT {columns} FROM range(3)").stdout


def test_an_empty_answer_shows_its_columns(home: Path) -> None:
    said = ahi(home, "query", "SELECT * FROM series").stdout
    assert "0 rows" in said


def test_words_are_not_broken(home: Path) -> None:
    uid, prose = "1.2.840." + "9" * 50, "some words that do not fit " * 8
    said = ahi(home, "query", f"SELECT '{uid}' AS uid, '{prose}' AS prose", env={"COLUMNS": "100"}).stdout
    assert uid in said
    assert "-[" not in said
    assert all(len(line) <= 100 for line in said.splitlines())


def test_a_value_gives_the_terminal_no_commands(home: Path) -> None:
    said = ahi(home, "query", "SELECT chr(27) || '[2J' AS v").stdout
    assert "\x1b" not in said
    assert r"\x1b[2J" in said


def test_failures_keep_objects_and_messages_apart(pending: tuple[Path, Index]) -> None:
    home, index = pending
    key = "sender/" + "x" * 60 + "/1.dcm"
    row = {"object_id": "o", "bucket": "landing", "key": key, "version_id": "1", "etag": "e", "size_bytes": 1,
           "state": "failed", "state_since": now(), "reason_code": "NOT_DICOM", "reason_text": "no DICOM",
           "landed_at": now(), "received_at": now(), "day": "2024-01-01", "batch_id": "b"}  # fmt: skip
    item = {"item_id": "i", "source": "uploads", "reason_code": "MESSAGE_NOT_JSON", "reason_text": "no JSON",
            "evidence": "inbox/b#1", "first_seen": now()}  # fmt: skip
    with index.transaction() as connection:
        connection.execute(catalog.objects.insert().values({k: v for k, v in row.items() if k in catalog.objects.c}))
        connection.execute(catalog.quarantine.insert().values(item))
    for width in ("60", "160"):
        said = ahi(home, "failures", env={"COLUMNS": width}).stdout
        assert said.index("Objects that failed") < said.index(key) < said.index("could not be used")
        assert said.index("could not be used") < said.index("inbox/b#1")


def test_schema_lists_the_tables_describes_one_and_says_which_there_are(tmp_path):
    listed = json.loads(ahi(tmp_path, "schema", "--json").stdout)
    assert {"patients", "series", "objects"} <= {page["name"] for page in listed}
    assert "(0008,0060) CS 1" in ahi(tmp_path, "schema", "series").stdout
    unknown = ahi(tmp_path, "schema", "no_such_table")
    assert (unknown.returncode, "There are: archive_looks, " in unknown.stderr) == (2, True)
