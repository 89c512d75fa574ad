"""`ahi archive pause`, `resume` and `rate`: a hand on what runs. Belongs here: asking, and saying what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    from ahi.index.store import Index

ARCHIVE = Annotated[str, typer.Argument(help="Its name, as `ahi archive list` shows it.")]


def _index() -> Index:
    return common.open_index(common.open_settings())


def pause(archive: ARCHIVE) -> None:
    """Start nothing more of an archive; jobs that run go on, and uploads are not touched.

    Takes effect within a second, in every run. Example: `ahi archive pause old-pacs`
    """
    from ahi.archive import control

    with common.permanent_errors():
        control.pause(_index(), archive)
    typer.echo(f"Paused. `ahi archive resume {archive}` goes on.")


def resume(archive: ARCHIVE) -> None:
    """Go on with a paused archive: what was launched of it goes on by itself within seconds.

    Example: `ahi archive resume old-pacs`
    """
    from ahi.archive import control

    with common.permanent_errors():
        control.resume(_index(), archive)
    typer.echo("Resumed. What no run waits for is launched in the UI: Materialize `archive_imports`, missing only.")


def rate(
    archive: ARCHIVE,
    starts: Annotated[str, typer.Argument(help="Import jobs started a second, such as 0.2; or `quota`.")],
) -> None:
    """Change how fast an archive's import jobs are started, while they are.

    Example: `ahi archive rate old-pacs 0.1` starts one job in ten seconds
    """
    from ahi.archive import control

    try:
        value = None if starts == "quota" else float(starts)
    except ValueError:
        common.fail(f"{starts} is no rate: give a number of jobs a second, or `quota`.")
    with common.permanent_errors():
        control.set_rate(_index(), archive, value)
    typer.echo(f"At most {value:g} starts a second from now on." if value else "At the service's quota from now on.")
