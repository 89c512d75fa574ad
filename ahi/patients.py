"""Who a patient is to us: the keyed hash behind `patient_key`.

Belongs here: its secret. Does not belong here: the hash itself (`ahi.documents`).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.documents import patient_key_function
from ahi.index import catalog
from ahi.index.engine import insert_missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from ahi.index.store import Index
    from ahi.pipeline import Pipeline
    from ahi.settings import Settings

_NAME = "patient_key_secret"


def patient_key_of(pipeline: Pipeline) -> Callable[[str | None, str | None], str | None]:
    """Function from issuer and PatientID to `patient_key`, with this deployment's secret."""
    return patient_key_function(secret_of(pipeline))


def secret_of(pipeline: Pipeline) -> bytes:
    """Secret of the keyed hash behind `patient_key`: from the settings, or made once and kept in the catalog.

    Losing it changes every patient_key at the next re-index, so a deployment sets its own.
    """
    index, settings = pipeline.index, pipeline.settings
    if not known_secret(index, settings):
        with index.transaction() as connection:
            value = {"name": _NAME, "value": secrets.token_hex(32)}
            insert_missing(connection, catalog.state, [value])
    return known_secret(index, settings)


def known_secret(index: Index, settings: Settings) -> bytes:
    """The secret, or nothing if none was needed yet."""
    if settings.patient_key_secret:
        return settings.patient_key_secret.encode()
    with index.engine.connect() as connection:
        mine = sa.select(catalog.state.c.value).where(catalog.state.c.name == _NAME)
        return (connection.scalar(mine) or "").encode()
