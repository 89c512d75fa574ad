"""One spelling for what senders spell in many ways. Belongs here: body parts and manufacturers, as tables.

Does not belong here: values as sent, which keep a column of their own. Raise `NORMALISATION_VERSION` with any change.
Sources: body parts are the defined terms of Body Part Examined with their code meanings (PS3.16 annex L, table L-1),
and spellings seen in public archives that mean the same; manufacturers are the names in the headers of public archives.
"""

from __future__ import annotations

from functools import lru_cache

NORMALISATION_VERSION = "1"

# Code meaning: defined terms and other spellings, without blanks and punctuation.
_BODY_PARTS = {
    "Abdomen": "ABDOMEN ABD",
    "Abdomen and Pelvis": "ABDOMENPELVIS ABDPELVIS ABDPEL ABDOMENANDPELVIS",
    "Ankle": "ANKLE",
    "Aorta": "AORTA",
    "Arm": "ARM",
    "Bile duct": "BILEDUCT",
    "Bladder": "BLADDER",
    "Brain": "BRAIN",
    "Breast": "BREAST MAMMO BREASTS",
    "Calcaneus": "CALCANEUS HEEL",
    "Carotid artery": "CAROTID",
    "Cervical spine": "CSPINE CERVICALSPINE CERVICAL CSP",
    "Cervico-thoracic spine": "CTSPINE",
    "Chest": "CHEST THORAX TORAX THORAXCHEST",
    "Chest and Abdomen": "CHESTABDOMEN THORAXABDOMEN CHESTABD",
    "Chest, Abdomen and Pelvis": "CHESTABDPELVIS CAP THORAXABDPELVIS CHESTABDPEL THORAXABDOMENPELVIS",
    "Clavicle": "CLAVICLE",
    "Coccyx": "COCCYX",
    "Colon": "COLON",
    "Coronary artery": "CORONARYARTERY CORONARY",
    "Duodenum": "DUODENUM",
    "Elbow": "ELBOW",
    "Esophagus": "ESOPHAGUS OESOPHAGUS",
    "Extremity": "EXTREMITY",
    "Eye": "EYE EYES ORBITEYE",
    "Face": "FACE",
    "Femur": "FEMUR",
    "Finger": "FINGER FINGERS",
    "Foot": "FOOT FEET",
    "Forearm": "FOREARM",
    "Gallbladder": "GALLBLADDER",
    "Hand": "HAND HANDS",
    "Head": "HEAD HEADBRAIN",
    "Head and Neck": "HEADNECK HEADANDNECK HN",
    "Heart": "HEART CARDIAC",
    "Hip": "HIP HIPS",
    "Humerus": "HUMERUS",
    "Internal auditory canal": "IAC",
    "Jaw": "JAW MANDIBLE",
    "Kidney": "KIDNEY KIDNEYS RENAL",
    "Knee": "KNEE KNEES",
    "Leg": "LEG LEGS LOWERLIMB LOWEREXTREMITY",
    "Liver": "LIVER",
    "Lower leg": "LOWERLEG TIBFIB",
    "Lumbar spine": "LSPINE LUMBARSPINE LUMBAR LSP",
    "Lumbo-sacral spine": "LSSPINE",
    "Lung": "LUNG LUNGS",
    "Maxilla": "MAXILLA",
    "Mediastinum": "MEDIASTINUM",
    "Neck": "NECK",
    "Neck and Chest": "NECKCHEST",
    "Neck, Chest and Abdomen": "NECKCHESTABDOMEN",
    "Neck, Chest, Abdomen and Pelvis": "NECKCHESTABDPELV NECKCHESTABDPELVIS",
    "Optic canal": "OPTICCANAL",
    "Orbit": "ORBIT ORBITS",
    "Ovary": "OVARY",
    "Pancreas": "PANCREAS",
    "Patella": "PATELLA",
    "Pelvis": "PELVIS PELV",
    "Penis": "PENIS",
    "Prostate": "PROSTATE",
    "Rectum": "RECTUM",
    "Rib": "RIB RIBS",
    "Sacroiliac joint": "SIJOINT",
    "Sacrum": "SSPINE SACRUM",
    "Scapula": "SCAPULA",
    "Sella turcica": "SELLA",
    "Shoulder": "SHOULDER SHOULDERS",
    "Skull": "SKULL",
    "Spine": "SPINE",
    "Spleen": "SPLEEN",
    "Sternum": "STERNUM",
    "Stomach": "STOMACH",
    "Testis": "TESTIS",
    "Thigh": "THIGH",
    "Thoracic spine": "TSPINE THORACICSPINE TSP",
    "Thoraco-lumbar spine": "TLSPINE",
    "Thumb": "THUMB",
    "Thyroid": "THYROID",
    "Tibia": "TIBIA",
    "Toe": "TOE TOES",
    "Uterus": "UTERUS",
    "Whole body": "WHOLEBODY WB BODY",
    "Wrist": "WRIST",
    "Zygoma": "ZYGOMA",
}
_BODY_PART = {spelling: meaning for meaning, spellings in _BODY_PARTS.items() for spelling in spellings.split()}

