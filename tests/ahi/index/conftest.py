"""An index in a temporary folder, and rows for it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.store import Head, Index
from tests.postgresql_fixtures import new_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Row = dict[str, object]
# Series of `upload` and `index_documents`.
STUDY, SERIES = "1.2", "1.2.9"


@pytest.fixture
def template(index_template: Path) -> Path:
    return index_template


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_catalogs: the test runs on SQLite and on PostgreSQL")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_catalogs"):
        metafunc.parametrize("catalog_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new catalog: SQLite, or with the mark `both_catalogs` also a schema of PostgreSQL."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'index' / 'catalog.sqlite'}"
    return new_schema(request.getfixturevalue("postgresql"))


@pytest.fixture
def index(tmp_path: Path, template: Path, catalog_url: str) -> Index:
    root = tmp_path / "index"
    index = Index(root, catalog_url, grace_seconds=0)
    shutil.copy(template, root)
    return index


@pytest.fixture
def series_row() -> Callable[..., Row]:
    def make(image_set_id: str, version: int = 1, **values: object) -> Row:
        return {
            "datastore_id": "store",
            "image_set_id": image_set_id,
            "image_set_version": version,
            "is_primary": True,
            "StudyInstanceUID": "1.2.3",
            "SeriesInstanceUID": f"1.2.3.{image_set_id}",
            "Modality": "CT",
            "n_instances": version,
        } | values

    return make


@pytest.fixture
def put(index: Index, series_row: Callable[..., Row]) -> Callable[..., list[Head]]:
    """Commit one version of each image set named, with `version` instance rows each; gives the winners."""

    def commit(batch_id: str, sets: dict[str, int], *, replace: bool = False, **values: object) -> list[Head]:
        rows = [series_row(name, version, **values) for name, version in sets.items()]
        instances = [
            {key: row[key] for key in ("datastore_id", "image_set_id", "image_set_version", "is_primary")}
            | {"SOPInstanceUID": f"{row['SeriesInstanceUID']}.{number}", "InstanceNumber": number}
            for row in rows
            for number in range(int(str(row["image_set_version"])))
        ]
        files = [
            index.write("series", rows, batch_id=batch_id),
            index.write("instances", instances, batch_id=batch_id),
        ]
        primary = bool(values.get("is_primary", True))
        heads = [
            Head("store", name, version, primary, "1.2.3", f"1.2.3.{name}", version) for name, version in sets.items()
        ]
        with index.commit(batch_id=batch_id, kind="test", files=files) as open_commit:
            return open_commit.raise_heads(heads, replace=replace)

    return commit


@pytest.fixture
def shown(index: Index) -> Callable[[], dict[str, tuple[int, int]]]:
    """What analysts see: version and number of instance rows by image set."""

    def read() -> dict[str, tuple[int, int]]:
        index.publish()
        counts = dict(index.query("SELECT image_set_id, count(*) FROM instances_all GROUP BY ALL").rows)
        rows = index.query("SELECT image_set_id, image_set_version FROM series_all").rows
        assert len({name for name, _ in rows}) == len(rows), "one row for each image set"
        return {str(name): (int(str(version)), int(str(counts.get(name, 0)))) for name, version in rows}

    return read


@pytest.fixture
def land(index: Index) -> Callable[..., int]:
    """Put objects into the ledger in one commit of their own; gives its number."""

    def commit(*object_ids: str, day: str = "2026-11-21", state: str = "ready", header: bool = False) -> int:
        with index.commit(kind="land") as open_commit:
            for object_id in object_ids:
                values = {
                    "bucket": "b",
                    "key": object_id,
                    "state": state,
                    "state_since": now(),
                    "day": day,
                    "landed_at": now(),
                    "changed_seq": open_commit.seq,
                    "header_seq": open_commit.seq if header else None,
                    "header_at": now() if header else None,
                }
                changed = open_commit.connection.execute(
                    c.objects.update().where(c.objects.c.object_id == object_id).values(**values)
                )
                if not changed.rowcount:
                    open_commit.connection.execute(c.objects.insert().values(object_id=object_id, attempts=0, **values))
            return open_commit.seq

    return commit


@pytest.fixture
def upload(index: Index):
    """Commit header rows of objects named by their SOP instance, in one state."""
    index.datastore_id = "store"

    def commit(*names: str, state: str = "ready", series: str = SERIES, prefix: str = "", **values: object) -> None:
        batch_id = f"up:{prefix}{'.'.join(names)}"
        rows = [
            {"object_id": f"{prefix}{name}", "StudyInstanceUID": STUDY, "SeriesInstanceUID": series}
            | {"SOPInstanceUID": f"{series}.{name}", "Modality": "CT", "patient_key": "k", "PatientID": "P"}
            | values
            for name in names
        ]
        with index.commit(batch_id=batch_id, kind="up", files=[index.write("headers", rows, batch_id=batch_id)]) as one:
            ledger = [
                {name: row[name] for name in ("object_id", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
                | {"bucket": "b", "key": row["object_id"], "state": state, "state_since": now(), "day": "2026-11-21"}
                | {"landed_at": now(), "header_seq": one.seq, "changed_seq": one.seq, "attempts": 0}
                for row in rows
            ]
            one.connection.execute(c.objects.insert(), ledger)

    return commit


@pytest.fixture
def index_documents(index: Index):
    """Commit an image set of the series with some instances, as HealthImaging's document gives it."""

    def commit(*names: str, version: int = 1, is_primary: bool = True, image_set_id: str = "i", **values: object):
        batch_id = f"doc:{image_set_id}{version}"
        base = {"datastore_id": "store", "image_set_id": image_set_id, "image_set_version": version}
        base |= {"is_primary": is_primary, "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}
        series = [base | {"Modality": "CT", "patient_key": "k", "n_instances": len(names), "PatientID": "P"} | values]
        files = [
            index.write("series", series, batch_id=batch_id),
            index.write("instances", [base | {"SOPInstanceUID": f"{SERIES}.{x}"} for x in names], batch_id=batch_id),
        ]
        with index.commit(batch_id=batch_id, kind="doc", files=files) as one:
            one.raise_heads([Head("store", image_set_id, version, is_primary, STUDY, SERIES, len(names))])

    return commit


@pytest.fixture
def change(index: Index):
    """Change ledger rows in one commit, which may be the one that indexes them."""

    def commit(*object_ids: str, indexed: bool = False, **values: object) -> None:
        with index.commit(kind="change") as one:
            values |= {"indexed_seq": one.seq, "indexed_at": now()} if indexed else {}
            some = c.objects.update().where(c.objects.c.object_id.in_(object_ids))
            one.connection.execute(some.values(changed_seq=one.seq, **values))

    return commit
