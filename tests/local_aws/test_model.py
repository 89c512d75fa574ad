"""Random sequences of everything that changes image sets, against a model of a few lines.

The model knows one study with two series, two patients and three instances a series. After every step the service must
have the model's versions, states, primaries, patients and instances; in the end, the model's documents and pixels of
every version, and its events. In a second profile every change takes a minute, and is looked at meanwhile.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from openjpeg.utils import decode as openjpeg
from pydicom.uid import generate_uid

from tests.conftest import wait_for
from tests.local_aws.conftest import Imaging, make_object
from tests.local_aws.pixels import fetch
from tests.local_aws.test_copies import copy, instances
from tests.local_aws.test_updates import update

PATIENTS = ("ANN", "BOB")
NUMBER = st.integers(0, 99)
EXAMPLES, STEPS = 7, 14
LOCKED_EXAMPLES = 2


def pixels(sop):
    """Pixels of an instance, which no other instance has."""
    drawn = random.Random(sop)
    return np.array([drawn.randrange(4096) for _ in range(16)], dtype="<u2").reshape(4, 4)


@dataclass
class Version:
    """What one version of a set holds."""

    workflow: str
    patient: str
    sops: tuple[str, ...]


@dataclass
class Set:
    """One image set of the model."""

    id: str
    series: str
    primary: bool
    number: int
    versions: list[Version] = field(default_factory=list)

    @property
    def now(self) -> Version:
        """The latest version."""
        return self.versions[-1]

    @property
    def latest(self) -> str:
        """Its id."""
        return str(len(self.versions))

    def add(self, workflow: str, patient: str | None = None, sops: tuple[str, ...] | None = None) -> None:
        """A new version; what is not given stays."""
        old = self.now if self.versions else Version("", "", ())
        self.versions.append(Version(workflow, patient or old.patient, old.sops if sops is None else sops))


class Machine(RuleBasedStateMachine):
    """The service and its model, side by side."""

    def __init__(self, imaging) -> None:
        super().__init__()
        self.imaging = imaging
        self.study = generate_uid()
        self.sops = {generate_uid(): [generate_uid() for _ in range(3)] for _ in range(2)}
        self.sets: dict[str, Set] = {}
        self.gone: list[Set] = []
        self.told: Counter[tuple[str, str, str]] = Counter()
        self.numbers = itertools.count()
        imaging.stack.reset()

    # -- the model's words ------------------------------------------------------------------------------------

    def pick(self, number: int) -> Set:
        return list(self.sets.values())[number % len(self.sets)]

    def primaries(self) -> list[Set]:
        return sorted((s for s in self.sets.values() if s.primary), key=lambda s: s.number)

    def tell(self, one: Set, *kinds: str, version: str = "") -> None:
        self.told.update((one.id, version or one.latest, f"Image Set {kind}") for kind in kinds)

    def settle(self, *sets: Set) -> None:
        """Wait until none of these is LOCKED."""
        for one in sets:
            wait_for(lambda one=one: self.imaging.get(one.id)["imageSetState"] != "LOCKED", what="the image set")

    def refused(self, code: str, call) -> None:
        with pytest.raises(ClientError) as raised:
            call()
        assert raised.value.response["Error"]["Code"] == code

    @initialize()
    def begin_with_a_conflict(self) -> None:
        """A primary set, and one of another series whose patient the study contradicts."""
        self.import_some(0, PATIENTS[0], 1)
        self.import_some(1, PATIENTS[1], 1)

    # -- steps ------------------------------------------------------------------------------------------------

    @rule(series=st.sampled_from((0, 1)), patient=st.sampled_from(PATIENTS), chosen=st.integers(1, 7))
    def import_some(self, series: int, patient: str, chosen: int) -> None:
        """Import some instances of a series, new ones or the same again, agreeing or not."""
        uid = list(self.sops)[series]
        sops = tuple(sop for n, sop in enumerate(self.sops[uid]) if chosen >> n & 1)
        shared = {"StudyInstanceUID": self.study, "SeriesInstanceUID": uid, "PatientID": patient}
        uri = self.imaging.put(
            {sop: make_object(**shared, SOPInstanceUID=sop, PixelData=pixels(sop).tobytes()) for sop in sops}
        )
        job = self.imaging.ended(self.imaging.start(uri)["jobId"])
        manifest = json.loads(self.imaging.result(job, "job-output-manifest.json"))["jobSummary"]
        [summary] = manifest["imageSetsSummary"]
        primaries = self.primaries()
        study = primaries[0].now.patient if primaries else patient
        home = next((p for p in primaries if p.series == uid), None)
        if home and home.now.patient == patient:
            assert summary["imageSetId"] == home.id
            home.add("UPDATED", sops=tuple(dict.fromkeys(home.now.sops + sops)))
            self.tell(home, "Updated")
        else:
            assert summary["imageSetId"] not in self.sets
            primary = study == patient and home is None
            new = self.sets[summary["imageSetId"]] = Set(summary["imageSetId"], uid, primary, next(self.numbers))
            new.add("CREATED", patient, sops)
            self.tell(new, "Created")
        one = self.sets[summary["imageSetId"]]
        assert (summary["imageSetVersion"], summary["isPrimary"]) == (len(one.versions), one.primary)

    @precondition(lambda self: self.sets)
    @rule(which=NUMBER, patient=st.sampled_from(PATIENTS), fails=st.integers(0, 5).map(lambda n: n == 0))
    def rename(self, which: int, patient: str, fails: bool) -> None:
        """Change the patient of one set."""
        one = self.pick(which)
        if fails:
            self.imaging.stack.fault("fail_change", operation="update")
        update(self.imaging, one.id, one.latest, change={"Patient": {"DICOM": {"PatientID": patient}}})
        self.settle(one)
        one.add("UPDATE_FAILED" if fails else "UPDATED", None if fails else patient)
        self.tell(one, "Updating", "Update Failed" if fails else "Updated")

    @precondition(lambda self: self.sets)
    @rule(which=NUMBER, patient=st.sampled_from(PATIENTS))
    def rename_study(self, which: int, patient: str) -> None:
        """Change the patient of one set and of all primaries."""
        one = self.pick(which)
        wanted = {"Patient": {"DICOM": {"PatientID": patient}}}
        update(self.imaging, one.id, one.latest, change=wanted, includeStudyImageSets=True)
        changed = [one, *(p for p in self.primaries() if p is not one)]
        self.settle(*changed)
        for each in changed:
            each.add("UPDATED", patient)
            self.tell(each, "Updating", "Updated")

    @precondition(lambda self: self.sets)
    @rule(which=NUMBER, instance=NUMBER)
    def remove(self, which: int, instance: int) -> None:
        """Remove an instance; the last one stays."""
        one = self.pick(which)
        if not one.now.sops:
            return
        gone = one.now.sops[instance % len(one.now.sops)]
        wanted = {"Study": {"Series": {one.series: {"Instances": {gone: {}}}}}}
        if len(one.now.sops) == 1:
            self.refused(
                "ValidationException",
                lambda: update(self.imaging, one.id, one.latest, remove=wanted, force=True),
            )
            return
        update(self.imaging, one.id, one.latest, remove=wanted, force=True)
        self.settle(one)
        one.add("UPDATED", sops=tuple(sop for sop in one.now.sops if sop != gone))
        self.tell(one, "Updating", "Updated")

    @precondition(lambda self: self.sets)
    @rule(which=NUMBER, version=NUMBER)
    def revert(self, which: int, version: int) -> None:
        """Go back to any version."""
        one = self.pick(which)
        back = version % len(one.versions)
        update(self.imaging, one.id, one.latest, revert=str(back + 1))
        self.settle(one)
        one.add("UPDATED", one.versions[back].patient, one.versions[back].sops)
        self.tell(one, "Updating", "Updated")

    @precondition(lambda self: self.sets)
    @rule(which=NUMBER, other=NUMBER, force=st.booleans())
    def copy_into(self, which: int, other: int, force: bool) -> None:
        """Copy a set into another one."""
        source, target = self.pick(which), self.pick(other)

        def act():
            return copy(self.imaging, source.id, source.latest, (target.id, target.latest), force=force)

        if source is target or not source.now.sops:
            self.refused("ValidationException", act)
            return
        act()
        self.copied(source, target, force)

    def copied(self, source: Set, target: Set, force: bool) -> None:
        """What a copy into an existing set leaves behind."""
        self.settle(source, target)
        agree = source.now.patient == target.now.patient and source.series == target.series
        works = (agree or force) and not set(source.now.sops) & set(target.now.sops)
        target.add("COPIED" if works else "COPY_FAILED", sops=target.now.sops + source.now.sops if works else None)
        self.tell(target, "Copying", "Copied" if works else "Copy Failed")
        self.tell(source, "Copying With Read Only Access")

    @precondition(lambda self: any(s.now.sops for s in self.sets.values()))
    @rule(which=NUMBER, promote=st.booleans(), force=st.booleans(), fails=st.integers(0, 5).map(lambda n: n == 0))
    def copy_out(self, which: int, promote: bool, force: bool, fails: bool) -> None:
        """Copy a set into a new one, or promote it."""
        source = self.pick(which)
        home = next((p for p in self.primaries() if p.series == source.series), None)

        def act():
            return copy(self.imaging, source.id, source.latest, promoteToPrimary=promote, force=force)

        if not source.now.sops or (promote and source.primary):
            self.refused("ValidationException", act)
            return
        patients = {p.now.patient for p in ([home] if home else self.primaries())}
        if promote and patients - {source.now.patient} and not (home and force):
            self.refused("ConflictException", act)
            return
        if promote and home:
            assert act()["destinationImageSetProperties"]["imageSetId"] == home.id
            self.copied(source, home, force)
            return
        if fails:
            self.imaging.stack.fault("fail_change", operation="copy")
        made = act()["destinationImageSetProperties"]["imageSetId"]
        new = self.sets[made] = Set(made, source.series, promote and not fails, next(self.numbers))
        self.settle(source, new)
        new.add("COPY_FAILED" if fails else "COPIED", source.now.patient, () if fails else source.now.sops)
        self.tell(new, "Copying", "Copy Failed" if fails else "Copied")
        self.tell(source, "Copying With Read Only Access")

    @precondition(lambda self: self.sets)
    @rule(which=NUMBER)
    def delete(self, which: int) -> None:
        """Delete a set, once."""
        one = self.pick(which)
        wanted = {"datastoreId": self.imaging.datastore, "imageSetId": one.id}
        self.imaging.api.delete_image_set(**wanted)
        self.settle(one)
        self.refused("ResourceNotFoundException", lambda: self.imaging.api.delete_image_set(**wanted))
        self.tell(one, "Deleting", "Deleted")
        self.gone.append(self.sets.pop(one.id))

    @precondition(lambda self: self.sets)
    @rule(which=NUMBER, by=st.sampled_from((-1, 1)))
    def come_late(self, which: int, by: int) -> None:
        """A version that is not the latest is refused, and nothing changes."""
        one = self.pick(which)
        version = str(len(one.versions) + by)
        self.refused("ResourceNotFoundException", lambda: update(self.imaging, one.id, version, revert="1"))
        self.refused("ResourceNotFoundException", lambda: copy(self.imaging, one.id, version))

    # -- agreement --------------------------------------------------------------------------------------------

    @invariant()
    def search_agrees(self) -> None:
        """SearchImageSets finds the model's sets, at their versions."""
        criteria = {"filters": [{"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": self.study}]}]}
        found = self.imaging.api.search_image_sets(datastoreId=self.imaging.datastore, searchCriteria=criteria)
        seen = {
            s["imageSetId"]: (
                s["version"],
                s["isPrimary"],
                s["DICOMTags"].get("DICOMPatientId"),
                s["DICOMTags"]["DICOMNumberOfStudyRelatedInstances"],
            )
            for s in found["imageSetsMetadataSummaries"]
        }
        expected = {
            s.id: (len(s.versions), s.primary, s.now.patient, len(s.now.sops)) for s in self.sets.values() if s.now.sops
        }
        assert {k: v for k, v in seen.items() if self.sets[k].now.sops} == expected

    def see(self, one: Set, document, seen: dict[str, bytes]) -> None:
        """Every frame of a document is the one of its instance."""
        for sop, instance in instances(document).items():
            [frame] = instance["ImageFrames"]
            if frame["ID"] not in seen:
                seen[frame["ID"]] = openjpeg(fetch(self.imaging, one.id, frame["ID"])[0]).tobytes()
            assert seen[frame["ID"]] == pixels(sop).tobytes()

    def teardown(self) -> None:
        """Every version, every document, every frame, every event."""
        for one in self.sets.values():
            listed = self.imaging.api.list_image_set_versions(datastoreId=self.imaging.datastore, imageSetId=one.id)
            rows = listed["imageSetPropertiesList"]
            got = [(r["versionId"], r["ImageSetWorkflowStatus"], r["imageSetState"]) for r in reversed(rows)]
            assert got == [(str(n), v.workflow, "ACTIVE") for n, v in enumerate(one.versions, 1)]
            seen: dict[str, bytes] = {}
            for number, version in enumerate(one.versions, 1):
                document = self.imaging.document(one.id, versionId=str(number))
                assert document["Patient"]["DICOM"]["PatientID"] == version.patient
                assert sorted(instances(document)) == sorted(version.sops)
                self.see(one, document, seen)
        for one in self.gone:
            assert self.imaging.get(one.id)["imageSetState"] == "DELETED"
        told: Counter[tuple[str, str, str]] = Counter()

        def complete() -> bool:
            for event in self.imaging.stack.drain("IMAGE_SET"):
                detail = event["detail"]
                told[detail["imageSetId"], detail["imageSetVersion"], event["detail-type"]] += 1
            return told.total() >= self.told.total()

        wait_for(complete, what="all events")
        assert told == self.told


