"""Trouble on demand: events, jobs, results; and a server that is killed in mid-import."""

from __future__ import annotations

import json

import pytest

from tests.conftest import wait_for
from tests.local_aws.healthlake.conftest import make_lake, ndjson, patient
from tests.local_aws.healthlake.fhir import Fhir


def test_events_are_dropped_duplicated_and_reordered(lake, told):
    stack, uri = lake.stack, lake.upload({"a.ndjson": ndjson(patient())})
    stack.fault("drop_events", detail_type="Import Job Submitted", service="healthlake", times=1)
    stack.fault("duplicate_events", detail_type="Import Job Completed", service="healthlake", times=1)
    job = lake.ended(lake.start(uri))["JobId"]
    events = told.of(job, 3)
    assert [e["detail-type"] for e in events] == ["Import Job In Progress", *["Import Job Completed"] * 2]
    assert events[1]["id"] == events[2]["id"]
    stack.fault("shuffle_events", service="healthlake", seconds=2, seed=3)
    jobs = [lake.start(uri) for _ in range(3)]
    lake.ended(jobs[-1])
    stack.control("POST", "clock", {"advance": 2})
    kinds = [told.types(job, 3) for job in jobs]
    assert any(order != sorted(order, key=["S", "Q", "I", "C"].index) for order in ([k[11] for k in o] for o in kinds))


def test_a_share_of_the_events_is_lost_as_the_seed_draws_it(lake, told):
    lake.stack.fault("drop_events", service="healthlake", probability=0.5, seed=1)
    uri = lake.upload({"a.ndjson": ndjson(patient())})
    jobs = [lake.start(uri) for _ in range(5)]
    lake.ended(jobs[-1])
    lake.stack.control("POST", "reset")
    last = lake.ended(lake.start(uri))["JobId"]
    told.of(last, 3)
    assert 3 < len(told.read()) < 5 * 4 + 3


@pytest.mark.parametrize("detail_type", ["Import Job Completed"])
def test_events_of_the_other_service_are_left_alone(lake, told, detail_type):
    lake.stack.fault("drop_events", detail_type=detail_type, service="medical-imaging")
    job = lake.ended(lake.start(lake.upload({"a.ndjson": ndjson(patient())})))["JobId"]
    assert told.types(job, 3)[-1] == detail_type


def test_a_manifest_that_comes_late(lake):
    lake.stack.fault("late_manifest", service="healthlake", seconds=3600)
    job = lake.run({"a.ndjson": ndjson(patient())})
    assert set(lake.results(job)) == {"SUCCESS/a.ndjson"}
    lake.stack.control("POST", "clock", {"advance": 3600})
    wait_for(lambda: "Manifest.json" in lake.results(job), what="the manifest")
    assert lake.manifest(job)["numberOfResourcesImportedSuccessfully"] == 1


def test_server_errors_are_in_the_manifest_alone(lake):
    lake.stack.fault("fail_lines", every=3)
    job = lake.run({"a.ndjson": ndjson(*(patient(f"p{n}") for n in range(7)))})
    assert job["JobStatus"] == "COMPLETED_WITH_ERRORS"
    manifest = lake.manifest(job)
    assert [manifest[f"numberOfResourcesWith{who}Error"] for who in ("Server", "Customer")] == [2, 0]
    assert job["JobProgressReport"]["TotalNumberOfResourcesWithCustomerError"] == 0
    failures = lake.lines(job, "FAILURE/a.ndjson")
    assert [(f["resourceId"], f["UpdateResourceResponse"]["statusCode"]) for f in failures] == [
        ("p2", 500),
        ("p5", 500),
    ]


def test_results_that_are_cut_off(lake):
    lake.stack.fault("cut_failures", kept=0.6)
    job = lake.run({"a.ndjson": ndjson(b"{", b"{")})
    with pytest.raises(json.JSONDecodeError):
        lake.lines(job, "FAILURE/a.ndjson")


def test_jobs_that_fail_with_a_message_and_without(lake, told):
    for message in ("Access to the input was denied", ""):
        lake.stack.fault("fail_job", service="healthlake", message=message)
        job = lake.run({"a.ndjson": ndjson(patient())})
        assert (job["JobStatus"], job.get("Message", "")) == ("FAILED", message)
        assert told.types(job["JobId"], 3)[-1] == "Import Job Failed"


def test_describe_may_lag_behind_the_event(lake, told):
    lake.stack.fault("lag_jobs", seconds=3600, times=1)
    job = lake.start(lake.upload({"a.ndjson": ndjson(patient())}))
    assert told.types(job, 3)[-1] == "Import Job Completed"
    assert lake.job(job)["JobStatus"] == "SUBMITTED"
    assert lake.job(job)["JobStatus"] == "COMPLETED"


LINES = 6_000
FILES = {"a.ndjson": ndjson(*(patient(f"a{n}", language="en") for n in range(3))), "z.txt": b"x"}


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """A server that is killed, with a file of several parts to import."""
    from tests.conftest import AwsStack

    stack = AwsStack(tmp_path_factory.mktemp("mortal") / "home").start()
    yield make_lake(stack)
    stack.stop()


@pytest.mark.parametrize(("point", "after"), [("fhir_results", 0), ("fhir_committed", 2)])
def test_a_kill_in_mid_import_doubles_and_loses_nothing(mortal, point, after):
    padding = "x" * 900
    long = ndjson(*(patient(f"{point[5:]}{n}", language=padding) for n in range(LINES)), b"{")
    mortal.stack.fault("stuck_jobs", service="healthlake")
    mortal.stack.fault("kill_server", point=point, after=after)
    job_id = mortal.start(mortal.upload(FILES | {"b.ndjson": long}))
    waiting = [mortal.start(mortal.upload(FILES)) for _ in range(2)]
    mortal.stack.control("POST", "release")
    mortal.stack.process.wait(30)
    mortal.stack.start()
    mortal.connect()
    job = mortal.ended(job_id)
    assert job["EndTime"] <= mortal.ended(waiting[0])["EndTime"] <= mortal.ended(waiting[1])["EndTime"]
    manifest = mortal.manifest(job)
    assert (job["JobStatus"], manifest["numberOfResourcesScanned"]) == ("COMPLETED_WITH_ERRORS", LINES + 4)
    assert manifest["numberOfResourcesImportedSuccessfully"] == LINES + 3
    ids = [line["resourceId"] for line in mortal.lines(job, "SUCCESS/b.ndjson")]
    assert ids == [f"{point[5:]}{n}" for n in range(LINES)]
    assert [line["lineId"] for line in mortal.lines(job, "FAILURE/b.ndjson")] == [LINES + 1]
    fhir = Fhir(mortal)
    assert fhir.find("Patient", _count=0).body["total"] >= LINES
    for name in (ids[0], ids[LINES // 2], ids[-1]):
        assert fhir.call("GET", f"Patient/{name}").headers["etag"] == 'W/"1"'
