"""The query of a search: parameters of QIDO-RS.

Belongs here: reading and refusing parameters. Does not belong here: what they match (`matching.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from local_aws.dicomweb.attributes import KEYS
from local_aws.dicomweb.elements import keyword_of, tag_of
from local_aws.dicomweb.errors import DicomWebError, bad_request
from local_aws.healthimaging.values import is_creator

MAX_LIMIT = 1000
MAX_OFFSET = 1_000_000
MAX_INCLUDES = 50
# Elements of includefield: a tag, and what of its items is wanted (None: all).
Tree = dict[int, Any]

_ID = re.compile(r"[0-9a-z]{32}")


@dataclass
class Query:
    """One search.

    Attributes:
        matches: Keyword and value of each matching key.
        fuzzy: Whether names match by the beginnings of their words.
        limit: Most results to return.
        offset: Results to pass over.
        everything: Whether `includefield=all` was given.
        include: Other attributes to return.
        creators: Private creators that were named, by tag.
        image_set_id: The one image set to look into, or empty.
        ignored: Keys that were left out of account.
    """

    matches: list[tuple[str, str]] = field(default_factory=list)
    fuzzy: bool = False
    limit: int = MAX_LIMIT
    offset: int = 0
    everything: bool = False
    include: Tree = field(default_factory=dict)
    creators: dict[int, str] = field(default_factory=dict)
    image_set_id: str = ""
    ignored: list[str] = field(default_factory=list)


def pairs(query_string: str) -> list[tuple[str, str]]:
    """Parameters of a URL, without those of a presigned one.

    Raises:
        DicomWebError: There are too many.
    """
    try:
        found = parse_qsl(query_string, keep_blank_values=True, max_num_fields=500)
    except ValueError as error:
        raise bad_request("Too many query parameters.") from error
    return [(name, value) for name, value in found if not name.lower().startswith("x-amz-")]


def parse(level: str, query_string: str, *, ignore_unknown: bool) -> Query:
    """Read the query of a search.

    Args:
        level: `study`, `series` or `instance`.
        query_string: Of the URL, still encoded.
        ignore_unknown: Whether a key that HealthImaging does not list is left out instead of refused.

    Raises:
        DicomWebError: A parameter is unknown or wrong.
    """
    query = Query()
    includes: list[str] = []
    for name, value in pairs(query_string):
        if name == "limit":
            query.limit = _number(name, value, 1, MAX_LIMIT)
        elif name == "offset":
            query.offset = _number(name, value, 0, MAX_OFFSET)
        elif name == "fuzzymatching":
            query.fuzzy = _boolean(name, value)
        elif name == "includefield":
            includes += [v.strip() for v in value.split(",") if v.strip()]
        elif name == "imageSetId":
            check_image_set_id(value)
            query.image_set_id = value
        else:
            _key(query, level, name, value, ignore_unknown=ignore_unknown)
    _include(query, includes)
    return query


def check_image_set_id(text: str) -> None:
    """Refuse what is no id of an image set.

    Raises:
        DicomWebError: 400.
    """
    if not _ID.fullmatch(text):
        raise bad_request("'imageSetId' must be 32 digits and lower case letters.")


def _key(query: Query, level: str, name: str, value: str, *, ignore_unknown: bool) -> None:
    tag = tag_of(name)
    if tag is not None and is_creator(tag):
        query.creators[tag] = value.strip().strip('"')
        return
    keyword = keyword_of(tag) if tag is not None else name
    if keyword not in KEYS[level]:
        if not ignore_unknown:
            known = ", ".join(sorted(KEYS[level]))
            raise bad_request(f"'{name[:64]}' is no key of this search. Keys: {known}.")
        query.ignored.append(name)
        return
    if any(keyword == k for k, _ in query.matches):
        raise bad_request(f"'{keyword}' is given twice. Give several UIDs as one list, separated by commas.")
    query.matches.append((keyword, value))


def _number(name: str, text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not text.isascii() or not low <= int(text[:9]) <= high:
        raise _out_of_range(name, low, high)
    return int(text[:9])


def _out_of_range(name: str, low: int, high: int) -> DicomWebError:
    return bad_request(f"'{name}' must be a number from {low} to {high}.")


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise bad_request(f"'{name}' must be true or false.")
    return text.lower() == "true"


def _include(query: Query, fields: list[str]) -> None:
    """Attributes by tag or keyword, dotted for parts of sequences; what is no attribute is left out silently."""
    fields = list(dict.fromkeys(fields))
    if len(fields) > MAX_INCLUDES:
        raise bad_request(f"At most {MAX_INCLUDES} attributes can be included.")
    query.everything = "all" in fields
    for text in fields:
        tags = [tag_of(part) for part in text.split(".")]
        if any(tag is None for tag in tags):
            continue
        tree: Any = query.include
        for tag in tags[:-1]:
            if tree.setdefault(tag, {}) is None:
                break
            tree = tree[tag]
        else:
            tree[tags[-1]] = None
