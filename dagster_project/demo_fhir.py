"""`python -m dagster_project.demo_fhir [FOLDER]`: DICOM and NDJSON into HealthLake, told step by step.

Starts a stack of its own like `make demo`, sends the DICOM samples and 7,031 FHIR resources of synthetic patients, or
those of a folder, and asks HealthLake for the ImagingStudies of patients of both. Belongs here: the story. Does not
belong here: anything it shows.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_project.demo import SAMPLES, Teller, perform, say
from dagster_project.stack import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster_project.stack import Stack

SYNTHEA = REPOSITORY / "samples" / "synthea2021.tar.xz"
WAIT_SECONDS = 600


def tell(stack: Stack, folder: Path) -> bool:
    """Show FHIR on its way.

    Returns:
        Whether every command worked and a search by patient finds studies of both origins.
    """
    teller = Teller(stack)
    lines = sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.ndjson"))
    say(f"\n2. Plan {lines:,} FHIR resources as batches, four files each, and send DICOM meanwhile")
    teller.run("fhir", "import", str(folder), "--policy", "continue", "--files-per-batch", "4")
    teller.run("send", str(SAMPLES.relative_to(REPOSITORY)))
    teller.run("wait", "--timeout", str(WAIT_SECONDS), title="3. Wait until the last image is accounted for")
    teller.run("fhir", "index", title="4. Make FHIR of the index, as a schedule does")
    teller.run(
        "fhir", "wait", "--timeout", str(WAIT_SECONDS), title="5. Wait until the chain of import jobs is through"
    )
    teller.run("fhir", "status", title="6. Where everything is")
    teller.run("fhir", "failures", title="7. What did not go in, and why")
    say("\n8. Ask HealthLake for the ImagingStudies of a patient")
    found = [_show(teller, name, patient) for name, patient in patients_of_both(teller, folder).items()]
    if teller.failed:
        say(f"\nThese commands failed: {', '.join(teller.failed)}.")
    return bool(found) and all(found) and len(found) == 2 and not teller.failed  # noqa: PLR2004


def patients_of_both(teller: Teller, folder: Path) -> dict[str, str]:
    """Ids of a patient of the NDJSON, and of one whose images were sent."""
    with next(folder.rglob("ImagingStudy.ndjson")).open("rb") as lines:
        history = str(json.loads(next(lines))["subject"]["reference"]).removeprefix("Patient/")
    keyed = "SELECT patient_key FROM series WHERE patient_key IS NOT NULL AND PatientID = '77654033' LIMIT 1"
    rows = teller.ask("query", keyed)
    own = {"of the images": str(rows[0]["patient_key"])} if isinstance(rows, list) and rows else {}
    return {"of the NDJSON": history, **own}


def _show(teller: Teller, name: str, patient: str) -> int:
    bundle = get(teller.environment, f"ImagingStudy?patient={patient}&_count=100")
    studies = [entry["resource"] for entry in bundle.get("entry", ())]
    say(f"   patient {name}: {len(studies)} ImagingStudies")
    for study in studies[:3]:
        said = ", ".join(sorted({series["modality"]["code"] for series in study.get("series", ())}))
        say(f"     {study.get('started', 'no date')}  {said}  {study.get('numberOfInstances', '?')} instances")
    return len(studies)


def get(environment: Mapping[str, str], path: str) -> dict[str, Any]:
    """GET of HealthLake's FHIR REST interface, signed."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"{environment['AWS_ENDPOINT_URL']}/datastore/{environment['AHI_FHIR_DATASTORE_ID']}/r4/{path}"
    request = AWSRequest("GET", url)
    credentials = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, "healthlake", environment["AWS_REGION"]).add_auth(request)
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(request.headers)), timeout=60) as answer:  # noqa: S310
        found: dict[str, Any] = json.loads(answer.read())
    return found


def main() -> None:
    """Tell the story; exit 1 if a search comes back empty or a command fails."""
    with tempfile.TemporaryDirectory(prefix="ahi-fhir-") as unpacked:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else unpacked).resolve()
        if len(sys.argv) == 1:
            with tarfile.open(SYNTHEA) as archive:
                archive.extractall(folder, filter="data")
        perform(lambda stack: tell(stack, folder), "Both are in HealthLake", "NOT everything worked")


if __name__ == "__main__":
    main()
