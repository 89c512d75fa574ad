"""Modalities that may be named anywhere: in logs, on charts, in what runs tell. Belongs here: telling which.

Does not belong here: what tables show, which is the value as it came.
"""

from __future__ import annotations

from ahi.index.tiers.terms import TERMS

OTHER = "other"


def modality_shown(modality: object) -> str:
    """The modality, if it is a defined term of DICOM (PS3.3 C.7.3.1.1.1), otherwise `OTHER`.

    Whoever fills in the attribute can put a name into it, and what runs tell stays where no erasure looks.
    """
    return modality if isinstance(modality, str) and modality in TERMS["Modality"] else OTHER
