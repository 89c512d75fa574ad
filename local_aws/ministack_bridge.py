"""The six places where this package reaches into ministack beyond its HTTP interface.

Belongs here: every import of ministack. Does not belong here: anything that can be asked over S3, SQS or EventBridge.
`tests/local_aws/test_ministack_bridge.py` is the contract test: move ministack's pin only with it green.
"""

from __future__ import annotations

import contextvars
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from local_aws.lazy_modules import LazyModules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def application() -> Any:
    """Ministack's ASGI application. Import it only after `settings.prepare_ministack`.

    Its services are modules that run when they are first used; whatever it looks for in all loaded ones, to save or to
    stop it, is not there in one that has not run.
    """
    LazyModules("ministack.services", absent=("get_state", "mtls_stop", "sftp_stop")).install()
    from ministack.app import app

    return app


def account_of(access_key: str) -> str:
    """The account that ministack takes a caller for: 12 digits, that of an assumed role, or the configured one."""
    from ministack.core.responses import get_account_id, set_request_account_id

    def found() -> str:
        set_request_account_id(access_key)
        return str(get_account_id())

    return contextvars.copy_context().run(found)


def put_aws_events(entries: Sequence[Mapping[str, Any]], account: str, region: str) -> None:
    """Put events with an `aws.` source on the default bus, which PutEvents rightly refuses to users.

    Must run on the server's event loop: ministack's stores belong to it.

    Args:
        entries: PutEvents entries (Source, DetailType, Detail, Resources, Time as epoch seconds) with an `Id`.
        account: Account of the bus.
        region: Region of the bus.

    Raises:
        RuntimeError: ministack did not take an entry.
    """
    from ministack.core.responses import request_scope
    from ministack.services import eventbridge

    machine, new_uuid = eventbridge._now_ts, eventbridge.new_uuid  # noqa: SLF001
    with request_scope(account, region):
        for entry in entries:
            # ministack takes no notice of an entry's Time and Id, and stamps with these functions; the id is the first.
            ids = iter([entry["Id"]] if "Id" in entry else [])
            eventbridge.new_uuid = lambda ids=ids: next(ids, None) or new_uuid()
            eventbridge._now_ts = partial(entry.get, "Time", machine())  # noqa: SLF001
            try:
                _, _, body = eventbridge._put_events({"Entries": [dict(entry)]}, allow_aws_source=True)  # noqa: SLF001
            finally:
                eventbridge._now_ts, eventbridge.new_uuid = machine, new_uuid  # noqa: SLF001
            if json.loads(body)["FailedEntryCount"]:
                raise RuntimeError("ministack refused an event")


def save_state() -> None:
    """Write ministack's snapshot now. By itself it does so on a clean stop only, and a killed one would start empty."""
    from ministack.app import _build_persistence_save_dict
    from ministack.core.persistence import save_all

    save_all(_build_persistence_save_dict())
