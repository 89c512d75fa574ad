"""A resource ready to be sent. Belongs here: its bytes, its digest, and ids that never change and tell nothing.

Does not belong here: what is in it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

import orjson


class Resource(NamedTuple):
    """One resource.

    Attributes:
        kind: resourceType.
        id: Its id.
        body: JSON without a line end; identical rows give identical bytes.
        subject: Id of its Patient; empty when it has none.
    """

    kind: str
    id: str
    body: bytes
    subject: str = ""

    @property
    def reference(self) -> str:
        """`Type/id`."""
        return f"{self.kind}/{self.id}"

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.body).hexdigest()


def resource(content: dict[str, object], subject: str = "") -> Resource:
    """A resource from its members; those that are None or empty are left out, as FHIR has no empty values."""
    members = {name: value for name, value in content.items() if value is not None and value not in ("", [], {})}
    return Resource(str(members["resourceType"]), str(members["id"]), orjson.dumps(members), subject)


def study_id(study_uid: str) -> str:
    """Id of the ImagingStudy of a study: a hash, as a UID would stand in addresses and logs.

    SHA-256 in hex has exactly the 64 characters that an id may have.
    """
    return hashlib.sha256(f"ImagingStudy urn:oid:{study_uid}".encode()).hexdigest()


def unknown_patient_id(study_uid: str, secret: bytes) -> str:
    """Id of the Patient of a study whose PatientID names nobody: a keyed hash, as every patient's.

    Raises ValueError for an empty secret.
    """
    if not secret:
        raise ValueError("The secret of patients' ids is empty: set AHI_PATIENT_KEY_SECRET.")
    return hmac.digest(secret, f"Patient of urn:oid:{study_uid}".encode(), "sha256").hex()


def endpoint_id(address: str) -> str:
    """Id of the Endpoint of an address."""
    return hashlib.sha256(f"Endpoint {address}".encode()).hexdigest()


def endpoint(address: str) -> Resource:
    """The DICOMweb service behind an address; a study is at `address/studies/UID` (R4 Endpoint, PS3.18)."""
    return resource(
        {
            "resourceType": "Endpoint",
            "id": endpoint_id(address),
            "status": "active",
            "connectionType": {
                "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
                "code": "dicom-wado-rs",
            },
            "name": "DICOMweb service of AWS HealthImaging",
            "payloadType": [{"text": "DICOM"}],
            "payloadMimeType": ["application/dicom"],
            "address": address,
        }
    )
