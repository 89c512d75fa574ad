"""SQS actions that ministack lacks, made of the ones it has.

Belongs here: StartMessageMoveTask, ListMessageMoveTasks, CancelMessageMoveTask, ListDeadLetterSourceQueues. Does not
belong here: anything that reaches into ministack's queues; only SQS's own calls are made.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

from local_aws.inprocess import asgi_request, authorization

ACTIONS = frozenset(
    {"StartMessageMoveTask", "ListMessageMoveTasks", "CancelMessageMoveTask", "ListDeadLetterSourceQueues"}
)
Answer = tuple[int, dict[str, str], bytes]
KEPT_TASKS = 10


class SqsError(Exception):
    """An error in SQS's JSON protocol."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SqsGaps:
    """The missing actions. Move tasks live in memory, as the service keeps only the last ten of a queue."""

    def __init__(self, ministack: Any) -> None:
        self._ministack = ministack
        self._tasks: dict[str, dict[str, Any]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def handles(self, operation: str) -> bool:
        """Whether an action is answered here."""
        return operation in ACTIONS

    async def handle(self, operation: str, body: bytes, account: str, region: str) -> Answer:
        """Answer one call in the JSON protocol."""
        actions = {
            "StartMessageMoveTask": self._start,
            "ListMessageMoveTasks": self._list,
            "CancelMessageMoveTask": self._cancel,
            "ListDeadLetterSourceQueues": self._sources,
        }
        headers = {"Content-Type": "application/x-amz-json-1.0"}
        try:
            out = await actions[operation](json.loads(body or b"{}"), (account, region))
        except SqsError as error:
            headers["x-amzn-query-error"] = f"{error.code};Sender"
            text = {"__type": f"com.amazonaws.sqs#{error.code}", "message": str(error)}
            return 400, headers, json.dumps(text).encode()
        return 200, headers, json.dumps(out).encode()

    async def _call(self, action: str, request: dict[str, Any], who: tuple[str, str]) -> dict[str, Any]:
        body = json.dumps(request).encode()
        headers = {
            "host": f"sqs.{who[1]}.amazonaws.com",
            "authorization": authorization(who[0], who[1], "sqs"),
            "content-type": "application/x-amz-json-1.0",
            "x-amz-target": f"AmazonSQS.{action}",
            "content-length": str(len(body)),
        }
        status, _, answer = await asgi_request(self._ministack, "POST", "/", "", headers, body)
        out: dict[str, Any] = json.loads(answer or b"{}")
        if status >= 300:  # noqa: PLR2004
            raise SqsError(out.get("__type", "InternalError").rpartition("#")[2], out.get("message", ""))
        return out

    async def _queues(self, who: tuple[str, str]) -> dict[str, tuple[str, dict[str, str]]]:
        """ARN -> (URL, attributes) of every queue."""
        out = {}
        urls = (await self._call("ListQueues", {}, who)).get("QueueUrls", [])
        for url in urls:
            got = await self._call("GetQueueAttributes", {"QueueUrl": url, "AttributeNames": ["All"]}, who)
            attributes = got.get("Attributes", {})
            out[attributes["QueueArn"]] = (url, attributes)
        return out

    @staticmethod
    def _targets(queues: dict[str, tuple[str, dict[str, str]]], dead_arn: str) -> list[str]:
        """ARNs of the queues whose redrive policy names a dead-letter queue."""
        return [
            arn
            for arn, (_, attributes) in queues.items()
            if json.loads(attributes.get("RedrivePolicy") or "{}").get("deadLetterTargetArn") == dead_arn
        ]

    async def _sources(self, request: dict[str, Any], who: tuple[str, str]) -> dict[str, Any]:
        queues = await self._queues(who)
        by_url = {url: arn for arn, (url, _) in queues.items()}
        arn = by_url.get(request.get("QueueUrl", ""))
        if arn is None:
            raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
        return {"queueUrls": [queues[a][0] for a in self._targets(queues, arn)]}

    async def _start(self, request: dict[str, Any], who: tuple[str, str]) -> dict[str, Any]:
        queues = await self._queues(who)
        source = request.get("SourceArn", "")
        if source not in queues:
            raise SqsError(
                "ResourceNotFoundException",
                "The resource that you specified for the SourceArn parameter doesn't exist.",
            )
        sources = self._targets(queues, source)
        if not sources:
            raise SqsError("InvalidParameterValue", "Source queue must be configured as a Dead Letter Queue.")
        destination = request.get("DestinationArn") or sources[0]
        if destination not in queues:
            raise SqsError(
                "ResourceNotFoundException",
                "The resource that you specified for the DestinationArn parameter doesn't exist.",
            )
        if any(t["SourceArn"] == source and t["Status"] == "RUNNING" for t in self._tasks.values()):
            raise SqsError("UnsupportedOperation", "A message move task is already running on this queue.")
        handle = str(uuid.uuid4())
        waiting = int(queues[source][1].get("ApproximateNumberOfMessages", 0))
        task = {
            "TaskHandle": handle,
            "Status": "RUNNING",
            "SourceArn": source,
            "DestinationArn": destination,
            "ApproximateNumberOfMessagesMoved": 0,
            "ApproximateNumberOfMessagesToMove": waiting,
            "StartedTimestamp": int(time.time() * 1000),
        }
        self._tasks[handle] = task
        rate = int(request.get("MaxNumberOfMessagesPerSecond") or 0)
        running = asyncio.create_task(self._move(task, queues[source][0], queues[destination][0], rate, who))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return {"TaskHandle": handle}

    async def _move(self, task: dict[str, Any], source: str, destination: str, rate: int, who: tuple[str, str]) -> None:
        try:
            while task["Status"] == "RUNNING":
                wanted = {"QueueUrl": source, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
                messages = (await self._call("ReceiveMessage", wanted, who)).get("Messages", [])
                if not messages:
                    task["Status"] = "COMPLETED"
                for message in messages:
                    send = {"QueueUrl": destination, "MessageBody": message["Body"]}
                    if message.get("MessageAttributes"):
                        send["MessageAttributes"] = message["MessageAttributes"]
                    await self._call("SendMessage", send, who)
                    await self._call(
                        "DeleteMessage", {"QueueUrl": source, "ReceiptHandle": message["ReceiptHandle"]}, who
                    )
                    task["ApproximateNumberOfMessagesMoved"] += 1
                await asyncio.sleep(len(messages) / rate if rate else 0)
        except SqsError as error:
            task["Status"], task["FailureReason"] = "FAILED", error.code

    async def _list(self, request: dict[str, Any], who: tuple[str, str]) -> dict[str, Any]:
        source = request.get("SourceArn", "")
        if source not in await self._queues(who):
            raise SqsError(
                "ResourceNotFoundException",
                "The resource that you specified for the SourceArn parameter doesn't exist.",
            )
        found = [t for t in reversed(self._tasks.values()) if t["SourceArn"] == source]
        shown = []
        for task in found[: min(int(request.get("MaxResults") or 1), KEPT_TASKS)]:
            hidden = () if task["Status"] == "RUNNING" else ("TaskHandle",)
            shown.append({k: v for k, v in task.items() if k not in hidden})
        return {"Results": shown}

    async def _cancel(self, request: dict[str, Any], who: tuple[str, str]) -> dict[str, Any]:  # noqa: ARG002
        task = self._tasks.get(request.get("TaskHandle", ""))
        if task is None or task["Status"] != "RUNNING":
            raise SqsError("ResourceNotFoundException", "Task does not exist or is not running.")
        task["Status"] = "CANCELLED"
        return {"ApproximateNumberOfMessagesMoved": task["ApproximateNumberOfMessagesMoved"]}
