"""FHIR REST as a client calls it: signed HTTP and nothing else."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def ids(self) -> list[str]:
        """Ids of the resources of a Bundle."""
        return [entry["resource"]["id"] for entry in self.body["entry"]]

    @property
    def text(self) -> str:
        """First diagnostics of an OperationOutcome."""
        return str(self.body["issue"][0]["diagnostics"])


class Fhir:
    """A client of one data store."""

    def __init__(self, lake: Any, *, account: str = "123456789012") -> None:
        answer = lake.api.describe_fhir_datastore(DatastoreId=lake.datastore)
        self.endpoint: str = answer["DatastoreProperties"]["DatastoreEndpoint"]
        self.credentials = Credentials(account, "local")

    def call(self, method: str, path: str, body: Any = None, *, sign: bool = True, **headers: str) -> Answer:
        """One request; `path` is below the endpoint, or an address."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        url = path if path.startswith("http") else self.endpoint + path
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        request = AWSRequest(method, url, data=data, headers=sent)
        if sign:
            SigV4Auth(self.credentials, "healthlake", "us-east-1").add_auth(request)
        http = urllib.request.Request(url, data=data, method=method, headers=dict(request.headers.items()))
        try:
            with urllib.request.urlopen(http, timeout=30) as answer:
                return _answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error.headers, error.read())

    def find(self, kind: str, **parameters: Any) -> Answer:
        """A search."""
        return self.call("GET", f"{kind}?{urlencode(parameters)}")

    def pages(self, kind: str, **parameters: Any) -> list[list[str]]:
        """Ids of each page of a search."""
        answer = self.find(kind, **parameters)
        out = [answer.ids]
        while following := [link["url"] for link in answer.body["link"] if link["relation"] == "next"]:
            answer = self.call("GET", following[0])
            out.append(answer.ids)
        return out


def _answer(status: int, headers: Any, body: bytes) -> Answer:
    return Answer(status, {k.lower(): v for k, v in headers.items()}, json.loads(body) if body else None)
