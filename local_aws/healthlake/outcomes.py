"""Refusals of FHIR REST: a status and an OperationOutcome."""

from __future__ import annotations

from typing import Any

import orjson

CONTENT_TYPE = "application/fhir+json"
Answer = tuple[int, dict[str, str], bytes]


class FhirError(Exception):
    """What the caller gets instead.

    Attributes:
        status: HTTP status.
        code: IssueType of R4.
        diagnostics: Text for the caller.
    """

    def __init__(self, status: int, code: str, diagnostics: str | tuple[str, ...]) -> None:
        self.status = status
        self.code = code
        self.diagnostics = (diagnostics,) if isinstance(diagnostics, str) else diagnostics
        super().__init__(f"{status} {code}")


def outcome(diagnostics: tuple[str, ...], severity: str = "error", code: str = "invalid") -> dict[str, Any]:
    """An OperationOutcome."""
    issues = [{"severity": severity, "code": code, "diagnostics": text} for text in diagnostics]
    return {"resourceType": "OperationOutcome", "issue": issues}


def refusal(error: FhirError) -> Answer:
    """The answer."""
    return answer(error.status, outcome(error.diagnostics, code=error.code))


def answer(status: int, body: Any, **headers: str) -> Answer:
    """An answer with a resource, or with its bytes."""
    text = body if isinstance(body, bytes) else orjson.dumps(body)
    return status, {"Content-Type": CONTENT_TYPE, **{k.replace("_", "-"): v for k, v in headers.items()}}, text
