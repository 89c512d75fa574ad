"""Resources. Belongs here: handing domain objects to assets and sensors, with the run they work for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from ahi.pipeline import Pipeline
    from ahi.settings import Settings


def pipeline_resource(settings: Settings | None) -> dg.ResourceDefinition:
    """A resource that gives each run and each tick a `ahi.pipeline.Pipeline`.

    Settings are read when a step or a tick first needs them, not when definitions load, so that loading needs no
    environment. The ticks of one code server share their clients; a run is a process of its own.
    """

    @cache
    def connected() -> Pipeline:
        from ahi.pipeline import connect
        from ahi.settings import load_settings

        return connect(settings or load_settings())

    @dg.resource(description="Settings, AWS clients and index")
    def pipeline(context: dg.InitResourceContext) -> object:
        return replace(connected(), run_id=context.run.run_id if context.run else None)

    return pipeline
