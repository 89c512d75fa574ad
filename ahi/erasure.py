"""Erasure of what was deleted in HealthImaging. Belongs here: when it is time, and the documents in the lake.

Does not belong here: rows and files of the index (`ahi.index.erasure`), showing that nothing is left (`ahi.proof`).
Inbox batches and job outputs hold many objects each: lifecycle rules of infra/template.yaml remove those, and FHIR of
other origin. What HealthLake has of a deleted study is taken back, and its row emptied, by the next batch
(`ahi.healthlake`); the lines that told of it go with those of all batches of the index that are as old.
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import TYPE_CHECKING

from ahi.clock import now
from ahi.healthlake.erasure import erase_lines
from ahi.index.erasure import Erased, due, erase

if TYPE_CHECKING:
    from ahi.pipeline import Pipeline


def erase_deleted(pipeline: Pipeline) -> Erased:
    """Erase image sets whose deletion is `erase_after_days` old: documents first, so that nothing makes rows again.

    Lines of FHIR made from the index are kept for as long.
    """
    before = now() - dt.timedelta(days=pipeline.settings.erase_after_days)
    erase_lines(pipeline, before)
    image_sets = due(pipeline.index, before)
    return erase(pipeline.index, image_sets, before=before, delete_documents=partial(_delete_documents, pipeline))


def _delete_documents(pipeline: Pipeline, datastore_id: str, image_set_id: str, upto: int | None) -> None:
    """Every S3 version of the kept documents of an image set up to one of its versions, also if no row knows them."""
    s3, bucket = pipeline.aws.s3, pipeline.settings.lake_bucket
    prefix = f"documents/{datastore_id}/{image_set_id[:2]}/{image_set_id}/"
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            version = entry["Key"].removeprefix(prefix).partition(".")[0]
            if upto is None or not version.isdecimal() or int(version) <= upto:
                s3.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])
