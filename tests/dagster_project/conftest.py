"""Whole stacks of tests of their own, and the PostgreSQL server of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_project.demo import free_port
from dagster_project.stack import Stack, down, up
from tests.postgresql_fixtures import postgresql

__all__ = ["postgresql"]


@pytest.fixture
def stack_settings() -> dict[str, str]:
    """Environment variables of the stack; modules have their own."""
    return {}


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack_settings: dict[str, str]) -> Iterator[Stack]:
    """A running stack of the test's own."""
    for name, value in stack_settings.items():
        monkeypatch.setenv(name, value)
    made = Stack(tmp_path / "home", ui_port=free_port(), aws_port=free_port())
    up(made, lambda line: None)
    yield made
    down(made)
