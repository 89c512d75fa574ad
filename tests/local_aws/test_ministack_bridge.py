"""Contract with the private parts of ministack that are used. Move its pin only with this green."""

from __future__ import annotations

import inspect
import subprocess
import sys

from tests.conftest import REPOSITORY

CODE = """
from pathlib import Path
from local_aws.settings import load, prepare_ministack
prepare_ministack(load(Path({home!r}), 1))
import asyncio, inspect, json
from local_aws.ministack_bridge import application, put_aws_events, save_state
from ministack.core.responses import get_account_id, request_scope, set_request_account_id
from ministack.services import eventbridge
from ministack.app import _build_persistence_save_dict
from ministack.core.persistence import save_all
assert inspect.iscoroutinefunction(application())
assert "allow_aws_source" in inspect.signature(eventbridge._put_events).parameters
with request_scope("123456789012", "us-east-1"):
    entry = {{"Source": "aws.x", "DetailType": "T", "Detail": "{{}}"}}
    status, _, body = eventbridge._put_events({{"Entries": [entry]}})
    assert json.loads(body)["FailedEntryCount"] == 1, "users may not speak for AWS"
entry = {{"Source": "aws.medical-imaging", "DetailType": "T", "Resources": [], "Detail": "{{}}"}}
put_aws_events([entry] * 25, "123456789012", "us-east-1")
save_state()
assert (Path({home!r}) / "aws/state/eventbridge.json").exists()
import sys
import ministack.services.cloudformation.provisioners as provisioners
def lazy():
    names = [n for n, m in sys.modules.items() if n.startswith("ministack.services.") and "Lazy" in type(m).__name__]
    return {{n.removeprefix("ministack.services.") for n in names}}
assert {{"rds", "iot", "dynamodb", "lambda_svc", "sqs"}} <= lazy() and len(lazy()) > 30, lazy()
assert not lazy() & {{"eventbridge", "cloudformation"}}, lazy()
save_state()
assert "rds" in lazy(), "to save it, nothing must be loaded that holds no state"
assert provisioners._sqs._queues is not None
assert "sqs" not in lazy() and provisioners._sqs is sys.modules["ministack.services.sqs"]
from concurrent.futures import ThreadPoolExecutor
import ministack.services.iam as iam
with ThreadPoolExecutor(8) as threads:
    assert all(threads.map(lambda _: callable(iam.handle_request), range(8))), "all wait until it has run"
from ministack.services.iam import handle_request
assert "iam" not in lazy() and callable(handle_request)
save_state()
assert (Path({home!r}) / "aws/state/sqs.json").exists()
print("ok")
"""


def test_what_is_used_is_there(tmp_path):
    code = CODE.format(home=str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.stdout.strip() == "ok", ended.stderr


def test_nothing_else_of_ministack_is_imported():
    importers = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "local_aws").rglob("*.py")
        if any(
            line.strip().startswith(("from ministack", "import ministack")) for line in path.read_text().splitlines()
        )
    }
    assert importers == {"local_aws/ministack_bridge.py"}


def test_the_bridge_says_what_it_is_for():
    from local_aws import ministack_bridge

    assert "six places" in (inspect.getdoc(ministack_bridge) or "")
