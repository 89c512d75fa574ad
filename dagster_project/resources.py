"""Resources. Belongs here: handing domain objects to assets and sensors, with the run they work for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from ahi.settings import Settings


def pipeline_resource(settings: Settings | None) -> dg.ResourceDefinition:
    """A resource that gives each run and each tick its own `ahi.pipeline.Pipeline`.

    Settings are read when the resource is made, not when definitions load, so that loading needs no environment.
    """

    @dg.resource(description="Settings, AWS clients and index")
    def pipeline(context: dg.InitResourceContext) -> object:
        from ahi.pipeline import connect
        from ahi.settings import load_settings

        return connect(settings or load_settings(), run_id=context.run_id)

    return pipeline
