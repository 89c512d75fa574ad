"""`make demo`: real files through the whole pipeline, told step by step.

Starts a stack of its own in a temporary home and on free ports, runs the commands a newcomer would type, prints their
answers, and leaves nothing behind. Belongs here: the story. Does not belong here: anything it shows.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dotenv import dotenv_values

from dagster_project.stack import REPOSITORY, Stack, StackError, down, up

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SAMPLES = REPOSITORY / "samples" / "dicom"
WAIT_SECONDS = 150
SURPRISES = 10  # lines about files that ended otherwise than expected

BY_MODALITY = """
    SELECT coalesce(Modality, '(no header)') AS modality, count(*) AS arrived,
           count(*) FILTER (state = 'imported') AS imported, count(*) FILTER (state = 'failed') AS failed
    FROM objects GROUP BY ALL ORDER BY arrived DESC, modality
"""
BY_END = """
    SELECT state, coalesce(reason_code, '') AS reason, count(*) AS objects,
           count(DISTINCT image_set_id) AS image_sets, count(DISTINCT StudyInstanceUID) AS studies
    FROM objects GROUP BY ALL ORDER BY objects DESC
"""
STUDIES = """
    SELECT PatientID, StudyDate, StudyDescription, ModalitiesInStudy AS modalities,
           NumberOfStudyRelatedSeries AS series, NumberOfStudyRelatedInstances AS instances
    FROM studies LEFT JOIN patients USING (datastore_id, patient_key) ORDER BY instances DESC, StudyInstanceUID LIMIT 6
"""
NAMES = """
    SELECT SpecificCharacterSet AS character_set, PatientName FROM headers
    WHERE array_to_string(SpecificCharacterSet, '') NOT IN ('', 'ISO_IR 100') ORDER BY ALL LIMIT 12
"""


def say(text: str) -> None:
    """Print now, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def free_port() -> int:
    """A loopback port that nothing listens on.

    Below the range from which the system gives outgoing connections theirs: one of those could take it meanwhile.
    """
    while True:
        port = random.randint(20_000, 32_000)  # noqa: S311
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Teller:
    """Runs commands against one stack and shows them as they would be typed."""

    def __init__(self, stack: Stack) -> None:
        own = {name: value for name, value in dotenv_values(stack.home / "stack.env").items() if value is not None}
        others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self.environment = others | own | {"AHI_HOME": str(stack.home), "COLUMNS": "118"}
        self.failed: list[str] = []
        """First words of the commands that failed."""

    def run(self, *arguments: str, title: str = "") -> int:
        """Run `ahi` with arguments, its answer going to the terminal. Returns its exit code."""
        typed = " ".join(" ".join(part.split()) if " " not in part.strip() else quoted(part) for part in arguments)
        say(f"\n{title}\n$ ahi {typed}" if title else f"\n$ ahi {typed}")
        code = subprocess.run(self.command(*arguments), env=self.environment, check=False, cwd=REPOSITORY).returncode  # noqa: S603
        if code:
            self.failed.append(arguments[0])
        return code

    def ask(self, *arguments: str) -> object:
        """Run `ahi` with arguments and take its JSON."""
        command = self.command(*arguments, "--json")
        answer = subprocess.run(command, env=self.environment, check=True, cwd=REPOSITORY, capture_output=True)  # noqa: S603
        return json.loads(answer.stdout)

    @staticmethod
    def command(*arguments: str) -> list[str]:
        """The same command, without a need for PATH."""
        return [sys.executable, "-m", "ahi.cli.main", *arguments]


def quoted(sql: str) -> str:
    """SQL on one line, as an argument in a shell."""
    return '"' + " ".join(sql.split()) + '"'


