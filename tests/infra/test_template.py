"""The CloudFormation template: valid for AWS, complete for the pipeline, applied to the embedded stack."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

TEMPLATE = REPOSITORY / "infra" / "template.yaml"
QUEUES = {"UPLOAD": "Upload", "IMPORT": "Import", "IMAGE_SET": "ImageSet", "HEALTHLAKE": "HealthLake"}


class _Loader(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions."""


def _function(loader: yaml.Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return {suffix: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {suffix: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text(), _Loader)
    return loaded


def test_cfn_lint_is_clean():
    lint = [str(Path(sys.executable).with_name("cfn-lint")), str(TEMPLATE)]
    ended = subprocess.run(lint, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def of_type(template: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: r["Properties"] for name, r in template["Resources"].items() if r["Type"] == kind}


def test_every_bucket_is_private_encrypted_and_tls_only(template):
    buckets = of_type(template, "AWS::S3::Bucket")
    assert set(buckets) == {"LandingBucket", "LakeBucket", "StagingBucket"}
    for properties in buckets.values():
        assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
        rule = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    policies = of_type(template, "AWS::S3::BucketPolicy")
    assert {p["Bucket"]["Ref"] for p in policies.values()} == set(buckets)
    for policy in policies.values():
        assert policy["PolicyDocument"]["Statement"][0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_staged_copies_expire(template):
    rules = template["Resources"]["StagingBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert any(rule.get("ExpirationInDays") == {"Ref": "StagingDays"} for rule in rules)


def test_data_survives_the_deletion_of_the_stack(template):
    for name in ("LandingBucket", "LakeBucket", "StagingBucket", "Key", "DataStore"):
        assert template["Resources"][name]["DeletionPolicy"] == "Retain"


def test_senders_to_queues_are_bound_to_their_source(template):
    for policy in of_type(template, "AWS::SQS::QueuePolicy").values():
        for statement in policy["PolicyDocument"]["Statement"]:
            assert "aws:SourceArn" in json.dumps(statement["Condition"])


def test_outputs_name_settings_of_the_pipeline(template):
    settings = (REPOSITORY / "ahi" / "settings.py").read_text()
    for output in template["Outputs"].values():
        name = output["Description"]
        if name.startswith("AHI_"):
            assert f"    {name.removeprefix('AHI_').lower()}:" in settings


# What each call of the SDK needs, by the service authorization reference. The calls of the pipeline's clients are found
# in the source, so a new one fails here before it fails in an account.
S3_WRITE = {"s3:PutObject", "s3:AbortMultipartUpload", "kms:GenerateDataKey", "kms:Decrypt"}
NEEDS = {
    "s3.copy": {"s3:GetObject", "s3:GetObjectVersion"} | S3_WRITE,
    "s3.copy_object": {"s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "kms:GenerateDataKey", "kms:Decrypt"},
    "s3.delete_object": {"s3:DeleteObject", "s3:DeleteObjectVersion"},
    "s3.get_object": {"s3:GetObject", "s3:GetObjectVersion", "kms:Decrypt"},
    "s3.head_bucket": {"s3:ListBucket"},
    "s3.head_object": {"s3:GetObject", "s3:GetObjectVersion", "kms:Decrypt"},
    "s3.list_object_versions": {"s3:ListBucketVersions"},
    "s3.list_objects_v2": {"s3:ListBucket"},
    "s3.put_object": {"s3:PutObject", "kms:GenerateDataKey"},
    "s3.upload_file": S3_WRITE,
    "sqs.delete_message_batch": {"sqs:DeleteMessage"},
    "sqs.get_queue_attributes": {"sqs:GetQueueAttributes"},
    "sqs.get_queue_url": {"sqs:GetQueueUrl"},
    "sqs.receive_message": {"sqs:ReceiveMessage"},
    "imaging.get_datastore": {"medical-imaging:GetDatastore"},
    "imaging.get_dicom_import_job": {"medical-imaging:GetDICOMImportJob"},
    "imaging.get_image_set": {"medical-imaging:GetImageSet"},
    "imaging.get_image_set_metadata": {"medical-imaging:GetImageSetMetadata"},
    "imaging.list_dicom_import_jobs": {"medical-imaging:ListDICOMImportJobs"},
    "imaging.list_image_set_versions": {"medical-imaging:ListImageSetVersions"},
    "imaging.search_image_sets": {"medical-imaging:SearchImageSets"},
    "imaging.start_dicom_import_job": {"medical-imaging:StartDICOMImportJob", "iam:PassRole"},
    "healthlake.start_fhir_import_job": {"healthlake:StartFHIRImportJob", "iam:PassRole"},
    "healthlake.describe_fhir_import_job": {"healthlake:DescribeFHIRImportJob"},
    "healthlake.list_fhir_import_jobs": {"healthlake:ListFHIRImportJobs"},
    "healthlake.list_fhir_datastores": {"healthlake:ListFHIRDatastores"},
}
CALL = re.compile(r"\b_?(s3|sqs|imaging|healthlake)\.(?:get_paginator\(\s*\"(\w+)\"|(\w+)\()")


def calls_of(path: Path) -> set[str]:
    """SDK calls in a module, such as `s3.get_object`; a paginator by the operation that it repeats."""
    found = CALL.findall(path.read_text())
    return {f"{service}.{paginated or called}" for service, paginated, called in found if called != "get_paginator"}


def allowed(template: dict[str, Any], policy: str) -> list[tuple[str, str]]:
    """Pairs of action and resource, as text, that a managed policy allows."""
    pairs = []
    for statement in template["Resources"][policy]["Properties"]["PolicyDocument"]["Statement"]:
        assert statement["Effect"] == "Allow"
        actions, resources = ([part] if not isinstance(part, list) else part
                              for part in (statement["Action"], statement["Resource"]))  # fmt: skip
        pairs += [(action, json.dumps(resource)) for action in actions for resource in resources]
    return pairs


def test_the_policies_allow_what_the_code_calls(template):
    modules = sorted((REPOSITORY / "ahi").rglob("*.py"))
    sender = REPOSITORY / "ahi" / "cli" / "send.py"
    by_pipeline = set().union(*(calls_of(path) for path in modules if path != sender))
    assert len(by_pipeline) > 12, "calls are no longer written the way this test finds them"
    for policy, calls in (("PipelinePolicy", by_pipeline), ("SenderPolicy", calls_of(sender))):
        assert calls <= set(NEEDS), "say what the new call needs"
        actions = {action for action, _ in allowed(template, policy)}
        missing = {call: NEEDS[call] - actions for call in calls if NEEDS[call] - actions}
        assert missing == {}, policy


def test_archives_are_read_by_the_import_role_and_the_pipeline_and_written_by_nobody(template):
    arns = json.dumps({"Ref": "ArchiveBucketArns"})
    below = json.dumps({"Split": [",", {"Join": ["", [{"Join": ["/*,", {"Ref": "ArchiveBucketArns"}]}, "/*"]]}]})
    assert set(allowed(template, "ArchiveReadPolicy")) == {
        ("s3:ListBucket", arns),
        ("s3:GetObject", below),
        ("s3:GetObjectVersion", below),
    }
    assert allowed(template, "ArchiveKeyPolicy") == [("kms:Decrypt", json.dumps({"Ref": "ArchiveKeyArns"}))]
    for name, condition in (("ArchiveReadPolicy", "HasArchives"), ("ArchiveKeyPolicy", "HasArchiveKeys")):
        assert template["Resources"][name]["Condition"] == condition
        assert template["Resources"][name]["Properties"]["Roles"] == [{"Ref": "ImportRole"}]


def test_buckets_with_fhir_are_read_by_the_pipeline_alone(template):
    arns = json.dumps({"Ref": "FhirBucketArns"})
    below = json.dumps({"Split": [",", {"Join": ["", [{"Join": ["/*,", {"Ref": "FhirBucketArns"}]}, "/*"]]}]})
    lists = {("s3:ListBucket", arns), ("s3:ListBucketVersions", arns)}
    assert set(allowed(template, "FhirReadPolicy")) == {*lists, ("s3:GetObject", below), ("s3:GetObjectVersion", below)}
    assert allowed(template, "FhirKeyPolicy") == [("kms:Decrypt", json.dumps({"Ref": "FhirKeyArns"}))]
    for name, condition in (("FhirReadPolicy", "HasFhirBuckets"), ("FhirKeyPolicy", "HasFhirKeys")):
        assert template["Resources"][name]["Condition"] == condition
        assert "Roles" not in template["Resources"][name]["Properties"]


def test_queues_may_be_looked_at_with_their_dead_letters(template):
    queues = {json.dumps({"GetAtt": f"{name}.Arn"}) for name in of_type(template, "AWS::SQS::Queue")}
    for action in ("sqs:GetQueueUrl", "sqs:GetQueueAttributes"):
        assert queues == {resource for what, resource in allowed(template, "PipelinePolicy") if what == action}


def test_only_senders_write_to_the_landing_bucket(template):
    landing = json.dumps({"Sub": "${LandingBucket.Arn}/*"})
    assert ("s3:PutObject", landing) in allowed(template, "SenderPolicy")
    assert ("s3:PutObject", landing) not in allowed(template, "PipelinePolicy")


# ---- as applied to the embedded stack --------------------------------------------------------------------------


def test_buckets_as_applied(aws_stack):
    s3, env = aws_stack.client("s3"), aws_stack.env
    landing = env["AHI_LANDING_BUCKET"]
    assert s3.get_bucket_versioning(Bucket=landing)["Status"] == "Enabled"
    rules = s3.get_bucket_notification_configuration(Bucket=landing)["QueueConfigurations"]
    assert {e for r in rules for e in r["Events"]} == {
        "s3:ObjectCreated:*",
        "s3:ObjectRemoved:*",
        "s3:LifecycleExpiration:*",
    }
    # ministack's CloudFormation takes no notice of encryption and lifecycle; the template's own tests are above.
    for bucket in (landing, env["AHI_LAKE_BUCKET"], env["AHI_STAGING_BUCKET"]):
        assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}


@pytest.mark.parametrize("queue", QUEUES)
def test_queues_as_applied(aws_stack, queue):
    sqs = aws_stack.client("sqs")
    url = aws_stack.env[f"AHI_{queue}_QUEUE_URL"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "60"
    redrive = json.loads(attributes["RedrivePolicy"])
    assert int(redrive["maxReceiveCount"]) == 5
    dead = sqs.get_queue_url(QueueName=redrive["deadLetterTargetArn"].rpartition(":")[2])["QueueUrl"]
    [source] = sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"]
    assert source.rpartition("/")[2] == url.rpartition("/")[2]


def test_no_second_definition_of_a_queue_or_rule(aws_stack, template):
    queues = aws_stack.client("sqs").list_queues().get("QueueUrls", [])
    ours = [q for q in queues if "/ahi-" in q]
    assert len(ours) == len(of_type(template, "AWS::SQS::Queue"))
    rules = aws_stack.client("events").list_rules()["Rules"]
    assert len(rules) == len(of_type(template, "AWS::Events::Rule"))


def test_the_import_role_can_be_assumed_by_healthimaging_only(aws_stack):
    name = aws_stack.env["AHI_IMPORT_ROLE_ARN"].rpartition("/")[2]
    role = aws_stack.client("iam").get_role(RoleName=name)["Role"]
    document = role["AssumeRolePolicyDocument"]
    document = json.loads(document) if isinstance(document, str) else document
    assert document["Statement"][0]["Principal"] == {"Service": "medical-imaging.amazonaws.com"}


@pytest.mark.parametrize("pattern_of", ["ImportJobRule", "DataStoreRule", "ImageSetRule"])
def test_rules_match_every_documented_event_and_unknown_ones(aws_stack, template, pattern_of):
    events = aws_stack.client("events")
    pattern = json.dumps(template["Resources"][pattern_of]["Properties"]["EventPattern"])
    family = {"ImportJobRule": "Import Job ", "DataStoreRule": "Data Store ", "ImageSetRule": "Image Set "}[pattern_of]
    samples = [*DOCUMENTED, f"{family}Something New"]
    for kind in samples:
        event = {
            "id": "1", "account": "123456789012", "source": "aws.medical-imaging", "time": "2026-01-01T00:00:00Z",
            "region": "us-east-1", "resources": [], "detail-type": kind, "detail": {},
        }  # fmt: skip
        matched = events.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"]
        assert matched == kind.startswith(family), kind


DOCUMENTED = (
    *("Import Job Submitted", "Import Job In Progress", "Import Job Completed", "Import Job Failed"),
    *("Image Set Created", "Image Set Copying", "Image Set Copying With Read Only Access", "Image Set Copied"),
    *("Image Set Copy Failed", "Image Set Updating", "Image Set Updated", "Image Set Update Failed"),
    *("Image Set Deleting", "Image Set Deleted"),
    *("Data Store Creating", "Data Store Creation Failed", "Data Store Created"),
    *("Data Store Deleting", "Data Store Deleted"),
)
