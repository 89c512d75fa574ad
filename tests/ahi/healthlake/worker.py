"""What daemon and runs do, in a process that a drill kills: hear events, and move the chain, again and again."""

from __future__ import annotations

import sys
import time
import uuid

from ahi import inbox
from ahi.healthlake import events, results
from ahi.healthlake.advance import advance
from ahi.inbox import Queue
from ahi.pipeline import connect
from ahi.settings import Settings


def main(seconds: float) -> None:
    pipeline = connect(Settings(), run_id=f"run-{uuid.uuid4().hex[:8]}")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        inbox.collect(pipeline, Queue.HEALTHLAKE_EVENTS, listen_seconds=1)
        for batch in inbox.pending(pipeline, Queue.HEALTHLAKE_EVENTS):
            results.follow(pipeline, events.open_batch(pipeline, batch).import_jobs)
            inbox.finish(pipeline, batch)
        advance(pipeline, patience_seconds=0.2)


if __name__ == "__main__":
    main(float(sys.argv[1]))
