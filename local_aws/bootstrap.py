"""Apply `infra/template.yaml` at start and say what it made.

Belongs here: creating or updating the one stack, the data store beside it, the environment file. Does not belong
here: any definition of a bucket, queue, rule or role; the template alone defines them.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from local_aws.inprocess import CallError

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

    from local_aws.inprocess import Caller
    from local_aws.settings import LocalSettings

STACK = "ahi"
VERSION = "2010-05-15"
TEMPLATE = Path(__file__).resolve().parent.parent / "infra" / "template.yaml"
OUTPUT_NAMES = {
    "LandingBucketName": "AHI_LANDING_BUCKET",
    "LakeBucketName": "AHI_LAKE_BUCKET",
    "StagingBucketName": "AHI_STAGING_BUCKET",
    "UploadQueueUrl": "AHI_UPLOAD_QUEUE_URL",
    "ImportQueueUrl": "AHI_IMPORT_QUEUE_URL",
    "ImageSetQueueUrl": "AHI_IMAGE_SET_QUEUE_URL",
    "HealthLakeQueueUrl": "AHI_HEALTHLAKE_QUEUE_URL",
    "ImportRoleArn": "AHI_IMPORT_ROLE_ARN",
    "FhirRoleArn": "AHI_FHIR_ROLE_ARN",
    "FhirKeyArn": "AHI_FHIR_KEY_ARN",
}


class BootstrapError(Exception):
    """The template could not be applied; the text says why and what to do."""


def _describe(caller: Caller) -> ET.Element | None:
    """The stack; None when there is none. All are asked for: to be asked for one that is not there is an error."""
    stacks = caller.query("cloudformation", VERSION, "DescribeStacks").findall(".//Stacks/member")
    return next((s for s in stacks if s.findtext("StackName") == STACK), None)


def _settled(caller: Caller, seconds: float = 60.0) -> ET.Element:
    """Wait until the stack is at rest.

    Raises:
        BootstrapError: It failed, or it did not come to rest.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stack = _describe(caller)
        status = stack.findtext("StackStatus") if stack is not None else "GONE"
        if stack is not None and status in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
            return stack
        if status and not status.endswith("_IN_PROGRESS"):
            raise BootstrapError(f"The template ended {status}: {_first_failure(caller)}")
        time.sleep(0.02)
    raise BootstrapError(f"The template was not applied within {seconds:.0f} s.")


def _first_failure(caller: Caller) -> str:
    events = caller.query("cloudformation", VERSION, "DescribeStackEvents", StackName=STACK).findall(
        ".//StackEvents/member"
    )
    failed = [e for e in events if (e.findtext("ResourceStatus") or "").endswith("FAILED")]
    return "; ".join(f"{e.findtext('LogicalResourceId')}: {e.findtext('ResourceStatusReason')}" for e in failed[-3:])


def template_of(settings: LocalSettings) -> Path | None:
    """The template to apply; None for none."""
    if settings.template == "none" or (settings.template == "auto" and not TEMPLATE.is_file()):
        return None
    return TEMPLATE if settings.template == "auto" else Path(settings.template)


def apply_template(caller: Caller, template: Path = TEMPLATE) -> dict[str, str]:
    """Create the stack, or bring an existing one up to the template.

    Args:
        caller: Client of the server itself.
        template: The template; the same file that is deployed to AWS.

    Returns:
        The stack's outputs, by output key.

    Raises:
        BootstrapError: The template is missing or was refused.
    """
    if not template.is_file():
        raise BootstrapError(f"{template} is missing: run from a checkout of the repository.")
    request = {
        "StackName": STACK,
        "TemplateBody": template.read_text(encoding="utf-8"),
        "Capabilities.member.1": "CAPABILITY_NAMED_IAM",
    }
    if template == TEMPLATE:
        # The emulator below does not know AWS::HealthImaging::Datastore; the data store is made by API instead.
        request |= {
            "Parameters.member.1.ParameterKey": "CreateDataStore",
            "Parameters.member.1.ParameterValue": "false",
        }
    stack = _describe(caller)
    if stack is not None and (stack.findtext("StackStatus") or "").startswith(("ROLLBACK", "CREATE_FAILED", "DELETE")):
        caller.query("cloudformation", VERSION, "DeleteStack", StackName=STACK)
        while _describe(caller) is not None:
            time.sleep(0.02)
        stack = None
    try:
        caller.query("cloudformation", VERSION, "CreateStack" if stack is None else "UpdateStack", **request)
    except CallError as error:
        if "No updates are to be performed" not in error.message:
            raise BootstrapError(f"The template was refused: {error.message}") from error
    stack = _settled(caller)
    return {o.findtext("OutputKey") or "": o.findtext("OutputValue") or "" for o in stack.findall(".//Outputs/member")}


def environment(
    settings: LocalSettings, port: int, outputs: dict[str, str], datastore_ids: dict[str, str]
) -> dict[str, str]:
    """Variables that point boto3 and the pipeline at this server.

    Queue URLs carry the port at which the queue was made; the server may listen on another one by now.
    """
    endpoint = f"http://127.0.0.1:{port}"
    outputs = {key: re.sub(r"^http://127\.0\.0\.1:\d+(?=/)", endpoint, value) for key, value in outputs.items()}
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
        "AWS_ACCESS_KEY_ID": settings.account,
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        **{OUTPUT_NAMES[key]: value for key, value in outputs.items() if key in OUTPUT_NAMES},
        # What a template of somebody else's says.
        **{f"STACK_{key}": value for key, value in outputs.items() if settings.template != "auto"},
        **datastore_ids,
    }


def write_env_file(path: Path, variables: dict[str, str]) -> None:
    """Write `NAME=value` lines in one step; a reader sees all of them or the file of before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    lines = [f"{name}={value}" for name, value in (variables | {"LOCAL_AWS_PID": str(os.getpid())}).items()]
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)
