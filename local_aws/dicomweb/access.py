"""Who may call: bearer tokens, and the headers that let a browser in.

Belongs here: authorization and CORS. Does not belong here: anything of DICOM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local_aws.dicomweb.errors import denied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_aws.settings import LocalSettings

METHODS = "GET, HEAD, POST, OPTIONS"
EXPOSED = "Content-Type, Content-Length, Warning, x-amzn-ErrorType, x-amzn-RequestId"


def check(settings: LocalSettings, datastore: Mapping[str, Any], headers: Mapping[str, str], query: str) -> None:
    """Refuse a caller as the settings say.

    A data store that was created with a Lambda authorizer takes bearer tokens; here no function is called, a token
    is known or not.

    Raises:
        DicomWebError: 403.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = scheme.lower() == "bearer"
    signed = scheme.startswith("AWS4-") or "X-Amz-Credential=" in query
    known = {t.strip() for t in settings.dicomweb_tokens.split(",")}
    if bearer and "*" not in known and token.strip() not in known - {""}:
        raise denied("Invalid or Expired Token")
    if settings.dicomweb_auth != "required":
        return
    if bearer and not datastore["authorizer"]:
        raise denied("The data store has no Lambda authorizer: sign the request with SigV4.")
    if not bearer and not signed:
        raise denied("Missing Authentication Token")


def cors(settings: LocalSettings, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers for a page of another origin."""
    origin = headers.get("origin")
    if not origin or settings.cors_origin == "none":
        return {}
    return {
        "Access-Control-Allow-Origin": settings.cors_origin,
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers") or "*, Authorization",
        "Access-Control-Expose-Headers": EXPOSED,
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }
