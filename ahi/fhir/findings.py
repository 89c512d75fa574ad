"""What can be wrong with a line. Belongs here: its codes, and the value that says where.

Does not belong here: any check.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Code(StrEnum):
    """Kind of a finding."""

    # The line.
    JSON = "json"
    DUPLICATE_KEY = "duplicate-key"
    NOT_AN_OBJECT = "not-an-object"
    TOO_DEEP = "too-deep"
    NOT_JUDGED = "not-judged"
    # The envelope.
    RESOURCE_TYPE = "resource-type"
    ID_MISSING = "id-missing"
    ID = "id"
    # The structure.
    UNKNOWN_ELEMENT = "unknown-element"
    TYPE = "type"
    REQUIRED = "required"
    EMPTY = "empty"
    CHOICE = "choice"
    EXTENSION = "extension"
    CONTAINED = "contained"
    VALUE = "value"
    BINDING = "binding"
    REFERENCE = "reference"
    # Not against R4, but a trap.
    BYTE_ORDER_MARK = "byte-order-mark"
    LINE_SIZE = "line-size"
    PROFILE = "profile"
    BUNDLE = "bundle"
    NOT_ACCEPTED = "not-accepted"
    IMAGING = "imaging"


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        code: Kind.
        path: Element, such as `ImagingStudy.series[0].uid`; empty for the line as a whole.
        text: What it should be. It never repeats a value of the resource.
    """

    code: Code
    path: str
    text: str
