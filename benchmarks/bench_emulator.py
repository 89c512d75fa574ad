"""The embedded AWS: instances imported per CPU-second of its process, memory, metadata reads, start-up.

    python benchmarks/bench_emulator.py [--jobs 4] [--instances 5000] [--folder DIR]

Targets: 300 instances per CPU-second, S3 reading included; memory flat over four jobs of 5,000; GetImageSetMetadata of
1,000 instances within 50 ms of CPU; ready within 3 s. Objects are made on the spot (CT, 64 x 64 pixels, 2.5 KB of
private elements, series of 250, the last of 1,000) or are the files of DIR, cut into jobs by name.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psutil
from botocore.config import Config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

if TYPE_CHECKING:
    from collections.abc import Iterator

PER_SERIES, LONG_SERIES, SIDE = 250, 1000, 64
MIB = 2**20
SLEEP, READS = 0.25, 20


def template() -> bytes:
    """One CT object; the numbers in its UIDs are of constant width, so that they can be overwritten in place."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.1000000003"
    data.SOPClassUID, data.StudyInstanceUID, data.SeriesInstanceUID = (
        CTImageStorage,
        "1.2.3.1000000001",
        "1.2.3.1000000002",
    )
    data.ImageType, data.Modality, data.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "SYNTHETIC"
    data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = (
        "P1000000001",
        "Doe^Jane",
        "19500101",
        "O",
    )
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20260101"
    data.StudyTime = data.SeriesTime = data.ContentTime = "101500"
    data.AccessionNumber, data.StudyID, data.StudyDescription = "A1000000001", "1", "CHEST W CONTRAST"
    data.SeriesNumber, data.InstanceNumber, data.SeriesDescription = 1, 1, "THIN"
    data.BodyPartExamined, data.SliceThickness, data.KVP, data.PatientPosition = "CHEST", "1.25", "120", "HFS"
    data.ImagePositionPatient, data.ImageOrientationPatient = ["-150", "-150", "-12.5"], ["1", "0", "0", "0", "1", "0"]
    data.FrameOfReferenceUID, data.SliceLocation = "1.2.3.1000000002", "-12.5"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTCHEST", "99SYN", "Procedure"
    data.ProcedureCodeSequence = [code]
    block = data.private_block(0x0029, "BENCH", create=True)
    for number in range(6):
        block.add_new(number, "OB", bytes(range(256)) + bytes(160))
    data.SamplesPerPixel, data.PhotometricInterpretation, data.Rows, data.Columns = 1, "MONOCHROME2", SIDE, SIDE
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelSpacing, data.WindowCenter, data.WindowWidth = ["0.7", "0.7"], "40", "400"
    data.RescaleIntercept, data.RescaleSlope = "-1024", "1"
    data.PixelData = os.urandom(SIDE * SIDE * 2)
    data.save_as(body := io.BytesIO(), enforce_file_format=True)
    return body.getvalue()