# The first name that the value holds counts; a value of only letters must not match inside a word by chance.
_MANUFACTURERS = (
    ("GE HealthCare", ("GE MEDICAL", "GE HEALTHCARE", "GEMS", "GENERAL ELECTRIC", "GE VINGMED", "GE ")),
    ("Siemens Healthineers", ("SIEMENS", "ACUSON", "CTI PET")),
    ("Philips", ("PHILIPS", "ADAC", "PICKER", "MARCONI")),
    ("Canon Medical Systems", ("CANON", "TOSHIBA")),
    ("FUJIFILM", ("FUJI", "HITACHI", "SONOSITE")),
    ("Hologic", ("HOLOGIC", "LORAD")),
    ("Agfa", ("AGFA",)),
    ("Carestream", ("CARESTREAM", "KODAK")),
    ("Konica Minolta", ("KONICA", "MINOLTA")),
    ("Samsung", ("SAMSUNG", "MEDISON", "NEUROLOGICA")),
    ("Shimadzu", ("SHIMADZU",)),
    ("United Imaging", ("UNITED IMAGING", "UIH")),
    ("Mindray", ("MINDRAY",)),
    ("Esaote", ("ESAOTE",)),
    ("Bruker", ("BRUKER",)),
    ("Varian", ("VARIAN",)),
    ("Elekta", ("ELEKTA",)),
    ("Leica Biosystems", ("LEICA", "APERIO")),
    ("Hamamatsu", ("HAMAMATSU",)),
    ("Carl Zeiss Meditec", ("ZEISS",)),
    ("Heidelberg Engineering", ("HEIDELBERG",)),
    ("Topcon", ("TOPCON",)),
)

BODY_PARTS = frozenset(_BODY_PARTS)
"""Everything that `body_part` can say."""
MANUFACTURERS = frozenset(name for name, _ in _MANUFACTURERS)
"""Everything that `manufacturer` can say."""


def body_part(value: object) -> str | None:
    """Meaning of Body Part Examined as sent; None when it is in no table."""
    return _body_part(value) if isinstance(value, str) else None


@lru_cache(4096)
def _body_part(value: str) -> str | None:
    return _BODY_PART.get("".join(char for char in value.upper() if char.isalnum()))


def manufacturer(value: object) -> str | None:
    """Manufacturer under its present name; None when it is in no table."""
    return _manufacturer(value) if isinstance(value, str) else None


@lru_cache(4096)
def _manufacturer(value: str) -> str | None:
    text = f"{value.upper()} "
    return next((name for name, spellings in _MANUFACTURERS if any(_holds(text, one) for one in spellings)), None)


def _holds(text: str, spelling: str) -> bool:
    at = text.find(spelling)
    return at == 0 or (at > 0 and not text[at - 1].isalnum())
