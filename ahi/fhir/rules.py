"""Choices of a deployment for FHIR made from the index. Belongs here: what the mapping cannot know from DICOM.

Does not belong here: the mapping itself (`values`, `patient`, `imaging_study`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

# Rises when the same rows give other bytes: then every resource is made and sent again.
MAPPING_VERSION = "2"


@dataclass(frozen=True)
class Rules:
    """How rows become resources.

    Attributes:
        dicomweb_root: Address of the DICOMweb service, with `{datastore_id}` where it stands.
        time_zone: Zone of dates with times whose objects name no offset. None: then the date alone is told, as FHIR
            allows no time without an offset.
        patient_id_systems: URI of the identifiers of each issuer (IssuerOfPatientID).
        default_patient_id_system: URI of identifiers without an issuer; empty: none is told.
        accession_systems: The same for issuers of accession numbers, by local or universal entity id.
        default_accession_system: URI of accession numbers without an issuer; empty: none is told.
        placeholder_ids: PatientIDs, in capitals, that name nobody. Their studies do not share a patient.
        linked_patients: Ids of FHIR Patients that exist already, by patient_key; for them no Patient is made.
        image_set_extension: URL of an extension of series with the id of the HealthImaging image set; empty: none.
        most_instances: A study with more lists its series without their instances: FHIR has no pages within a resource,
            and at about 34,000 instances it passes the 5 MB that HealthLake's REST interface takes.
        secret: Key of the hashes that stand for patients. It tells nothing in the digest.
    """

    dicomweb_root: str
    time_zone: dt.tzinfo | None = None
    patient_id_systems: Mapping[str, str] = field(default_factory=dict)
    default_patient_id_system: str = ""
    accession_systems: Mapping[str, str] = field(default_factory=dict)
    default_accession_system: str = ""
    placeholder_ids: frozenset[str] = frozenset({"", "ANON", "ANONYMOUS", "ANONYMIZED", "UNKNOWN", "NONE"})
    linked_patients: Mapping[str, str] = field(default_factory=dict)
    image_set_extension: str = ""
    most_instances: int = 30_000
    secret: bytes = b""

    @property
    def digest(self) -> str:
        """Changes with everything that the same rows give other bytes by."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "secret"}
        values |= {"time_zone": str(self.time_zone), "placeholder_ids": sorted(self.placeholder_ids)}
        text = orjson.dumps([MAPPING_VERSION, values], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()[:16]


def healthimaging_root(region: str) -> str:
    """DICOMweb address of HealthImaging data stores in a region; requests to it are signed (SigV4)."""
    return f"https://dicom-medical-imaging.{region}.amazonaws.com/datastore/{{datastore_id}}"
