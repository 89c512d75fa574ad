"""Materializations of assets that the run of another one brought up to date.

Belongs here: what such a run says of them. Does not belong here: an asset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi.documents import PARSER_VERSION
from ahi.index.registry import SCHEMA_VERSION
from ahi_assets.common import counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.indexing import IndexReport

CODE_VERSION = f"{SCHEMA_VERSION}/{PARSER_VERSION}"
"""Of everything that is made from documents."""


def tell(
    context: dg.AssetExecutionContext, asset: str, day: str, numbers: Mapping[str, int], *, code: str | None = None
) -> None:
    """Tell of an arrival day of an asset, made by a version of the code, unless there is nothing to tell."""
    if said := counts(numbers):
        tags = {"dagster/code_version": code} if code else None
        context.log_event(dg.AssetMaterialization(asset, partition=day, metadata=said, tags=tags))


def tell_of_documents(
    context: dg.AssetExecutionContext, day: str, looked: Mapping[str, int], report: IndexReport
) -> None:
    """Tell of image sets that were looked at, and of the tables that got rows."""
    tell(context, "image_sets", day, looked)
    for name, rows in report.rows.items():
        tell(context, name, day, {"rows_written": rows}, code=CODE_VERSION)
