"""What the project promises about itself, where no linter looks."""

import csv
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST_MODULE = 400
LONGEST_DEFINITIONS = 60

# Homes, work trees and temporary folders of the machine that somebody worked on.
OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:home|Users|root|work|farm)/\w|/tmp/(?:lab|bash_jobs|team)")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def test_arrows_between_rooms_point_down() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_no_module_is_longer_than_a_person_reads() -> None:
    long = {
        str(path.relative_to(ROOT)): len(lines(path)) for path in tracked("*.py") if len(lines(path)) > LONGEST_MODULE
    }
    assert not long


def test_definitions_only_assemble() -> None:
    assert len(lines(ROOT / "dagster_project" / "definitions.py")) < LONGEST_DEFINITIONS


def test_nothing_names_the_machine_it_was_written_on() -> None:
    this = Path(__file__)
    text = [path for path in tracked() if path != this and "samples/dicom" not in str(path)]
    found = {str(path.relative_to(ROOT)): line for path in text for line in lines(path) if OF_A_MACHINE.search(line)}
    assert not found


def test_the_top_level_shows_the_house() -> None:
    roots = {path.relative_to(ROOT).parts[0] for path in tracked("*.py")}
    assert roots <= {"ahi", "ahi_assets", "benchmarks", "dagster_project", "local_aws", "sensors", "tests"}


def test_every_target_the_readme_names_is_in_the_makefile() -> None:
    named = set(re.findall(r"`make (\w+)`|^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    named = {target for pair in named for target in pair if target}
    defined = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= defined


def test_every_target_of_the_makefile_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony
    described = set(re.findall(r"^([\w-]+):.*## \S", makefile, flags=re.MULTILINE))
    assert described == set(phony.group(1).split())


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("group", ["dev", "local"])
def test_production_needs_no_package_of_a_group(group: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in project["dependency-groups"][group]}
    assert not names & {re.split(r"[\[<>=]", requirement)[0] for requirement in project["project"]["dependencies"]}


def test_the_lock_file_has_a_hash_for_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^\S+==\S+", lock, flags=re.MULTILINE)
    assert len(pinned) > 100
    assert lock.count("--hash=sha256:") >= len(pinned)


def test_samples_are_what_their_manifest_says() -> None:
    folder = ROOT / "samples"
    with (folder / "MANIFEST.csv").open(newline="") as handle:
        listed = {row["file"]: row["sha256"] for row in csv.DictReader(handle)}
    found = {str(path.relative_to(folder / "dicom")): path for path in (folder / "dicom").rglob("*") if path.is_file()}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == listed
    assert len(listed) >= 60
