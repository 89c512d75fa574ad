"""What errors become before Dagster writes them down."""

from __future__ import annotations

import traceback

import dagster as dg
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from ahi.aws import AwsCallError
from ahi.errors import PermanentError
from ahi_assets.common import domain_errors

URL = "http://127.0.0.1:9/landing/in/DOE%5EJANE/1970.dcm"
DENIED = {"Error": {"Code": "AccessDenied", "Message": f"not authorized to read {URL}"}}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EndpointConnectionError(endpoint_url=URL), "a call failed: EndpointConnectionError"),
        (ReadTimeoutError(endpoint_url=URL), "a call failed: ReadTimeoutError"),
        (ClientError(DENIED, "GetObject"), "GetObject failed: AccessDenied"),
    ],
)
def test_an_aws_error_is_told_without_what_it_was_about(error, expected):
    with pytest.raises(AwsCallError) as caught, domain_errors():
        raise error
    assert str(caught.value) == expected
    assert caught.value.__suppress_context__
    assert "DOE" not in "".join(traceback.format_exception(caught.value))


def test_a_permanent_error_is_not_retried():
    with pytest.raises(dg.Failure, match="set AHI_X") as caught, domain_errors():
        raise PermanentError("set AHI_X")
    assert caught.value.allow_retries is False