def made(count: int, job: int, per_series: int) -> Iterator[tuple[str, bytes]]:
    """Objects of one job: keys and bytes."""
    base = template()
    for number in range(count):
        whole, series = job * 1_000_000 + number, job * 1_000_000 + number // per_series
        numbers = {b"1.2.3.1000000001": series // 4, b"1.2.3.1000000002": series, b"1.2.3.1000000003": whole}
        patched = re.sub(rb"1\.2\.3\.100000000[123]", lambda m: b"1.2.3.1%09d" % numbers[m[0]], base)  # noqa: B023
        yield f"{number:06}.dcm", patched


class Server:
    """A server of the benchmark's own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local_aws", "--home", str(home), "--port", "0"],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"LOCAL_AWS_RATE_LIMITS": "off"},
        )
        while not (home / "stack.env").exists():
            if self._process.poll() is not None:
                raise SystemExit("The embedded AWS did not start")
            time.sleep(0.01)
        self.start_seconds = time.monotonic() - started
        self.env = dict(line.split("=", 1) for line in (home / "stack.env").read_text().splitlines())
        self._watched = psutil.Process(self._process.pid)
        self.api = boto3.client(
            "medical-imaging",
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key="x",
            config=Config(inject_host_prefix=False),
        )

    def cpu(self) -> float:
        """CPU-seconds of the process so far."""
        times = self._watched.cpu_times()
        return times.user + times.system

    def rss(self) -> float:
        """Resident memory in MiB."""
        return self._watched.memory_info().rss / MIB

    def put(self, prefix: str, objects: Iterator[tuple[str, bytes]]) -> int:
        """Send objects over four plain connections; returns how many."""
        scope = f"Credential={self.env['AWS_ACCESS_KEY_ID']}/20260101/us-east-1/s3/aws4_request"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}

        def send(mine: list[tuple[str, bytes]]) -> int:
            link = http.client.HTTPConnection("127.0.0.1", int(self.env["AWS_ENDPOINT_URL"].rpartition(":")[2]))
            for name, body in mine:
                link.request("PUT", f"/{self.env['AHI_STAGING_BUCKET']}/{prefix}{name}", body, headers)
                link.getresponse().read()
            link.close()
            return len(mine)

        everything = list(objects)
        with ThreadPoolExecutor(4) as pool:
            sent = sum(pool.map(send, (everything[n::4] for n in range(4))))
        self.forget_calls()
        return sent

    def forget_calls(self) -> None:
        """Empty the log of calls: it grows to 50,000 entries, whatever is imported."""
        link = http.client.HTTPConnection("127.0.0.1", int(self.env["AWS_ENDPOINT_URL"].rpartition(":")[2]))
        link.request("DELETE", "/_local_aws/log")
        link.getresponse().read()
        link.close()

    def run(self, prefix: str) -> dict[str, Any]:
        """Run one import job to its end."""
        store = self.env["AHI_DATASTORE_ID"]
        job = self.api.start_dicom_import_job(
            datastoreId=store,
            dataAccessRoleArn=self.env["AHI_IMPORT_ROLE_ARN"],
            inputS3Uri=f"s3://{self.env['AHI_STAGING_BUCKET']}/{prefix}",
            outputS3Uri=f"s3://{self.env['AHI_LAKE_BUCKET']}/jobs/",
        )["jobId"]
        while True:
            state = self.api.get_dicom_import_job(datastoreId=store, jobId=job)["jobProperties"]
            if state["jobStatus"] in {"COMPLETED", "FAILED"}:
                return dict(state)
            time.sleep(SLEEP)

    def largest(self) -> str:
        """The image set with the most instances."""
        pages = self.api.get_paginator("search_image_sets").paginate(datastoreId=self.env["AHI_DATASTORE_ID"])
        found = [s for page in pages for s in page["imageSetsMetadataSummaries"]]
        best = max(found, key=lambda s: s["DICOMTags"]["DICOMNumberOfStudyRelatedInstances"])
        print(f"image sets: {len(found)}, the largest of {best['DICOMTags']['DICOMNumberOfStudyRelatedInstances']}")
        return str(best["imageSetId"])

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


def one_job(server: Server, prefix: str, objects: Iterator[tuple[str, bytes]]) -> None:
    """Send, import, print."""
    count = server.put(prefix, objects)
    before, resident, started = server.cpu(), server.rss(), time.monotonic()
    state = server.run(prefix)
    cpu, wall = server.cpu() - before, time.monotonic() - started
    server.forget_calls()
    print(
        f"{prefix:8}{count:6} instances  {cpu:6.2f} CPU-s  {count / cpu:6.0f}/CPU-s  {wall:6.1f} s"
        f"  RSS {resident:5.0f} -> {server.rss():5.0f} MiB  {state['jobStatus']} {state.get('message', '')}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--instances", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="DICOM files to use instead of made ones")
    asked = parser.parse_args()
    files = sorted(p for p in asked.folder.rglob("*") if p.is_file()) if asked.folder else []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "home")
        print(f"ready after {server.start_seconds:.2f} s, {server.cpu():.2f} CPU-s; RSS {server.rss():.0f} MiB")
        for job in range(asked.jobs):
            mine = files[job * asked.instances : (job + 1) * asked.instances]
            read = ((f"{n:06}.dcm", p.read_bytes()) for n, p in enumerate(mine))
            one_job(server, f"job{job}/", read if files else made(asked.instances, job, PER_SERIES))
        one_job(server, "long/", made(LONG_SERIES, 999, LONG_SERIES))
        one_job(server, "longer/", made(2, 999, LONG_SERIES))
        wanted = {"datastoreId": server.env["AHI_DATASTORE_ID"], "imageSetId": server.largest()}
        before = server.cpu()
        for _ in range(READS):
            size = len(server.api.get_image_set_metadata(**wanted)["imageSetMetadataBlob"].read())
        print(f"GetImageSetMetadata: {(server.cpu() - before) / READS * 1000:.1f} ms CPU, {size / 1024:.0f} KiB gzip")
        server.stop()
    print(f"peak RSS of the server {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
