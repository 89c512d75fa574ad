"""The commands of `ahi`. Belongs here: their list. Does not belong here: what they do."""

from __future__ import annotations

import typer

from ahi.cli import (
    archive,
    archive_control,
    archive_report,
    archive_status,
    diff,
    export,
    failures,
    fhir,
    proof,
    query,
    reindex,
    schema,
    send,
    status,
    wait,
)

app = typer.Typer(
    name="ahi",
    help="Send DICOM, follow it into AWS HealthImaging, query the index.\n\n"
    "A first look, with the stack of `make up`: `ahi send samples/dicom && ahi wait && ahi status`",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals hold headers, and those name patients
    add_completion=False,
)
app.command("send")(send.send)
app.command("status")(status.status)
app.command("wait")(wait.wait)
app.command("query")(query.query)
app.command("reindex")(reindex.reindex)
app.command("export")(export.export)
app.command("schema")(schema.schema)
app.command("diff")(diff.diff)
app.command("proof")(proof.proof)
app.command("failures")(failures.failures)
archive.app.command("status")(archive_status.status)
archive.app.command("pause")(archive_control.pause)
archive.app.command("resume")(archive_control.resume)
archive.app.command("rate")(archive_control.rate)
archive.app.command("report")(archive_report.report)
archive.app.command("retry")(archive_report.retry)
app.add_typer(archive.app)
app.add_typer(fhir.app)


if __name__ == "__main__":
    app()
