"""The SQS actions that ministack lacks."""

from __future__ import annotations

import json
import uuid

import pytest
from botocore.exceptions import ClientError

from tests.conftest import wait_for


@pytest.fixture
def queues(aws_stack):
    """A queue and its dead-letter queue: client, URLs, ARNs."""
    sqs, name = aws_stack.client("sqs"), uuid.uuid4().hex
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    dead_arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 1})
    live = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy, "VisibilityTimeout": "0"})["QueueUrl"]
    yield sqs, live, dead, dead_arn
    sqs.delete_queue(QueueUrl=live)
    sqs.delete_queue(QueueUrl=dead)


def test_a_poisoned_message_goes_to_the_dead_and_back(queues):
    sqs, live, dead, dead_arn = queues
    attributes = {"kind": {"DataType": "String", "StringValue": "x"}}
    sqs.send_message(QueueUrl=live, MessageBody="poison", MessageAttributes=attributes)
    assert sqs.receive_message(QueueUrl=live)["Messages"]
    assert not sqs.receive_message(QueueUrl=live).get("Messages")
    started = sqs.start_message_move_task(SourceArn=dead_arn)
    assert started["TaskHandle"]
    done = wait_for(
        lambda: (t := sqs.list_message_move_tasks(SourceArn=dead_arn)["Results"][0])["Status"] == "COMPLETED" and t,
        what="the move",
    )
    assert done["ApproximateNumberOfMessagesMoved"] == 1
    assert "TaskHandle" not in done
    [message] = sqs.receive_message(QueueUrl=live, MessageAttributeNames=["All"])["Messages"]
    assert (message["Body"], message["MessageAttributes"]) == ("poison", attributes)
    assert sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"] == [live]


def test_a_move_is_cancelled(queues):
    sqs, _, dead, dead_arn = queues
    for n in range(30):
        sqs.send_message(QueueUrl=dead, MessageBody=str(n))
    handle = sqs.start_message_move_task(SourceArn=dead_arn, MaxNumberOfMessagesPerSecond=5)["TaskHandle"]
    with pytest.raises(ClientError, match="already running"):
        sqs.start_message_move_task(SourceArn=dead_arn)
    moved = sqs.cancel_message_move_task(TaskHandle=handle)["ApproximateNumberOfMessagesMoved"]
    assert moved < 30
    with pytest.raises(ClientError):
        sqs.cancel_message_move_task(TaskHandle=handle)


def test_errors(queues, aws_stack):
    sqs, live, _, dead_arn = queues
    live_arn = dead_arn.removesuffix("-dead")
    with pytest.raises(ClientError, match="Dead Letter Queue"):
        sqs.start_message_move_task(SourceArn=live_arn)
    with pytest.raises(ClientError, match="doesn't exist"):
        sqs.start_message_move_task(SourceArn=live_arn + "-none")
    with pytest.raises(ClientError, match="does not exist"):
        sqs.list_dead_letter_source_queues(QueueUrl=live + "-none")
