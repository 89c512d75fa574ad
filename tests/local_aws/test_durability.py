"""What a kill leaves behind: nothing half done, nothing lost that was true, nothing kept that never was."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import time
from collections import Counter

import pytest
from botocore.exceptions import BotoCoreError
from pydicom.uid import generate_uid

from tests.conftest import AwsStack, wait_for
from tests.local_aws.conftest import Imaging, make_object


def files_and_rows(stack):
    """Documents and pixel files on disk, and those that the state knows."""
    folder = stack.home / "aws" / "healthimaging"
    with sqlite3.connect(folder / "state.sqlite") as db:
        documents = {
            f"{store}/{name[:2]}/{name}/{version}.json.gz"
            for store, name, version in db.execute("SELECT datastore_id, id, version FROM versions")
        }
        pixels = {row[0] for row in db.execute("SELECT DISTINCT file FROM pixel_files")}
        left = db.execute("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM pending_documents)").fetchone()
    db.close()
    on_disk = {str(p.relative_to(folder / "documents")) for p in (folder / "documents").rglob("*") if p.is_file()}
    pixels_on_disk = {str(p.relative_to(folder / "pixels")) for p in (folder / "pixels").rglob("*") if p.is_file()}
    return (on_disk, pixels_on_disk), (documents, pixels), left[0]


def killed(stack):
    """Wait until the server is gone by the fault, then start it again."""
    assert stack.process.wait(30) == -signal.SIGKILL
    stack.start()
    return Imaging(stack)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A server of this file's own, with one home through all its deaths."""
    stack = AwsStack(tmp_path_factory.mktemp("killed") / "home").start()
    yield stack
    stack.stop()


@pytest.fixture
def imaging(stack):
    stack.reset()
    return Imaging(stack)


def test_a_kill_in_mid_import_leaves_nothing_half_done(imaging):
    """One home, killed at each point of an import of two series, one of which has an image set already."""
    stack = imaging.stack
    known = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    first = imaging.run({"0.dcm": make_object(**known)})
    old = first.success[0]["importResponse"]["imageSetId"]
    version = 1
    for point, after in (("read", 4), ("document", 1), ("results", 0), ("committed", 0)):
        stack.reset()
        other = {"StudyInstanceUID": known["StudyInstanceUID"], "SeriesInstanceUID": generate_uid()}
        objects = {f"{n}.dcm": make_object(**(known if n % 2 else other)) for n in range(6)}
        uri = imaging.put(objects)
        stack.fault("kill_server", point=point, after=after)
        job_id = imaging.start(uri)["jobId"]
        imaging = killed(stack)
        outcome = imaging.outcome(job_id)
        version += 1
        assert outcome.job["jobStatus"] == "COMPLETED"
        assert outcome.manifest["numberOfImportedFiles"] == 6
        summary = {
            s["imageSetId"]: (s["imageSetVersion"], s["isPrimary"]) for s in outcome.manifest["imageSetsSummary"]
        }
        assert summary.pop(old) == (version, True), point
        assert list(summary.values()) == [(1, True)]
        (new,) = summary
        for name, count in ((old, 1 + 3 * (version - 1)), (new, 3)):
            [series] = imaging.document(name)["Study"]["Series"].values()
            assert len(series["Instances"]) == count
            for one in series["Instances"].values():
                frame = {"imageFrameId": one["ImageFrames"][0]["ID"]}
                assert imaging.api.get_image_frame(
                    datastoreId=imaging.datastore, imageSetId=name, imageFrameInformation=frame
                )["imageFrameBlob"].read()
        # Every event of what is true comes, at least once.
        told = told_until(stack, job_id)
        assert told[("Image Set Created", new)] >= 1
        assert told[("Image Set Updated", old)] >= 1
        on_disk, known_files, left = files_and_rows(stack)
        assert on_disk == known_files
        assert left == 0


def told_until(stack, job_id):
    """Detail-type and subject of every event until that of the job's end, which comes last."""
    told = Counter()

    def ended():
        for queue in ("IMAGE_SET", "IMPORT", "IMAGE_SET"):
            for event in stack.drain(queue):
                detail = event.get("detail", {})
                if subject := detail.get("imageSetId") or detail.get("jobId"):
                    told[event["detail-type"], subject] += 1
        return told["Import Job Completed", job_id]

    wait_for(ended, what="the event of the job's end")
    return told


