"""Patients of the index: what the site's rules add to them, and what stays of them when their studies go."""

from __future__ import annotations

import hashlib
import io

import pydicom

from ahi.healthlake.closure import study_closure
from ahi.healthlake.from_index import plan_changes
from tests.ahi.healthlake.index_site import bury, in_healthlake, send_fhir, site
from tests.site_fixtures import SAMPLES, make_site

__all__ = ["make_site", "site"]


def names(site) -> list[list[str]]:
    return sorted([one["family"] for one in patient.get("name", [])] for patient in in_healthlake(site, "Patient"))


def test_a_patient_says_what_the_studies_of_now_and_the_rules_of_now_say(site, monkeypatch):
    other = pydicom.dcmread(SAMPLES / "pydicom" / "MR2" / "15970")
    other.PatientName = "Roe^Peter"
    buffer = io.BytesIO()
    other.save_as(buffer)
    site.put("in/other.dcm", buffer.getvalue())
    site.send(["pydicom/MR2/4981", "pydicom/reportsi.dcm"])
    site.drive()
    plan_changes(site.pipeline)
    send_fhir(site)
    assert names(site) == [["Doe", "Roe"], ["Last Name"]]
    [[nobodys]] = site.rows("SELECT StudyInstanceUID FROM series WHERE Modality = 'SR'")
    plain = hashlib.sha256(f"Patient of urn:oid:{nobodys}".encode()).hexdigest()
    assert plain not in {one["id"] for one in in_healthlake(site, "Patient")}, "a plain hash of a UID can be guessed"
    rules = site.home / "rules.toml"
    rules.write_text('default_patient_id_system = "https://site.example/mrn"\n')
    monkeypatch.setitem(site.pipeline.settings.__dict__, "fhir_rules", rules)
    counts = plan_changes(site.pipeline)
    assert (counts["studies"], counts["resources"]) == (3, 1), "only one Patient has an identifier"
    send_fhir(site)
    told = [one["identifier"][0]["system"] for one in in_healthlake(site, "Patient") if "identifier" in one]
    assert told == ["https://site.example/mrn"]
    bury(site, str(other.StudyInstanceUID))
    counts = plan_changes(site.pipeline)
    assert (counts["retracted"], counts["resources"], counts["patients_retired"]) == (1, 2, 0)
    send_fhir(site)
    assert names(site) == [["Doe"], ["Last Name"]], "the name that only the deleted study had is gone"
    assert study_closure(site.pipeline).closes
