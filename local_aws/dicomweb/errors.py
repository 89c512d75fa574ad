"""Errors of the DICOMweb plane and their form on the wire.

Belongs here: statuses and texts. Does not belong here: when they are raised.
"""

from __future__ import annotations

import json

Answer = tuple[int, dict[str, str], bytes]


class DicomWebError(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        code: Name for the header `x-amzn-ErrorType`, as the native API has it.
        message: Text for the caller.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message

    def answer(self) -> Answer:
        """Status, headers and JSON body."""
        body = json.dumps({"message": self.message}).encode()
        return self.status, {"Content-Type": "application/json", "x-amzn-ErrorType": self.code}, body


def bad_request(message: str) -> DicomWebError:
    """The request itself is wrong: 400."""
    return DicomWebError(400, "ValidationException", message)


def not_found(message: str) -> DicomWebError:
    """Nothing of that name: 404."""
    return DicomWebError(404, "ResourceNotFoundException", message)


def not_acceptable(message: str) -> DicomWebError:
    """Not in the form that was asked for: 406."""
    return DicomWebError(406, "NotAcceptableException", message)


def denied(message: str) -> DicomWebError:
    """Not for this caller: 403."""
    return DicomWebError(403, "AccessDeniedException", message)
