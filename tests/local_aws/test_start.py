"""Start, ready, stop, restart, kill."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.local_aws.conftest import Imaging, make_object

SENT = {"a.dcm": make_object(SOPInstanceUID="1.2.3.4")}


def run_server(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local_aws", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def test_a_taken_port_is_one_clear_sentence(aws_stack, tmp_path):
    ended = run_server("--home", str(tmp_path), "--port", str(aws_stack.port))
    assert ended.returncode == 1
    assert ended.stderr == (
        f"local_aws: Port {aws_stack.port} of 127.0.0.1 is taken. Stop what listens there, or choose another --port.\n"
    )


def test_a_home_in_use_is_one_clear_sentence(aws_stack):
    ended = run_server("--home", str(aws_stack.home), "--port", "0")
    assert ended.returncode == 1
    assert "Another local AWS runs on" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_it_prints_what_it_writes(aws_stack):
    printed = dict(
        line.removeprefix("export ").split("=", 1) for line in aws_stack.log().splitlines() if "export" in line
    )
    written = {k: v for k, v in aws_stack.env.items() if k != "LOCAL_AWS_PID"}
    assert printed == written
    assert set(written) == {
        *("AWS_ENDPOINT_URL", "AWS_DISABLE_HOST_PREFIX_INJECTION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED"),
        *("AHI_LANDING_BUCKET", "AHI_LAKE_BUCKET", "AHI_STAGING_BUCKET"),
        *("AHI_UPLOAD_QUEUE_URL", "AHI_IMPORT_QUEUE_URL", "AHI_IMAGE_SET_QUEUE_URL"),
        *("AHI_DATASTORE_ID", "AHI_FHIR_DATASTORE_ID", "AHI_IMPORT_ROLE_ARN"),
        *("AHI_HEALTHLAKE_QUEUE_URL", "AHI_FHIR_ROLE_ARN", "AHI_FHIR_KEY_ARN"),
    }


def test_the_environment_alone_points_boto3_at_it(aws_stack):
    code = (
        "import boto3, os; m = boto3.client('medical-imaging'); d = os.environ['AHI_DATASTORE_ID'];"
        "print(m.get_datastore(datastoreId=d)['datastoreProperties']['datastoreStatus'],"
        "len(m.search_image_sets(datastoreId=d)) > 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=aws_stack.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.split() == ["ACTIVE", "True"], ended.stderr


def said(env: dict[str, str]) -> dict[str, str]:
    """The environment, whatever the process and the port."""
    port = env["AWS_ENDPOINT_URL"].rpartition(":")[2]
    return {k: v.replace(f":{port}", "") for k, v in env.items() if k != "LOCAL_AWS_PID"}


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
def test_state_survives(make_aws_stack, kill):
    stack = make_aws_stack()
    imaging = Imaging(stack)
    before = dict(stack.env)
    stack.client("s3").put_object(Bucket=stack.env["AHI_LANDING_BUCKET"], Key="k", Body=b"1")
    first = imaging.run(SENT)
    image_set = first.success[0]["importResponse"]["imageSetId"]
    stack.drain("UPLOAD")

    stack.stop(kill=kill)
    stack.port = stack.port if kill else 0  # the URLs of queues follow
    stack.start()

    assert said(stack.env) == said(before)
    assert f":{stack.port}/" in stack.env["AHI_UPLOAD_QUEUE_URL"]
    imaging = Imaging(stack)
    assert imaging.document(image_set)["ImageSetID"] == image_set
    assert imaging.job(first.job["jobId"])["jobStatus"] == "COMPLETED"
    assert imaging.result(first.job, "job-output-manifest.json")
    s3, bucket = stack.client("s3"), stack.env["AHI_LANDING_BUCKET"]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    # The wiring is there again: an upload reaches its queue, an import reaches both others.
    stack.reset()
    s3.put_object(Bucket=bucket, Key="again", Body=b"2")
    told = stack.wait_for(lambda: stack.drain("UPLOAD"))  # S3 tells of it in a thread of its own
    assert [m["Records"][0]["s3"]["object"]["key"] for m in told] == ["again"]
    second = imaging.run(SENT)
    assert second.manifest["imageSetsSummary"][0]["imageSetVersion"] == 2
    assert [m["detail-type"] for m in stack.drain("IMAGE_SET")] == ["Image Set Updated"]
    assert len([m for m in stack.drain("IMPORT") if "jobId" in m["detail"]]) == 3


def test_it_starts_without_the_heavy_libraries():
    """They are loaded after it is ready, or with the first object."""
    code = "import sys, local_aws.assembly; print({'numpy', 'pydicom', 'imagecodecs', 'pytest'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


def test_a_wrong_setting_is_one_clear_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_AWS_WORKERS", "many")
    ended = run_server("--home", str(tmp_path), "--port", "0")
    assert (ended.returncode, ended.stderr) == (
        1,
        "local_aws: LOCAL_AWS_WORKERS is a whole number from 1 to 64, not 'many'.\n",
    )


def test_a_broken_template_is_one_clear_sentence(tmp_path):
    from local_aws.bootstrap import BootstrapError, apply_template

    with pytest.raises(BootstrapError, match="run from a checkout"):
        apply_template(None, tmp_path / "none.yaml")  # type: ignore[arg-type]
