"""The JSON form of a fault, as the control API and `LOCAL_AWS_FAULTS` take it.

Belongs here: checking it, and telling what there is. Does not belong here: what a fault does (`faults.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any, get_type_hints

from local_aws.fault_base import Fault, FaultError
from local_aws.fault_kinds import KINDS

# Numbers of a fault: seconds, counts. A year is more than anybody waits, even by the virtual clock.
LARGEST = 366 * 86_400
_KINDS_OF_VALUE = {
    str: "a text",
    bool: "true or false",
    int: "a whole number of 0 or more",
    float: "a number of 0 or more",
    int | None: "a whole number of 0 or more, or null",
}


def _types(cls: type[Fault]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def _fits(wanted: Any, value: Any) -> bool:
    """Whether a JSON value has the type of a field; numbers are finite and within reason."""
    if wanted is str or wanted is bool:
        return isinstance(value, wanted)
    if value is None:
        return bool(wanted == int | None)
    whole = isinstance(value, int) or (wanted is float and isinstance(value, float))
    return whole and not isinstance(value, bool) and 0 <= value <= LARGEST


def make(request: Any) -> Fault:
    """A fault from its JSON form, `{"kind": ..., ...}`.

    Raises:
        FaultError: Unknown kind or field, or a value that cannot be.
    """
    if not isinstance(request, dict):
        raise FaultError('A fault is an object: {"kind": ..., ...}.')
    values = dict(request)
    kind = values.pop("kind", None)
    cls = KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise FaultError(f"Unknown kind of fault. Known: {', '.join(sorted(KINDS))}.")
    known = _types(cls)
    if set(values) - set(known):
        raise FaultError(f"{cls.kind} has the fields {', '.join(sorted(known))}.")
    for name, value in values.items():
        if not _fits(known[name], value):
            raise FaultError(f"{cls.kind}: {name} is {_KINDS_OF_VALUE[known[name]]}.")
    fault = cls(**values)
    if fault.times == 0:
        raise FaultError(f"{cls.kind}: times is 1 or more, or null for until it is removed.")
    fault.check()
    return fault


def catalog() -> list[dict[str, Any]]:
    """Every kind with its fields, their defaults and what it does."""
    return [
        {"kind": cls.kind, "does": " ".join((cls.__doc__ or "").split()), "fields": asdict(cls())}
        for cls in KINDS.values()
    ]


def make_all(text: str) -> list[Fault]:
    """The faults of a JSON list, as in `LOCAL_AWS_FAULTS`.

    Raises:
        FaultError: It is no list of faults.
    """
    try:
        requests = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FaultError('It is a JSON list of faults: [{"kind": ..., ...}].') from error
    if not isinstance(requests, list):
        raise FaultError('It is a JSON list of faults: [{"kind": ..., ...}].')
    return [make(request) for request in requests]