class Locked(Machine):
    """The same where every change takes a minute: meanwhile what was is read, and nobody else writes."""

    def settle(self, *sets: Set) -> None:
        for one in sets:
            state = self.imaging.get(one.id)
            assert state["imageSetState"] == "LOCKED"
            if one.versions:
                document = self.imaging.document(one.id)
                assert document["Patient"]["DICOM"]["PatientID"] == one.now.patient
                assert sorted(instances(document)) == sorted(one.now.sops)
                assert document == self.imaging.document(one.id, versionId=one.latest)
            for version in {state["versionId"]} - {one.latest}:
                self.refused("ConflictException", lambda v=version, i=one.id: self.imaging.document(i, versionId=v))
            for version in {state["versionId"], one.latest, "1"}:
                self.refused("ConflictException", lambda v=version, i=one.id: update(self.imaging, i, v, revert="1"))
                self.refused("ConflictException", lambda v=version, i=one.id: copy(self.imaging, i, v))
        self.imaging.pass_time()
        super().settle(*sets)


def run(machine, examples):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            # Without shrinking, which would take minutes; a sequence is short enough to read.
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_service_agrees_with_the_model(imaging):
    run(lambda: Machine(imaging), EXAMPLES)


def test_it_agrees_while_image_sets_are_locked(make_aws_stack):
    stack = make_aws_stack(**{f"LOCAL_AWS_{kind}_SECONDS": "60" for kind in ("UPDATE", "COPY", "DELETE")})
    run(lambda: Locked(Imaging(stack)), LOCKED_EXAMPLES)
