"""Rules of the mapping as this deployment sets them. Belongs here: reading them, and saying what is wrong with them.

Does not belong here: what they do (`ahi.fhir`).

Who issues a site's identifiers, and which patients HealthLake has from elsewhere, is in no DICOM file. It stands in a
TOML file (`AHI_FHIR_RULES`); a change of it is a change of every study that it touches.
"""

from __future__ import annotations

import csv
import tomllib
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ahi.errors import PermanentError
from ahi.fhir.references import ID
from ahi.fhir.rules import Rules, healthimaging_root
from ahi.fhir.values import is_uri
from ahi.patients import secret_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable
    from pathlib import Path

    from ahi.pipeline import Pipeline


def load_rules(pipeline: Pipeline) -> Rules:
    """Rules of the mapping. Raises PermanentError with the setting or the line of the file that is wrong."""
    name, path = pipeline.settings.fhir_time_zone, pipeline.settings.fhir_rules
    try:
        zone: dt.tzinfo | None = ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        raise PermanentError(f"AHI_FHIR_TIME_ZONE is no time zone: {name}.") from None
    root = healthimaging_root(pipeline.aws.healthlake.meta.region_name)
    return Rules(root, zone, secret=secret_of(pipeline), **(read_rules(path) if path else {}))


def read_rules(path: Path) -> dict[str, Any]:
    """Values of a file of rules, by the names of `Rules`.

    Raises:
        PermanentError: It cannot be read, has a name that there is none of, or a value that FHIR does not take.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PermanentError(f"AHI_FHIR_RULES cannot be read: {type(error).__name__} in {path}.") from None
    values = dict[str, Any]()
    for name, value in found.items():
        read = _READERS.get(name)
        if read is None:
            raise PermanentError(f"{path}: there is no rule {name}; rules are {', '.join(_READERS)}.")
        try:
            values[name] = read(value, path)
        except (TypeError, ValueError) as error:
            raise PermanentError(f"{path}: {name}: {error}.") from None
        except OSError as error:
            raise PermanentError(f"{path}: {name}: {type(error).__name__}.") from None
    return values


def _uri(value: Any, _: Path) -> str:
    if not isinstance(value, str) or not is_uri(value):
        raise ValueError("a system is a URI, such as https://hospital.example/mrn or urn:oid:1.2.3")
    return value


def _systems(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError("a table: issuer = URI")
    return {str(issuer): _uri(uri, path) for issuer, uri in value.items()}


def _placeholders(value: Any, _: Path) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise TypeError("a list of PatientIDs that name nobody")
    return Rules.placeholder_ids | {one.strip().upper() for one in value}


def _count(value: Any, _: Path) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("a number of instances")
    return value


def _linked(value: Any, path: Path) -> dict[str, str]:
    """A CSV file with the columns patient_key and id, beside the file of rules unless its path is whole."""
    if not isinstance(value, str):
        raise TypeError("the name of a CSV file with the columns patient_key and id")
    with (path.parent / value).open(encoding="utf-8", newline="") as file:
        rows = [(row.get("patient_key") or "", row.get("id") or "") for row in csv.DictReader(file)]
    for number, (key, name) in enumerate(rows, 2):
        if not key or not ID.fullmatch(name):
            raise ValueError(f"line {number} is no patient_key with the id of a Patient")
    return dict(rows)


_READERS: dict[str, Callable[[Any, Path], Any]] = {
    "patient_id_systems": _systems,
    "default_patient_id_system": _uri,
    "accession_systems": _systems,
    "default_accession_system": _uri,
    "placeholder_ids": _placeholders,
    "linked_patients": _linked,
    "image_set_extension": _uri,
    "most_instances": _count,
}
