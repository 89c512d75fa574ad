"""`ahi status`: where everything is. Belongs here: asking and printing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ahi.cli import common


def status(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Show the ledger by state, whether the counts close, the queues and batches, and how fresh the index is.

    The counts close when landed = imported + failed with a reason + set aside + in flight.
    Freshness is in seconds, over objects that landed within a day: the newest 100,000.

    Examples: `ahi status`, `ahi status --json | jq .closure.in_flight`
    """
    from ahi.cli import batches
    from ahi.cli.queues import depths
    from ahi.closure import closure
    from ahi.freshness import percentiles

    settings = common.open_settings()
    index = common.open_index(settings)
    counted = closure(index.engine)
    timed = percentiles(index.engine)
    pending = batches.pending(index.engine)
    queues = []
    if settings.upload_queue_url:
        with common.aws_errors(settings):
            queues = depths(common.connect().sqs, settings)
    if as_json:
        closes = {"closes": counted.closes, "at_rest": counted.at_rest}
        common.print_json(
            {
                "closure": asdict(counted) | closes,
                "queues": [asdict(queue) for queue in queues],
                "pending_batches": [asdict(batch) for batch in pending],
                "freshness_seconds": [asdict(hop) for hop in timed],
            }
        )
        return
    common.print_table(("state", "objects"), sorted(counted.states.items()), title="Ledger")
    sum_ = (
        f"landed {counted.landed:,} = imported {counted.imported:,} + failed {counted.failed:,} "
        f"+ set aside {counted.set_aside:,} + in flight {counted.in_flight:,}"
    )
    typer.echo(f"Closure: {sum_}: {'closes' if counted.closes else 'DOES NOT CLOSE'}\n")
    if queues:
        rows = [(queue.name, queue.waiting, queue.in_flight, queue.dead) for queue in queues]
        common.print_table(("queue", "waiting", "being read", "dead letters"), rows, title="Queues")
    else:
        typer.echo("Queues: no stack is running here.\n")
    if pending:
        waiting = [
            (batch.queue, batch.age_seconds, batch.requests, batch.next_request_at or "at once", batch.batch_id)
            for batch in pending[: batches.SHOWN]
        ]
        title = f"{common.counted(counted.pending_batches, 'batch', 'batches')} pending: runs with tag ahi/batch=BATCH"
        common.print_table(("queue", "age s", "asked for", "again at", "batch"), waiting, title=title)
    if timed:
        rows_of_hops = [(hop.name, hop.count, hop.p50, hop.p95, hop.p99) for hop in timed]
        common.print_table(("hop", "objects", "p50 s", "p95 s", "p99 s"), rows_of_hops, title="Freshness")
    else:
        typer.echo("Freshness: nothing has landed within a day.")
