"""The emulated HealthLake: resources imported per CPU-second of its process, memory, found again by patient.

    python benchmarks/bench_healthlake.py [--folder DIR] [--patients 20000]

Without a folder of NDJSON files (one type a file, as HealthLake wants them) patients and studies are made on the spot,
which are small. Everything is imported in one job, then once more: every resource gets its second version. Targets:
2,000 resources per CPU-second, S3 reading and writing included; memory grows by less than the bytes of the input; every
study is found by a search for its patient, within 20 ms of CPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from local_aws.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
SEARCHES, SLEEP = 100, 0.25
ROLE = "arn:aws:iam::123456789012:role/import"


def made(patients: int) -> Iterator[tuple[str, bytes]]:
    """Two files: patients, and a study of each."""
    people, studies = [], []
    for number in range(patients):
        name = {"family": f"Family{number}", "given": ["Given"]}
        identifier = {"system": "urn:mrn", "value": str(number)}
        people.append({"resourceType": "Patient", "id": f"p{number}", "name": [name], "identifier": [identifier]})
        series = {"uid": f"1.2.{number}.1", "modality": {"code": "CT"}, "numberOfInstances": 100}
        subject = {"reference": f"Patient/p{number}"}
        studies.append(
            {"resourceType": "ImagingStudy", "id": f"s{number}", "status": "available", "subject": subject}
            | {"started": "2026-01-02", "series": [series]}
        )
    for kind, resources in (("Patient", people), ("ImagingStudy", studies)):
        yield f"{kind}.ndjson", b"".join(json.dumps(resource).encode() + b"\n" for resource in resources)


class Bench:
    """A server, and what its process used."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.process = psutil.Process(int(stack.env["LOCAL_AWS_PID"]))
        self.api, self.s3 = stack.client("healthlake"), stack.client("s3")
        self.here = {"DatastoreId": stack.env["AHI_FHIR_DATASTORE_ID"]}
        self.s3.create_bucket(Bucket="bench")

    def cpu(self) -> float:
        """Seconds so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def run(self) -> dict[str, Any]:
        """One import of everything; the job at its end, with `cpu`."""
        before = self.cpu()
        output = {"S3Configuration": {"S3Uri": "s3://bench/out/", "KmsKeyId": "alias/bench"}}
        uri = {"S3Uri": "s3://bench/in/"}
        job = self.api.start_fhir_import_job(
            InputDataConfig=uri, JobOutputDataConfig=output, DataAccessRoleArn=ROLE, **self.here
        )
        told: dict[str, Any] = {}
        while "EndTime" not in told:
            time.sleep(SLEEP)
            told = self.api.describe_fhir_import_job(JobId=job["JobId"], **self.here)["ImportJobProperties"]
        return told | {"cpu": self.cpu() - before}

    def find(self, patient: str) -> list[str]:
        """Ids of the studies of a patient, by a search."""
        endpoint = self.api.describe_fhir_datastore(**self.here)["DatastoreProperties"]["DatastoreEndpoint"]
        request = AWSRequest("GET", f"{endpoint}ImagingStudy?patient={patient}&_count=100")
        SigV4Auth(Credentials(self.stack.env["AWS_ACCESS_KEY_ID"], "local"), "healthlake", "us-east-1").add_auth(
            request
        )
        with urllib.request.urlopen(
            urllib.request.Request(request.url, headers=dict(request.headers.items()))
        ) as answer:
            return [entry["resource"]["id"] for entry in json.loads(answer.read())["entry"]]


def studies_of(files: dict[str, bytes]) -> dict[str, set[str]]:
    """Studies of each patient, as the files have it."""
    out: dict[str, set[str]] = defaultdict(set)
    for line in files.get("ImagingStudy.ndjson", b"").splitlines():
        study = json.loads(line)
        out[study["subject"]["reference"].partition("/")[2]].add(study["id"])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="NDJSON files")
    parser.add_argument("--patients", type=int, default=20_000, help="how many are made when there is no folder")
    given = parser.parse_args()
    found = ((p.name, p.read_bytes()) for p in sorted(given.folder.glob("*.ndjson"))) if given.folder else None
    files = dict(found or made(given.patients))
    size = sum(map(len, files.values())) / MIB
    with tempfile.TemporaryDirectory() as home, Stack(Path(home), settings={"rate_limits": "off"}) as stack:
        bench = Bench(stack)
        for name, body in files.items():
            bench.s3.put_object(Bucket="bench", Key=f"in/{name}", Body=body)
        start = bench.process.memory_info().rss / MIB
        for what in ("new", "again"):
            job = bench.run()
            report = job["JobProgressReport"]
            count = report["TotalNumberOfResourcesImported"]
            assert job["JobStatus"] == "COMPLETED", job
            grown = bench.process.memory_info().rss / MIB - start
            print(
                f"{what:6} {count:>8,} resources, {size:6.1f} MiB: {job['cpu']:6.2f} s of CPU, "
                f"{count / job['cpu']:>8,.0f} a CPU-second, memory +{grown:.0f} MiB"
            )
        wanted = studies_of(files)
        before = bench.cpu()
        some = sorted(wanted)[:: max(1, len(wanted) // SEARCHES)]
        wrong = [patient for patient in some if set(bench.find(patient)) != wanted[patient]]
        print(
            f"search {len(some)} patients of {len(wanted):,}, {len(wrong)} wrong: "
            f"{(bench.cpu() - before) / len(some) * 1000:.1f} ms of CPU each, with a DescribeFHIRDatastore"
        )
        assert not wrong


if __name__ == "__main__":
    main()