def tell(stack: Stack) -> bool:
    """Show the pipeline at work.

    Returns:
        Whether every command worked and every object is accounted for.
    """
    sent = sum(path.is_file() for path in SAMPLES.rglob("*"))
    say(f"\n2. Send {sent} files: CT, MR, CR, US, SR, SEG, RT and more, some of them broken")
    teller = Teller(stack)
    if teller.run("send", str(SAMPLES.relative_to(REPOSITORY))):
        return False
    teller.run("wait", "--timeout", str(WAIT_SECONDS), title="3. Wait until the last of them is accounted for")
    teller.run("query", BY_MODALITY, title="4. What arrived")
    teller.run("query", BY_END, title="5. Where every object ended")
    teller.run("failures", title="6. Why the bad ones failed")
    teller.run("query", STUDIES, title="7. The index: studies")
    teller.run("query", NAMES, title="   and names as people write them")
    teller.run("status", title="8. Do the counts close, and how fresh is the index?")
    answer = teller.ask("status")
    counted = answer["closure"] if isinstance(answer, dict) else {}
    closes = counted["closes"] and counted["at_rest"] and counted["landed"] == sent
    unexpected = surprises(teller)
    say(f"\n{sent - len(unexpected)} of {sent} files ended as samples/MANIFEST.csv expects.")
    for line in unexpected[:SURPRISES]:
        say(f"  {line}")
    if teller.failed:
        say(f"\nThese commands failed: {', '.join(teller.failed)}.")
    return bool(closes) and not teller.failed


def surprises(teller: Teller) -> list[str]:
    """Files whose outcome is not the one that the manifest of the samples expects."""
    expected = {}
    with (SAMPLES.parent / "MANIFEST.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            # A lenient reader indexes what HealthImaging may yet refuse.
            either = {"imported", "failed"} if row["expected"] == "indexable_lenient" else {"failed"}
            expected[row["file"]] = {"imported"} if row["expected"] == "indexable" else either
    keys = {}
    for receipt in (Path(teller.environment["AHI_HOME"]) / "uploads").glob("*.csv"):
        with receipt.open(newline="") as lines:
            keys.update({row["key"]: str(Path(row["file"]).relative_to(SAMPLES)) for row in csv.DictReader(lines)})
    rows = teller.ask("query", "SELECT key, state, reason_code, reason_text FROM objects")
    found = {keys.get(row["key"], row["key"]): row for row in rows} if isinstance(rows, list) else {}
    wrong = []
    for file, states in sorted(expected.items()):
        row = found.get(file, {"state": "nowhere"})
        if row["state"] not in states:
            why = " ".join(str(row.get(name) or "") for name in ("reason_code", "reason_text"))
            wrong.append(f"{file}: {row['state']} instead of {' or '.join(states)} {why}".rstrip())
    return wrong


def stop(signum: int, _frame: FrameType | None) -> NoReturn:
    """End through the clean-up, whatever the signal."""
    sys.exit(128 + signum)


def perform(tell: Callable[[Stack], bool], praise: str, blame: str) -> NoReturn:
    """Start a stack, tell a story on it, and remove it; exit 1 if the story does not end well.

    Args:
        tell: The story; returns whether it ended well.
        praise: What to say then.
        blame: What to say if not.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    started = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="ahi-demo-")).resolve()
    stack = Stack(home, ui_port=free_port(), aws_port=free_port())
    good = False
    try:
        say("1. Start the embedded AWS, Dagster and its UI")
        up(stack, lambda line: say(f"   {line}"))
        say(f"   Dagster UI while this runs: {stack.ui}")
        good = tell(stack)
        if not good:
            say(f"\nThe end of the daemon's log:\n{stack.tail('daemon', 30)}")
    except StackError as error:
        say(f"The stack did not start. {error}")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
        down(stack)
        shutil.rmtree(home, ignore_errors=True)
    say(f"\n{praise if good else blame}.")
    say(f"Took {time.monotonic() - started:.0f} s; everything is stopped and removed.")
    say("Next: `make up` keeps a stack running, Dagster UI on http://127.0.0.1:3000; then `.venv/bin/ahi --help`.")
    sys.exit(0 if good else 1)


def main() -> None:
    """Tell the story; exit 1 if the counts do not close."""
    perform(tell, "Every object is accounted for", "NOT every object is accounted for, or a step failed")


if __name__ == "__main__":
    main()
