"""The emulator as a whole, over boto3 and HTTP alone: every operation, every modelled error, every pagination.

The rules in detail are proven in the other files of this directory; docs/emulator-rules.md says which.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE.parents[1] / "docs" / "emulator-rules.md"


def names_in(path: Path) -> set[str]:
    """Names of the tests in a file."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_the_table_of_rules_names_tests_that_exist():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", RULES.read_text())
    assert named
    gone = [f"{file}::{test}" for file, test in named if test not in names_in(HERE / file)]
    assert gone == []


def test_every_rule_has_a_test():
    rows = [line for line in RULES.read_text().splitlines() if line.startswith("| ")]
    rules = [row for row in rows if not row.startswith(("| rule |", "|---"))]
    assert [row for row in rules if "::" not in row] == []
