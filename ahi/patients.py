"""Who a patient is to us: the keyed hash behind `patient_key`.

Belongs here: its secret. Does not belong here: the hash itself (`ahi.documents`).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.documents import patient_key_function
from ahi.index import catalog

if TYPE_CHECKING:
    from collections.abc import Callable

    from ahi.pipeline import Pipeline


def patient_key_of(pipeline: Pipeline) -> Callable[[str | None, str | None], str]:
    """Function from issuer and PatientID to `patient_key`, with this deployment's secret."""
    return patient_key_function(secret_of(pipeline))


def secret_of(pipeline: Pipeline) -> bytes:
    """Secret of the keyed hash behind `patient_key`: from the settings, or made once and kept in the catalog.

    Losing it changes every patient_key at the next re-index, so a deployment sets its own.
    """
    if pipeline.settings.patient_key_secret:
        return pipeline.settings.patient_key_secret.encode()
    table = catalog.state
    mine = sa.select(table.c.value).where(table.c.name == "patient_key_secret")
    with pipeline.index.engine.connect() as connection:
        value = connection.execute(mine).scalar_one_or_none()
    if value is None:
        with pipeline.index.transaction() as connection:
            value = connection.execute(mine).scalar_one_or_none()
            if value is None:
                value = secrets.token_hex(32)
                connection.execute(table.insert().values(name="patient_key_secret", value=value))
    return str(value).encode()
