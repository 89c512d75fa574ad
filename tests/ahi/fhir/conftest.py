"""The validator, which compiles a table at first, and lines to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from ahi.fhir.validate import Validator

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def validator() -> Validator:
    return Validator()


@pytest.fixture(scope="session")
def synthea() -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (DATA / "synthea.ndjson").read_bytes().splitlines()]
