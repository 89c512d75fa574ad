"""`ahi archive status`: how far an import is. Belongs here: showing it. The counting is `ahi.archive.progress`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from ahi.archive.progress import Progress
    from ahi.archive.trouble import Trouble
    from ahi.index.store import Index

POLL_SECONDS = 2.0


def status(
    archive: Annotated[str, typer.Argument(help="Its name; without one all are shown.")] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again until it is done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show how far the import of an archive is: percent, rate, expected end, what failed and whose.

    The error of the expected end is how far the forecast of half the time ago is from what is known now.

    Examples: `ahi archive status old-pacs --watch`, `ahi archive status --json | jq '.[].share'`
    """
    from rich.live import Live

    from ahi.archive.progress import all_archives, progress

    index = common.open_index(common.open_settings())
    names = [archive] if archive else all_archives(index)
    with common.permanent_errors():
        if as_json:
            seen = [progress(index, name) for name in names]
            common.print_json([asdict(one) | {"share": one.share, "final": one.final} for one in seen])
            return
        if not watch:
            for name in names:
                common.console().print(_shown(index, progress(index, name)))
            return
        with Live(console=common.console(), auto_refresh=False) as live:
            while True:
                all_seen = [progress(index, name) for name in names]
                live.update(_together([_shown(index, one) for one in all_seen]), refresh=True)
                if all(one.ended_at or not one.objects for one in all_seen):
                    return
                time.sleep(POLL_SECONDS)


def _together(parts: list[Group]) -> Group:
    from rich.console import Group

    return Group(*parts)


def _shown(index: Index, seen: Progress) -> Group:
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    from ahi.archive.trouble import trouble

    states = ", ".join(f"{state} {number:,}" for state, number in sorted(seen.states.items()))
    shards = ", ".join(f"{state} {number:,}" for state, number in sorted(seen.shards.items()))
    lines = [
        f"{seen.archive_id}: {100 * seen.share:.1f} % of {common.counted(seen.objects, 'object')} through"
        + (f", paused since {common.shown(seen.paused_at)}" if seen.paused_at else ""),
        f"  shards: {shards or 'none'}",
        f"  objects: {states or 'none entered yet'}; indexed {seen.indexed:,}; known before {seen.known:,}",
        f"  rate: {_rate(seen)}",
        f"  end: {_end(seen)}",
    ]
    # By itself a bar ends without a new line.
    bar = Padding(ProgressBar(total=max(seen.objects, 1), completed=seen.final, width=60), 0)
    return Group(Text(lines[0]), bar, *map(Text, lines[1:]), *_troubles(trouble(index, seen.archive_id)))


def _rate(seen: Progress) -> str:
    now = "nothing is at work" if not seen.is_at_work else "not known yet"
    now = f"{seen.objects_per_second:,.1f} objects a second" if seen.objects_per_second else now
    return now + (f"; held at {seen.starts_per_second} starts a second" if seen.starts_per_second else "")


def _end(seen: Progress) -> str:
    from ahi.index.catalog_archives import ShardState

    if seen.ended_at:
        return f"{common.shown(seen.ended_at)} UTC, all through"
    if seen.paused_at:
        return "paused"
    if not seen.objects:
        return f"nothing is planned yet: `ahi archive plan {seen.archive_id} --keep`"
    if not seen.is_at_work:
        return "nothing is at work: launch the shards that are left, archive_imports in the UI"
    if not seen.ends_at:
        return "too early to say"
    error = f", off by {100 * seen.eta_error:.0f} % so far" if seen.eta_error is not None else ""
    unlaunched = seen.shards.get(ShardState.PLANNED, 0)
    if_all = f", with the {unlaunched:,} shards that have not started" if unlaunched else ""
    return f"expected {common.shown(seen.ends_at)} UTC{error}{if_all}"


def _troubles(found: list[Trouble]) -> list[Table]:
    from rich.table import Table
    from rich.text import Text

    if not found:
        return []
    table = Table("failed", "reason", "maker", box=None, padding=(0, 2))
    for one in found:
        table.add_row(
            Text(f"{one.objects:,}"), Text(one.reason_code), Text(common.shown(one.manufacturer or "unknown"))
        )
    return [table]
