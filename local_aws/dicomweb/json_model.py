"""The DICOM JSON Model (PS3.18 annex F) of data elements.

Belongs here: one element, one data set. Does not belong here: which elements an answer has.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.dicom import CHARACTER_SET
from local_aws.healthimaging.values import BINARY, NUMERIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from local_aws.dicomweb.elements import Element

JsonElement = dict[str, Any]
DataSet = dict[str, JsonElement]
# The same with elements as JSON text: what stays as it is need not be written again for every answer.
Written = dict[str, str]
# "Binary attributes larger than 1MB will be represented by a BulkDataURI" (Getting DICOM bulkdata).
MAX_INLINE = 2**20
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
# Kept in JSON as they came: backslashes in them separate nothing.
_NUMBERS_AS_TEXT = frozenset({"DS", "IS"})


def bulk_url(instance_url: str, path: str) -> str:
    """Address of the bulk data of an element, by its path inside the instance."""
    return f"{instance_url}/bulkdata/{hashlib.blake2b(path.encode(), digest_size=16).hexdigest()}"


def write(element: JsonElement) -> str:
    """JSON text of an element."""
    return json.dumps(element, separators=(",", ":"))


def written(elements: DataSet) -> Written:
    """JSON text of each element."""
    return {tag: write(element) for tag, element in elements.items()}


def join(data_sets: Iterable[Written]) -> bytes:
    """An array of data sets, elements by ascending tag (PS3.18, F.2.2)."""
    texts = (",".join(f'"{tag}":{text}' for tag, text in sorted(one.items())) for one in data_sets)
    return f"[{','.join(f'{{{text}}}' for text in texts)}]".encode()


def data_set(items: Iterable[Element], bulk_uri: Callable[[str], str], path: str = "") -> DataSet:
    """A data set.

    Args:
        items: Its elements in tag order.
        bulk_uri: Address of the bulk data of an element, by its path.
        path: Where the data set stands inside an instance.
    """
    return {f"{e.tag:08X}": json_element(e, bulk_uri, f"{path}{e.tag:08X}") for e in items}


def json_element(element: Element, bulk_uri: Callable[[str], str], path: str) -> JsonElement:
    """One element; `Value` is absent when it is empty."""
    out: JsonElement = {"vr": element.vr}
    if element.tag == CHARACTER_SET:
        # JSON is UTF-8, whatever the object was (PS3.18, F.2).
        return out | ({"Value": ["ISO_IR 192"]} if element.values else {})
    if not element.values:
        return out
    if element.vr == "SQ":
        items = [data_set(item, bulk_uri, f"{path}[{n}].") for n, item in enumerate(element.values)]
        return out | {"Value": items}
    if element.vr in BINARY:
        raw = element.values[0]
        if len(raw) > MAX_INLINE:
            return out | {"BulkDataURI": bulk_uri(path)}
        return out | {"InlineBinary": base64.b64encode(raw).decode()}
    values = [_value(element.vr, v) for v in element.values]
    return out | {"Value": values} if any(v is not None for v in values) else out


def _value(vr: str, value: Any) -> Any:
    if value is None or vr in NUMERIC:
        return value
    text = str(value)
    if vr == "PN":
        groups = [g.rstrip(" ") for g in text.split("=")]
        return {name: group for name, group in zip(_GROUPS, groups, strict=False) if group} or None
    if vr in _NUMBERS_AS_TEXT:
        return _number(vr, text.strip())
    return text or None


def _number(vr: str, text: str) -> Any:
    """DS and IS are numbers in JSON; text that is none stays text."""
    if not text or "_" in text:  # int() would take the underscore for a separator
        return text or None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    if vr == "IS":
        return int(number) if number.is_integer() else text
    return number if number - number == 0 else text  # infinity and NaN are no JSON
