"""Switches of what is undocumented, away from their defaults; those of one part alone are tested with it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from local_aws.healthimaging.tokens import check_token
from local_aws.protocol.errors import ServiceError
from local_aws.settings import CHOICES, LocalSettings, SettingsError, load
from tests.conftest import wait_for
from tests.local_aws.conftest import Imaging, make_object

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "".join((DOCS / name).read_text() for name in ("emulator.md", "emulator-healthlake.md"))


def test_every_switch_stands_in_the_page():
    named = {f.name: f"--{f.name}" if f.name in {"home", "port"} else f.name.upper() for f in fields(LocalSettings)}
    assert [name for name, word in named.items() if word not in PAGE] == []


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("FAULTS", "[{]", "JSON list of faults"),
        ("FAULTS", '[{"kind": "x"}]', "Unknown kind of fault"),
        ("WORKERS", "many", "LOCAL_AWS_WORKERS is a whole number from 1 to 64, not 'many'"),
        ("WORKERS", "0", "from 1 to 64, not '0'"),
        ("PAGE_SIZE", "0", "LOCAL_AWS_PAGE_SIZE is a whole number from 1 to 50, not '0'"),
        ("PAGE_SIZE", "51", "from 1 to 50"),
        ("MAX_CONCURRENT_JOBS", "0", "from 1 to"),
        ("MAX_FILES_PER_JOB", "-1", "a whole number from 0 to"),
        ("IMPORT_SECONDS", "nan", "a number from 0 to"),
        ("IMPORT_SECONDS", "1e300", "a number from 0 to"),
        ("COPY_FIRST_VERSION", "3", "one of 1, 2, not '3'"),
        ("DICOMWEB_EMPTY_STATUS", "404", "one of 200, 204"),
        ("RATE_LIMITS", "maybe", "LOCAL_AWS_RATE_LIMITS is on or off"),
        ("EVENT_ID_KEY", "id", "one of imageSetId, imagesetId"),
        ("ACCOUNT", "me", "LOCAL_AWS_ACCOUNT is 12 digits"),
        ("REGION", "everywhere", "LOCAL_AWS_REGION is a region, such as us-east-1"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG"),
        ("IMPORT_SECOND", "5", "There is no LOCAL_AWS_IMPORT_SECOND; the nearest is LOCAL_AWS_IMPORT_SECONDS"),
        ("PORT", "5", "There is no LOCAL_AWS_PORT: say --port"),
    ],
)
def test_a_wrong_setting_is_one_clear_sentence(monkeypatch, tmp_path, variable, value, text):
    monkeypatch.setenv(f"LOCAL_AWS_{variable}", value)
    with pytest.raises(SettingsError) as error:
        load(tmp_path, 0)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_the_environment_of_a_running_server_is_no_obstacle(aws_stack, monkeypatch, tmp_path):
    for name, value in aws_stack.env.items():
        monkeypatch.setenv(name, value)
    assert load(tmp_path, 0) == LocalSettings(home=tmp_path, port=0)


def test_every_choice_is_one_of_a_setting():
    defaults = {f.name: f.default for f in fields(LocalSettings)}
    assert [name for name, values in CHOICES.items() if defaults[name] not in values] == []


def test_switches(make_aws_stack):
    stack = make_aws_stack(
        LOCAL_AWS_TOKEN_SECONDS="3600",
        LOCAL_AWS_IDEMPOTENCY_MISMATCH="first",
        LOCAL_AWS_PAGE_SIZE="1",
        LOCAL_AWS_JOB_EVENT_FIRST="on",
        LOCAL_AWS_IMPORT_WORKFLOW="imported",
        LOCAL_AWS_SUCCESS_VERSIONS="on",
        LOCAL_AWS_UNDOCUMENTED_RATE="1",
        LOCAL_AWS_PRIMARY_VARIANT="largest",
    )
    imaging = Imaging(stack)
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    variants = {
        name: make_object(**uids, PatientID=patient) for name, patient in (("a", "P1"), ("b", "P2"), ("c", "P2"))
    }
    lines = imaging.run(variants).success
    assert {(line["inputFile"][-1], line["importResponse"]["isPrimary"]) for line in lines} == {
        ("a", False),
        ("b", True),
        ("c", True),
    }
    imaging.datastore = imaging.api.create_datastore(datastoreName="switches")["datastoreId"]
    sqs, events = stack.client("sqs"), stack.client("events")
    url = sqs.create_queue(QueueName="all")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all", EventPattern=json.dumps({"source": ["aws.medical-imaging"]}))
    events.put_targets(Rule="all", Targets=[{"Id": "1", "Arn": arn}])

    uri = imaging.put({"a.dcm": make_object(), "b.dcm": make_object()})
    job = imaging.start(uri, clientToken="one")["jobId"]
    outcome = imaging.outcome(job)
    assert [line["importResponse"]["imageSetVersion"] for line in outcome.success] == [1, 1]
    got: list[str] = []

    def arrived() -> bool:
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        got.extend(json.loads(m["Body"])["detail-type"] for m in found)
        return len(got) == 5

    wait_for(arrived, what="five events")
    assert got.index("Import Job Completed") < got.index("Image Set Created")
    page = imaging.api.search_image_sets(datastoreId=imaging.datastore)
    [item] = page["imageSetsMetadataSummaries"]
    assert page["nextToken"]
    assert imaging.get(item["imageSetId"])["imageSetWorkflowStatus"] == "IMPORTED"

    assert imaging.start(uri, clientToken="one", jobName="other")["jobId"] == job
    stores = [imaging.api.create_datastore(datastoreName=n, clientToken="two")["datastoreId"] for n in "ab"]
    stack.control("POST", "clock", {"advance": 3600})
    assert imaging.start(uri, clientToken="one", jobName="other")["jobId"] != job
    assert imaging.api.create_datastore(datastoreName="a", clientToken="two")["datastoreId"] != stores[0] == stores[1]

    stack.control("POST", "rate-limits", {"enabled": True})
    statuses = [searched(stack, imaging.datastore) for _ in range(4)]
    assert statuses[:2] == [200, 200]
    assert 429 in statuses


def searched(stack, datastore: str) -> int:
    """Status of a search for studies."""
    try:
        with urllib.request.urlopen(
            f"{stack.env['AWS_ENDPOINT_URL']}/datastore/{datastore}/studies", timeout=10
        ) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)


@pytest.mark.parametrize("way", ["conflict", "validation"])
def test_a_token_with_other_parameters(way):
    with pytest.raises(ServiceError) as error:
        check_token(LocalSettings(home=Path(), idempotency_mismatch=way))
    assert error.value.code.lower().startswith(way)
