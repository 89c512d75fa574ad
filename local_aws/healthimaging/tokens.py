"""Client tokens that come again with other parameters. What the service answers then is not documented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_aws.protocol.errors import conflict, validation

if TYPE_CHECKING:
    from local_aws.settings import LocalSettings


def check_token(settings: LocalSettings) -> None:
    """Refuse the request, unless the answer of the first one is to be given.

    Raises:
        ServiceError: As `idempotency_mismatch` says.
    """
    text = "The client token was used with other parameters."
    if settings.idempotency_mismatch != "first":
        raise validation(text) if settings.idempotency_mismatch == "validation" else conflict(text)
