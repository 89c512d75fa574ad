"""Ranges of object versions, which ministack alone answers whole."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError


@pytest.fixture(scope="module")
def version(aws_stack):
    s3, bucket = aws_stack.client("s3"), aws_stack.env["AHI_LANDING_BUCKET"]
    key = {"Bucket": bucket, "Key": "gaps/ranges"}
    answer = s3.put_object(**key, Body=bytes(range(100)))
    s3.put_object(**key, Body=b"newer")
    return key | {"VersionId": answer["VersionId"]}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("0-9", range(10)), ("90-200", range(90, 100)), ("95-", range(95, 100)), ("-3", range(97, 100)), ("5-5", [5])],
)
def test_a_version_is_read_in_part(aws_stack, version, asked, expected):
    answer = aws_stack.client("s3").get_object(**version, Range=f"bytes={asked}")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["Body"].read() == bytes(expected)
    assert answer["ContentRange"] == f"bytes {expected[0]}-{expected[-1]}/100"


def test_a_range_past_the_end_is_refused(aws_stack, version):
    with pytest.raises(ClientError, match="InvalidRange"):
        aws_stack.client("s3").get_object(**version, Range="bytes=100-")
