"""The virtual clock: what waits, wakes; what is stamped, is stamped by it; it stays put over a restart."""

from __future__ import annotations

import threading
import time
import urllib.error

import pytest

from local_aws.clock import Clock
from tests.conftest import wait_for
from tests.local_aws.conftest import Imaging, make_object

DAY = 86_400.0


def test_who_waits_wakes_when_the_time_has_come():
    clock, woken, stop = Clock(), [], threading.Event()
    waiting = threading.Thread(target=lambda: woken.append(clock.wait_until(clock.now() + DAY, stop)))
    waiting.start()
    clock.advance(DAY / 2)
    assert waiting.is_alive()
    clock.advance(DAY / 2)
    waiting.join(10)
    assert woken == [True]


def test_who_waits_wakes_when_it_is_stopped():
    clock, woken, stop = Clock(), [], threading.Event()
    waiting = threading.Thread(target=lambda: woken.append(clock.wait_until(float("inf"), stop)))
    waiting.start()
    stop.set()
    clock.wake()
    waiting.join(10)
    assert woken == [False]


def test_calls_come_in_the_order_of_their_times():
    clock, seen = Clock(), []
    for day in (3, 1, 2):
        clock.call_later(day * DAY, lambda day=day: seen.append(day))
    clock.call_later(0.5 * DAY, lambda: 1 / 0)
    clock.advance(2 * DAY)
    wait_for(lambda: len(seen) == 2, what="two calls")
    clock.advance(DAY)
    wait_for(lambda: seen == [1, 2, 3], what="the third call")
    clock.call_later(DAY, lambda: seen.append(4))
    clock.close()
    clock.advance(2 * DAY)
    assert seen == [1, 2, 3]


def test_it_does_not_go_back():
    with pytest.raises(ValueError, match="forward only"):
        Clock().advance(-1)


@pytest.mark.parametrize("body", [{}, [], {"advance": -1}, {"advance": "1"}, {"advance": True}, {"advance": 1e300}])
def test_a_wrong_advance_is_refused(aws_stack, body):
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        aws_stack.control("POST", "clock", body)
    assert b"advance" in error.value.read()
    error.value.close()


def test_all_the_service_lives_by_it(make_aws_stack):
    stack = make_aws_stack(LOCAL_AWS_RATE_LIMITS="on", LOCAL_AWS_IMPORT_SECONDS="600")
    imaging = Imaging(stack)
    assert abs(stack.control("GET", "clock")["now"] - time.time()) < 5
    job = imaging.start(imaging.put({"a.dcm": make_object()}))["jobId"]
    wait_for(lambda: imaging.job(job)["jobStatus"] == "IN_PROGRESS", what="the job's start")
    stack.control("POST", "clock", {"advance": 90 * DAY})
    ended = imaging.ended(job)
    assert 90 * DAY <= (ended["endedAt"] - ended["submittedAt"]).total_seconds() < 91 * DAY
    [found] = imaging.api.search_image_sets(datastoreId=imaging.datastore)["imageSetsMetadataSummaries"]
    assert found["createdAt"].timestamp() > time.time() + 89 * DAY
    [event] = stack.drain("IMAGE_SET")
    assert event["time"][:10] == found["createdAt"].strftime("%Y-%m-%d")

    api = stack.client("medical-imaging", retries={"max_attempts": 0})
    api.create_datastore(datastoreName="one")
    with pytest.raises(api.exceptions.ThrottlingException):
        api.create_datastore(datastoreName="two")
    stack.control("POST", "clock", {"advance": 12})
    api.create_datastore(datastoreName="two")

    stack.fault("delay_events", seconds=3600, times=1)
    stack.drain("IMAGE_SET")
    api.delete_image_set(datastoreId=imaging.datastore, imageSetId=found["imageSetId"])
    got: list[dict] = []
    wait_for(lambda: got.extend(stack.drain("IMAGE_SET")) or got, what="the second event")
    assert [m["detail-type"] for m in got] == ["Image Set Deleted"]
    stack.control("POST", "clock", {"advance": 3600})
    wait_for(lambda: got.extend(stack.drain("IMAGE_SET")) or len(got) > 1, what="the delayed event")
    assert got[1]["detail-type"] == "Image Set Deleting"
    # `time` says when it happened, not when it came.
    assert got[1]["time"] <= got[0]["time"]

    before = stack.control("GET", "clock")
    stack.stop(kill=True)
    stack.start()
    after = stack.control("GET", "clock")
    assert after["offset"] == before["offset"] > 90 * DAY
