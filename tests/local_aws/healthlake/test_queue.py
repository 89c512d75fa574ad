"""The slots: one runs, the others wait in order; the older mode; who is refused; what survives."""

from __future__ import annotations

from itertools import pairwise

import pytest
from botocore.exceptions import ClientError

from tests.conftest import wait_for
from tests.local_aws.healthlake.conftest import ndjson, patient

WAITED = ["Import Job Submitted", "Import Job Queued", "Import Job In Progress", "Import Job Completed"]


def refused(lake, **more):
    """Code of the error that a start gets; no retries."""
    client = lake.stack.client("healthlake", retries={"max_attempts": 0})
    with pytest.raises(ClientError) as caught:
        client.start_fhir_import_job(**lake.request(more.pop("uri"), **more))
    client.close()
    return caught.value.response["Error"]["Code"]


def test_one_runs_and_the_others_wait_in_order(lake, told):
    lake.stack.fault("stuck_jobs", service="healthlake")
    uri = lake.upload({"a.ndjson": ndjson(patient())})
    jobs = [lake.start(uri, JobName=f"batch-{n}") for n in range(4)]
    wait_for(lambda: lake.job(jobs[0])["JobStatus"] == "IN_PROGRESS", what="the first job")
    assert [lake.job(job)["JobStatus"] for job in jobs[1:]] == ["QUEUED"] * 3
    other = lake.datastore
    lake.new_datastore()
    elsewhere = lake.start(uri)
    assert lake.job(elsewhere)["JobStatus"] == "QUEUED"
    lake.stack.control("POST", "release")
    lake.ended(elsewhere)
    lake.datastore = other
    ended = [lake.job(job) for job in jobs]
    assert [job["JobStatus"] for job in ended] == ["COMPLETED"] * 4
    assert told.types(jobs[0], 3) == [WAITED[0], *WAITED[2:]]
    assert told.types(jobs[1], 4) == WAITED
    order = [e["detail"]["jobId"] for e in told.read() if e["detail-type"] == "Import Job In Progress"]
    assert order == [*jobs, elsewhere]
    for before, after in pairwise(ended):
        assert before["EndTime"] <= after["EndTime"]


def test_25_wait_and_the_next_is_throttled(lake):
    lake.stack.fault("hold_jobs", service="healthlake")
    uri = lake.upload({"a.ndjson": ndjson(patient())})
    jobs = [lake.start(uri) for _ in range(26)]
    assert refused(lake, uri=uri) == "ThrottlingException"
    waiting = lake.api.list_fhir_import_jobs(DatastoreId=lake.datastore, JobStatus="QUEUED")
    assert len(waiting["ImportJobPropertiesList"]) == 25
    lake.stack.control("POST", "release")
    assert lake.ended(jobs[-1])["JobStatus"] == "COMPLETED"


def test_a_client_token_names_one_job(lake):
    request = lake.request(lake.upload({"a.ndjson": ndjson(patient())}), ClientToken="batch-1-attempt-1")
    first, second = (lake.api.start_fhir_import_job(**request) for _ in range(2))
    assert (first["JobId"], first["JobStatus"]) == (second["JobId"], "SUBMITTED")
    assert len(lake.api.list_fhir_import_jobs(DatastoreId=lake.datastore)["ImportJobPropertiesList"]) == 1
    with pytest.raises(lake.api.exceptions.ValidationException, match="token"):
        lake.api.start_fhir_import_job(**request | {"JobName": "another"})


def test_a_lost_response_is_recovered_by_the_token(lake):
    """botocore tries again with the same token; whoever does not finds the job by its name."""
    lake.stack.fault("lose_response", operation="StartFHIRImportJob")
    uri = lake.upload({"a.ndjson": ndjson(patient())})
    job = lake.start(uri, JobName="batch-9")
    assert len(lake.stack.calls("StartFHIRImportJob")) == 2
    listed = lake.api.list_fhir_import_jobs(DatastoreId=lake.datastore, JobName="batch-9")["ImportJobPropertiesList"]
    assert [j["JobId"] for j in listed] == [job]
    lake.stack.fault("lose_response", operation="StartFHIRImportJob")
    assert refused(lake, uri=uri, JobName="batch-10") == "InternalServerException"
    listed = lake.api.list_fhir_import_jobs(DatastoreId=lake.datastore, JobName="batch-10")["ImportJobPropertiesList"]
    assert len(listed) == 1


def test_somebody_elses_job_takes_the_slot(lake, told):
    lake.stack.fault("foreign_jobs", seconds=3600)
    job = lake.start(lake.upload({"a.ndjson": ndjson(patient())}))
    assert lake.job(job)["JobStatus"] == "QUEUED"
    jobs = lake.api.list_fhir_import_jobs(DatastoreId=lake.datastore)["ImportJobPropertiesList"]
    [foreign] = [j for j in jobs if j["JobId"] != job]
    assert foreign["DataAccessRoleArn"] == "arn:aws:iam::000000000000:role/somebody-else"
    wait_for(lambda: lake.job(foreign["JobId"])["JobStatus"] == "IN_PROGRESS", what="the foreign job")
    lake.stack.control("POST", "clock", {"advance": 3600})
    assert lake.ended(job)["JobStatus"] == "COMPLETED"
    assert told.types(foreign["JobId"], 3)[-1] == "Import Job Completed"


def test_lists_filter_and_turn_pages(lake):
    uri = lake.upload({"a.ndjson": ndjson(patient())})
    jobs = [lake.start(uri, JobName=name) for name in ("one", "two", "two")]
    lake.ended(jobs[-1])
    here = {"DatastoreId": lake.datastore}

    def ids(**more):
        found, token = [], None
        while True:
            answer = lake.api.list_fhir_import_jobs(**here, **more, **({"NextToken": token} if token else {}))
            found += [job["JobId"] for job in answer["ImportJobPropertiesList"]]
            if not (token := answer.get("NextToken")):
                return found

    assert ids(MaxResults=1) == jobs[::-1]
    assert ids(JobName="two") == jobs[:0:-1]
    assert ids(JobStatus="FAILED") == []
    first, last = (lake.job(job)["SubmitTime"] for job in (jobs[0], jobs[-1]))
    assert jobs[-1] in ids(SubmittedAfter=last)
    assert jobs[0] in ids(SubmittedBefore=first)
    assert set(ids(SubmittedAfter=first, SubmittedBefore=last)) == set(jobs)
    token = lake.api.list_fhir_import_jobs(**here, MaxResults=1)["NextToken"]
    with pytest.raises(lake.api.exceptions.ValidationException):
        lake.api.list_fhir_import_jobs(**here, JobName="two", NextToken=token)


def test_a_chain_of_jobs_by_the_virtual_clock(make_aws_stack):
    """Each takes 83 seconds of the service's clock, and nobody waits for them."""
    from tests.local_aws.healthlake.conftest import make_lake

    lake = make_lake(make_aws_stack(LOCAL_AWS_FHIR_IMPORT_SECONDS="83", LOCAL_AWS_FHIR_QUEUE="reject"))
    uri = lake.upload({"a.ndjson": ndjson(patient("a"))})
    for _ in range(3):
        job = lake.start(uri)
        assert refused(lake, uri=uri) == "ThrottlingException"
        wait_for(lambda job=job: lake.job(job)["JobStatus"] == "IN_PROGRESS", what="the job")
        lake.stack.control("POST", "clock", {"advance": 83})
        ended = lake.ended(job)
        assert (ended["EndTime"] - ended["SubmitTime"]).total_seconds() >= 83
