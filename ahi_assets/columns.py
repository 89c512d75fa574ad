"""How assets describe their tables: columns, and the columns these come from. Belongs here: Dagster's form of both.

Does not belong here: what a column is (`ahi.index.registry`, `ahi.index.catalog`) and comes from (`ahi.index.lineage`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi.index import catalog
from ahi.index.lineage import OF_THE_COMMIT, document_columns, view_columns
from ahi.index.registry import TABLES
from ahi.index.views import public_views

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import sqlalchemy as sa

    from ahi.index.columns import Column

VIEWS = {view.name: view for view in public_views(TABLES)}
DOCUMENTS = "image_sets"
"""The asset whose table lists the kept documents."""


def described(
    name: str, schema: dg.TableSchema, lineage: dg.TableColumnLineage | None = None
) -> dict[str, dg.TableSchema | dg.TableColumnLineage | str]:
    """Metadata of an asset's definition: the name of its table, its columns, and where these come from."""
    known: dict[str, dg.TableSchema | dg.TableColumnLineage | str]
    known = {"dagster/column_schema": schema, "dagster/table_name": name}
    if lineage and lineage.deps_by_column:
        known["dagster/column_lineage"] = lineage
    return known


def view_schema(name: str) -> dg.TableSchema:
    """Dagster's description of a view of the published index, with the tier of each column that the registry knows."""
    view, known = VIEWS[name], {column.name: column for column in TABLES.get(name, TABLES["series"]).columns}
    types = {column.name: column.duckdb_type for column in known.values()} | dict(view.types)
    return dg.TableSchema(
        [
            dg.TableColumn(column, types[column], text, tags=_tier(known.get(column)))
            for column, text in view.columns.items()
        ]
    )


def _tier(column: Column | None) -> dict[str, str]:
    return {"tier": column.tier.value} if column else {}


def catalog_schema(table: sa.Table, *names: str) -> dg.TableSchema:
    """Dagster's description of a table of the catalog, or of some of its columns."""
    return dg.TableSchema(
        [
            dg.TableColumn(column.name, str(column.type), column.comment or None)
            for column in table.columns
            if not names or column.name in names
        ]
    )


def lineage_of_index(name: str) -> dg.TableColumnLineage:
    """Where the columns of a table or view of DICOM attributes come from: a kept document, or the table `series`."""
    if name in TABLES:
        beside = {column.name: column.name for column in catalog.documents.columns}
        beside = {**beside, "image_set_version": "version"}
        return _lineage({DOCUMENTS: document_columns(TABLES[name], beside, catalog.documents.c.object_key.name)})
    return _lineage({"series": view_columns(VIEWS[name], TABLES["series"])})


def lineage_of_headers(landing: dg.TableSchema) -> dg.TableColumnLineage:
    """Where the columns of a header row come from: what S3 says of the object, and the object, which its key names."""
    stated = {prefix + column.name: column.name for column in landing.columns for prefix in ("", "source_")}
    columns = (column.name for column in TABLES["headers"].columns if column.name not in OF_THE_COMMIT)
    return _lineage({"landing_objects": {name: (stated.get(name, "key"),) for name in columns}})


def lineage_by_name(
    schema: dg.TableSchema, upstream: Mapping[str, dg.TableSchema], **others: str
) -> dg.TableColumnLineage:
    """A column that has a namesake in an asset upstream comes from there: so the pipeline's own account is kept.

    `others` are columns whose source upstream has another name.
    """
    names = {column.name for column in schema.columns}
    return _lineage(
        {
            asset: {
                **{column.name: (column.name,) for column in above.columns if column.name in names},
                **{name: (source,) for name, source in others.items() if source in {one.name for one in above.columns}},
            }
            for asset, above in upstream.items()
        }
    )


def _lineage(sources: Mapping[str, Mapping[str, Iterable[str]]]) -> dg.TableColumnLineage:
    """Dagster's form of: asset upstream, column here, columns there."""
    found: dict[str, list[dg.TableColumnDep]] = {}
    for asset, columns in sources.items():
        for column, names in columns.items():
            deps = (dg.TableColumnDep(asset_key=asset, column_name=name) for name in names)
            found.setdefault(column, []).extend(deps)
    return dg.TableColumnLineage(found)
