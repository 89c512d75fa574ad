"""Checks of objects and lists. Belongs here: members, cardinality and choices of one object.

Does not belong here: which members a type has (`structure`).

Objects of a type come in few shapes, a shape being the names in their order. What names alone decide (unknown and
missing elements, choices) is decided once for each shape; a further object of it costs one look-up and one call of a
function made for that shape, a fifth quicker than a loop over checks and values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ahi.fhir.findings import Code, Finding
from ahi.fhir.primitives import REMEMBERED, Check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NOT_AN_OBJECT = [Finding(Code.TYPE, "", "must be an object")]
_NOT_A_LIST = [Finding(Code.TYPE, "", "must be a list")]
_EMPTY = [Finding(Code.EMPTY, "", "must not be empty")]
# A sender's own names are shown only when they look like names; anything may stand there.
_NAME = re.compile(r"[@_A-Za-z][A-Za-z0-9_-]{0,40}", re.ASCII)

Choices = tuple[tuple[frozenset[str], bool], ...]


def object_check(
    members: Mapping[str, Check], required: tuple[str, ...], choices: Choices, *, is_extension: bool = False
) -> Check:
    """Check of an object.

    Args:
        members: Check of each member by name, primitives' `_name` included.
        required: Members that must be there; `_name` will do, for a value that is absent with a reason.
        choices: Names of which one may be there, and whether one must.
        is_extension: Whether the rule ext-1 of Extension holds.
    """

    def of_shape(shape: tuple[str, ...]) -> list[Finding]:
        """What is wrong with the names of an object."""
        names = frozenset(shape)
        found = [_unknown(name) for name in shape if name not in members]
        missing = (name for name in required if name not in names and f"_{name}" not in names)
        found += [Finding(Code.REQUIRED, f".{name}", "is required") for name in missing]
        found += _chosen(names, choices)
        if is_extension and ("extension" in names) == any(name.lstrip("_").startswith("value") for name in names):
            found.append(Finding(Code.EXTENSION, "", "must have either a value or extensions (ext-1)"))
        return found

    def explain(value: Any) -> list[Finding] | None:
        if type(value) is not dict:
            return NOT_AN_OBJECT
        if not value:
            return _EMPTY
        found = of_shape(tuple(value))
        for key, item in value.items():
            if key in members:
                wrong = members[key].explain(item)
                if wrong:
                    found += _below(value, key, wrong, members[key])
        return found or None

    return Check(_by_shape(members, of_shape), explain)


def _by_shape(
    members: Mapping[str, Check], of_shape: Callable[[tuple[str, ...]], list[Finding]]
) -> Callable[[Any], object]:
    plans: dict[tuple[str, ...], Callable[[Any], object]] = {(): _never}

    def plan_of(shape: tuple[str, ...]) -> Callable[[Any], object]:
        plan = _never if of_shape(shape) else _all_good([members[name].good for name in shape])
        if len(plans) < REMEMBERED:
            plans[shape] = plan
        return plan

    def good(value: Any) -> object:
        shape = tuple(value)
        try:
            plan = plans[shape]
        except KeyError:
            plan = plan_of(shape)
        # Anything else than an object ends in a TypeError or an AttributeError here, and then `explain` decides.
        return plan(value)

    return good


def _never(_: Any) -> bool:
    return False


def _all_good(tests: Sequence[Callable[[Any], object]]) -> Callable[[Any], object]:
    """One function that tests the values of an object in their order, as `dataclasses` makes methods.

    Its text holds numbers only, nothing of the object.
    """
    numbers = range(len(tests))
    text = (
        f"def plan(value, {', '.join(f't{n}=t{n}' for n in numbers)}):\n"
        f"    {', '.join(f'v{n}' for n in numbers)}, = value.values()\n"
        f"    return {' and '.join(f't{n}(v{n})' for n in numbers)}\n"
    )
    names: dict[str, Any] = {f"t{n}": test for n, test in enumerate(tests)}
    exec(text, names)  # noqa: S102
    plan: Callable[[Any], object] = names["plan"]
    return plan


def _unknown(name: str) -> Finding:
    return Finding(Code.UNKNOWN_ELEMENT, f".{name}" if _NAME.fullmatch(name) else ".?", "is no element of this type")


def _chosen(names: frozenset[str], choices: Choices) -> list[Finding]:
    present = {name.removeprefix("_") for name in names}
    found = []
    for choice, at_least_one in choices:
        n = len(present & choice)
        if n > 1:
            found.append(Finding(Code.CHOICE, _stem(choice), "only one of the choices may be there"))
        elif at_least_one and not n:
            found.append(Finding(Code.REQUIRED, _stem(choice), "is required"))
    return found


def _stem(choice: frozenset[str]) -> str:
    shortest = min(choice, key=len)
    first = next(at for at, char in enumerate(shortest) if char.isupper())
    return f".{shortest[:first]}[x]"


def _below(value: dict[str, Any], key: str, wrong: list[Finding], member: Check) -> list[Finding]:
    """Findings of a member with its name before their paths; a null is good where the extensions have an entry."""
    items, others = value[key], value.get(f"_{key}")
    if type(items) is list and type(others) is list:
        filled = [item for at, item in enumerate(items) if item is not None or not (at < len(others) and others[at])]
        if len(filled) != len(items):
            wrong = (member.explain(filled) or []) if filled else []
    return [finding._replace(path=f".{key}{finding.path}") for finding in wrong]


def list_of(check: Check) -> Check:
    """Check of a list; FHIR has no empty ones."""
    one_good, one_explain = check

    def good(value: Any) -> object:
        if type(value) is not list or not value:
            return False
        return one_good(value[0]) if len(value) == 1 else all(map(one_good, value))

    def explain(value: Any) -> list[Finding] | None:
        if type(value) is not list:
            return _NOT_A_LIST
        found: list[Finding] = []
        for at, item in enumerate(value):
            found += [finding._replace(path=f"[{at}]{finding.path}") for finding in one_explain(item) or ()]
        return (found or None) if value else _EMPTY

    return Check(good, explain)


def or_null(check: Check) -> Check:
    """Check of one entry of `_name` beside a list: null where the value has no extension."""
    return Check(
        lambda value: value is None or check.good(value),
        lambda value: None if value is None else check.explain(value),
    )


def bound(check: Check, codes: Mapping[str, frozenset[str]], kind: str) -> Check:
    """A Coding, or one of a concept's codings, must be of a value set; a concept may be text alone."""
    wrong = [Finding(Code.BINDING, "", "has no coding of the required value set")]

    def is_in(value: Any) -> bool:
        codings = value.get("coding", ()) if kind == "CodeableConcept" else (value,)
        return not codings or any(one.get("code") in codes.get(one.get("system"), ()) for one in codings)

    def explain(value: Any) -> list[Finding] | None:
        found = check.explain(value)
        return found or (None if is_in(value) else wrong)

    return Check(lambda value: check.good(value) and is_in(value), explain)
