from __future__ import annotations

import pytest

from ahi.index.normalise import body_part, manufacturer
from ahi.index.sop_classes import SOP_CLASSES


@pytest.mark.parametrize(
    ("sent", "meaning"),
    [
        ("CHEST", "Chest"),
        ("Thorax ", "Chest"),
        ("C-SPINE", "Cervical spine"),
        ("PIANO", None),
        ("", None),
        (None, None),
    ],
)
def test_body_parts(sent, meaning):
    assert body_part(sent) == meaning


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("GE MEDICAL SYSTEMS", "GE HealthCare"),
        ("SIEMENS", "Siemens Healthineers"),
        ("Philips Medical Systems", "Philips"),
        ("TOSHIBA_MEC", "Canon Medical Systems"),
        ("Imaging Sciences International", None),
        ("Edge Systems", None),
        (None, None),
    ],
)
def test_manufacturers(sent, name):
    assert manufacturer(sent) == name


def test_names_of_classes_are_those_of_the_standard():
    from pydicom.uid import UID

    assert len(SOP_CLASSES) > 150
    assert {uid: UID(uid).name for uid in SOP_CLASSES} == SOP_CLASSES
