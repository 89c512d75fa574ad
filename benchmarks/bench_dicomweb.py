"""DICOMweb of the embedded AWS: CPU of its process for each search over many image sets.

    python benchmarks/bench_dicomweb.py [--studies 2000] [--reads 10]

Target: a study search over 2,000 image sets within 100 ms of CPU. Objects are made on the spot, two a study and a
series of 1,000, and stored by STOW-RS; the first search after it also takes them into the index.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

PER_REQUEST, LONG_SERIES, BOUNDARY = 250, 1000, "b0undary"
SEARCHES = (
    *("studies", "studies?limit=25", "studies?PatientID=P17", "studies?fuzzymatching=true&PatientName=doe"),
    *("studies?StudyDate=20260101-20260131&ModalitiesInStudy=CT", "studies?StudyDescription=*CHEST*"),
    *(
        "studies?limit=25&includefield=all",
        "series?limit=25",
        "instances?limit=25",
        "instances?SOPInstanceUID=1.2.17.0",
    ),
)


def made(study: int, instance: int) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.{study}.{instance}"
    data.SOPClassUID, data.StudyInstanceUID, data.SeriesInstanceUID = CTImageStorage, f"1.3.{study}", f"1.4.{study}"
    data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = (
        f"P{study}",
        f"Doe^{study}",
        "19500101",
        "O",
    )
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20260101", "101500", "1", f"A{study}"
    data.StudyDescription, data.Modality, data.SeriesNumber, data.InstanceNumber = "CHEST", "CT", 1, instance
    data.add_new(0x00090010, "LO", "FILLER")
    data.add_new(0x00091001, "LO", "x" * 60)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--reads", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "local_aws", "--home", f"{folder}/home", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                measure(options, psutil.Process(server.pid), Path(folder) / "home" / "stack.env")
            finally:
                server.terminate()


def measure(options: argparse.Namespace, process: psutil.Process, ready: Path) -> None:
    while not ready.exists():
        time.sleep(0.1)
    env = dict(line.split("=", 1) for line in ready.read_text().splitlines())
    base = f"{env['AWS_ENDPOINT_URL']}/datastore/{env['AHI_DATASTORE_ID']}"

    def cpu() -> float:
        times = process.cpu_times()
        return times.user + times.system

    def call(path: str, body: bytes | None = None) -> bytes:
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        request = urllib.request.Request(f"{base}/{path}", data=body, headers={"Content-Type": kind} if body else {})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read()

    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    objects = [made(study, instance) for study in range(options.studies) for instance in range(2)]
    before = cpu()
    for start in range(0, len(objects), PER_REQUEST):
        parts = objects[start : start + PER_REQUEST]
        call("studies", b"".join(head + p + b"\r\n" for p in parts) + f"--{BOUNDARY}--".encode())
    print(f"{'store ' + str(len(objects)):64} {len(objects) / (cpu() - before):8.0f} instances/CPU-s")
    for start in range(0, LONG_SERIES, PER_REQUEST):
        parts = [made(options.studies, n) for n in range(start, start + PER_REQUEST)]
        call("studies", b"".join(head + p + b"\r\n" for p in parts) + f"--{BOUNDARY}--".encode())
    before = cpu()
    call("studies")
    print(f"{'first search, which indexes':64} {cpu() - before:8.2f} s CPU")
    series = f"studies/1.3.{options.studies}/series/1.4.{options.studies}/metadata"
    for path in (*SEARCHES, series):
        before = cpu()
        for _ in range(options.reads):
            found = call(path)
        print(f"{path:64} {(cpu() - before) / options.reads * 1000:8.1f} ms CPU, {len(json.loads(found))} results")


if __name__ == "__main__":
    main()
