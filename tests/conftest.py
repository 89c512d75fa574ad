"""Fixtures for all tests: the embedded AWS as a subprocess, on a free port, with its state in a temporary home.

Belongs here: starting and stopping it, talking to it. Does not belong here: anything of one test directory.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.forked import Forked
from tests.local_aws_process import SERVERS, serve_aws

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
UNLIMITED = {"LOCAL_AWS_RATE_LIMITS": "off", "LOCAL_AWS_MAX_DATASTORES": "1000000"}
"""Tests call faster than the documented rates, and many make a data store of their own."""


def wait_for(condition: Callable[[], Any], *, seconds: float = 30.0, what: str = "the condition") -> Any:
    """Wait until a condition gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(0.02)


@dataclass
class AwsStack:
    """One running `python -m local_aws`; that command itself is started by the tests of `local_aws.stack`."""

    home: Path
    options: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: Forked | None = None
    env: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, Any] = field(default_factory=dict)
    wait_for = staticmethod(wait_for)

    def start(self) -> AwsStack:
        """Start the server and wait until it says that it is ready."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AHI_", "LOCAL_AWS_"))}
        arguments = ["local_aws", "--home", str(self.home), "--port", str(self.port)]
        log = self.home.parent / f"{self.home.name}.log"
        self.process = SERVERS.start(serve_aws, arguments, clean | UNLIMITED | self.options, REPOSITORY, log)
        self.env = wait_for(self._ready, seconds=START_SECONDS, what="the embedded AWS")
        self.port = int(self.env["AWS_ENDPOINT_URL"].rpartition(":")[2])
        self._clients.clear()
        return self

    def _ready(self) -> dict[str, str] | None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the embedded AWS ended: {self.log()}")
        path = self.home / "stack.env"
        if not path.exists():
            return None
        env = dict(line.split("=", 1) for line in path.read_text().splitlines())
        return env if env["LOCAL_AWS_PID"] == str(self.process.pid) else None

    def log(self) -> str:
        """What the server printed."""
        return (self.home.parent / f"{self.home.name}.log").read_text()

    def stop(self, *, kill: bool = False) -> None:
        """End the server: politely, which saves its state, or with SIGKILL."""
        if self.process is None:
            return
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self.process.wait(30)
        self.process = None

    def client(self, service: str, **config: Any) -> Any:
        """A boto3 client of this server. Without `config` it is shared."""
        import boto3
        from botocore.config import Config

        if not config and service in self._clients:
            return self._clients[service]
        client = boto3.client(
            service,
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            region_name=self.env["AWS_REGION"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            config=Config(inject_host_prefix=False, **config),
        )
        if not config:
            self._clients[service] = client
        return client

    def control(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One call of the control API, such as `control("POST", "faults", {"kind": "hold_jobs"})`."""
        url = f"{self.env['AWS_ENDPOINT_URL']}/_local_aws/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            out: dict[str, Any] = json.loads(answer.read())
        return out

    def fault(self, kind: str, **values: Any) -> str:
        """Set a fault; returns its id."""
        return str(self.control("POST", "faults", {"kind": kind, **values})["id"])

    def calls(self, operation: str = "", *, service: str = "", source: str = "outside") -> list[dict[str, Any]]:
        """Logged calls of clients, by operation and service."""
        found = self.control("GET", "log")["calls"]
        return [
            c
            for c in found
            if (not operation or c["operation"] == operation)
            and (not service or c["service"] == service)
            and (not source or c["source"] == source)
        ]

    def drain(self, queue: str) -> list[dict[str, Any]]:
        """Take and delete every visible message of a queue, such as `IMPORT` or `HEALTHLAKE`; parsed bodies."""
        return [json.loads(body) for body in self.drain_raw(queue)]

    def drain_raw(self, queue: str) -> list[str]:
        """The same, as text."""
        sqs, url = self.client("sqs"), self.env[f"AHI_{queue}_QUEUE_URL"]
        bodies = []
        while True:
            got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", [])
            if not got:
                return bodies
            for message in got:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                bodies.append(message["Body"])

    def reset(self) -> None:
        """Remove all faults, forget the log, empty the queues."""
        self.control("POST", "reset")
        for queue in ("UPLOAD", "IMPORT", "IMAGE_SET", "HEALTHLAKE"):
            self.drain(queue)


@pytest.fixture(scope="session")
def index_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The views with their comments, which every index makes once in a second: copied in, an index finds them there."""
    from ahi.index.store import Index

    root = tmp_path_factory.mktemp("template")
    Index(root, f"sqlite:///{root / 'catalog.sqlite'}").publish()
    return next(root.glob(".template-*.duckdb"))


@pytest.fixture(scope="session")
def aws_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsStack]:
    """One embedded AWS for the whole session, without call rates. Use names of your own; call `reset()` for quiet."""
    stack = AwsStack(tmp_path_factory.mktemp("aws") / "home").start()
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def ahead_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsStack]:
    """A second one, whose clock tests may advance: what it says of times is then ahead of the machine's."""
    stack = AwsStack(tmp_path_factory.mktemp("ahead") / "home").start()
    yield stack
    stack.stop()


@pytest.fixture
def make_aws_stack(tmp_path: Path) -> Iterator[Callable[..., AwsStack]]:
    """Starts servers of a test's own, with settings: `make_aws_stack(LOCAL_AWS_IMPORT_SECONDS="1")`."""
    made: list[AwsStack] = []

    def make(**options: str) -> AwsStack:
        made.append(AwsStack(tmp_path / f"home{len(made)}", options))
        return made[-1].start()

    yield make
    for stack in made:
        stack.stop()