def test_all_of_it_survives_a_restart(imaging):
    """After a kill with nothing under way, every answer is what it was."""
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    name = imaging.run({"1.dcm": make_object(**shared)}).success[0]["importResponse"]["imageSetId"]
    job = imaging.run({"2.dcm": make_object(**shared), "no.txt": b"no"}).job

    def answers(api):
        everything = {"datastoreId": imaging.datastore}
        one = everything | {"imageSetId": name}
        found = [
            api.get_dicom_import_job(**everything, jobId=job["jobId"]),
            api.list_dicom_import_jobs(**everything),
            api.search_image_sets(
                **everything,
                searchCriteria={
                    "filters": [
                        {"operator": "EQUAL", "values": [{"DICOMSeriesInstanceUID": shared["SeriesInstanceUID"]}]}
                    ]
                },
            ),
            api.get_image_set(**one),
            api.list_image_set_versions(**one),
        ]
        for answer in found:
            answer.pop("ResponseMetadata")
        for one in (found[2]["imageSetsMetadataSummaries"][0], found[3]):
            one.pop("lastAccessedAt")  # reading a document is an access
        return found, [imaging.document(name, versionId=v) for v in "12"]

    before = answers(imaging.api)
    imaging.stack.stop(kill=True)
    imaging.stack.start()
    imaging = Imaging(imaging.stack)
    assert answers(imaging.api) == before


def test_many_kills_at_any_moment(imaging):
    """Killed from outside, whatever it is doing: every job ends, every instance is there once."""
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    bodies = [make_object(**shared) for _ in range(20)]
    wanted = set()
    for round_ in range(2):
        uri = imaging.put({f"{n}.dcm": body for n, body in enumerate(bodies[round_ * 10 : round_ * 10 + 10])})
        wanted.add(imaging.start(uri)["jobId"])
        # Moments spread over the import, which takes some tens of milliseconds: the draw is the test.
        time.sleep(0.015 * round_)
        imaging.stack.stop(kill=True)
        imaging.stack.start()
        imaging = Imaging(imaging.stack)
    outcomes = [imaging.outcome(job) for job in wanted]
    assert {o.job["jobStatus"] for o in outcomes} == {"COMPLETED"}
    [name] = {s["imageSetId"] for o in outcomes for s in o.manifest["imageSetsSummary"]}
    [series] = imaging.document(name)["Study"]["Series"].values()
    assert len(series["Instances"]) == 20
    assert imaging.get(name)["versionId"] == "2"
    on_disk, known_files, left = files_and_rows(imaging.stack)
    assert (on_disk, left) == (known_files, 0)


def change(imaging, image_set, version="1"):
    text = json.dumps({"SchemaVersion": 1.1, "Study": {"DICOM": {"StudyDescription": f"after {version}"}}}).encode()
    imaging.api.update_image_set_metadata(
        datastoreId=imaging.datastore,
        imageSetId=image_set,
        latestVersionId=version,
        updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": text}},
    )


@pytest.mark.parametrize("point", ["settled", "told"])
def test_a_kill_in_mid_update_ends_as_if_there_was_none(imaging, point):
    name = imaging.run({"a": make_object()}).success[0]["importResponse"]["imageSetId"]
    imaging.stack.fault("kill_server", point=point)
    with contextlib.suppress(BotoCoreError):  # the kill may come before the answer
        change(imaging, name)
    imaging = killed(imaging.stack)
    state = wait_for(lambda: (s := imaging.get(name))["imageSetState"] == "ACTIVE" and s, what="the update")
    assert (state["imageSetWorkflowStatus"], state["versionId"]) == ("UPDATED", "2")
    assert imaging.document(name)["Study"]["DICOM"]["StudyDescription"] == "after 1"
    told = []
    wait_for(
        lambda: (
            told.extend(imaging.stack.drain("IMAGE_SET")) or "Image Set Updated" in [t["detail-type"] for t in told]
        ),
        what="the event",
    )
    on_disk, known_files, left = files_and_rows(imaging.stack)
    assert (on_disk, left) == (known_files, 0)


def test_delayed_events_and_late_results_survive_a_kill(imaging):
    imaging.stack.fault("delay_events", detail_type="Import Job Completed", seconds=600)
    imaging.stack.fault("shuffle_events", detail_type="Image Set Created", seconds=600)
    imaging.stack.fault("late_manifest", seconds=600)
    job = imaging.run({"a": make_object(), "b": make_object()}).job
    assert job["jobStatus"] == "COMPLETED"
    assert imaging.result(job, "job-output-manifest.json") is None
    imaging.stack.stop(kill=True)
    imaging.stack.start()
    imaging = Imaging(imaging.stack)
    # The queues are as they were at the last clean stop, and may hold events of other jobs.
    early = [(e["detail-type"], e["detail"].get("jobId")) for e in imaging.stack.drain("IMPORT")]
    assert ("Import Job Completed", job["jobId"]) not in early
    imaging.stack.drain("IMAGE_SET")
    imaging.stack.control("POST", "clock", {"advance": 601})
    told = told_until(imaging.stack, job["jobId"])
    assert sum(count for (kind, _), count in told.items() if kind == "Image Set Created") == 2
    wait_for(lambda: imaging.result(job, "job-output-manifest.json"), what="the manifest")
    assert len(imaging.lines(job, "SUCCESS/success.ndjson")) == 2
