"""Values that identify nobody, whoever sent them. Belongs here: the lists that the de-identified tier lets through.

Does not belong here: which column has which list (`rules`). Whoever fills in a coded string can put a name into it, so
the de-identified tier shows a value only if it stands here, in a dictionary of the standard, or in the operator's own
list of reviewed values (`AHI_TIER_TERMS`). Sources: PS3.3 (defined terms and enumerated values of the attributes),
PS3.16 (its context groups and coding schemes, as pydicom has them), PS3.6 (keywords).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from ahi.index.normalise import BODY_PARTS, MANUFACTURERS
from ahi.index.sop_classes import SOP_CLASSES
from ahi.index.tiers.terms_exploded import EXPLODED_TERMS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _lines(text: str) -> frozenset[str]:
    return frozenset(line.strip() for line in text.split(","))


_YES_NO = _words("YES NO")
# PS3.16 annex L, table L-1, and what scanners send for the same.
_BODY_PARTS = _lines(
    "ABDOMEN, ABDOMENPELVIS, ADRENAL, ANKLE, AORTA, ARM, AXILLA, BACK, BLADDER, BRAIN, BREAST, BRONCHUS, BUTTOCK, "
    "CALCANEUS, CALF, CAROTID, CEREBELLUM, CERVIX, CHEEK, CHEST, CHESTABDOMEN, CHESTABDPELVIS, CIRCLEOFWILLIS, "
    "CLAVICLE, COCCYX, COLON, CORNEA, CORONARYARTERY, CSPINE, CTSPINE, DUODENUM, EAR, ELBOW, ESOPHAGUS, EXTREMITY, "
    "EYE, FACE, FEMUR, FINGER, FOOT, FOREARM, GALLBLADDER, HAND, HEAD, HEADNECK, HEART, HIP, HUMERUS, ILEUM, ILIUM, "
    "IAC, JAW, JEJUNUM, KIDNEY, KNEE, LARYNX, LEG, LIVER, LSPINE, LSSPINE, LUNG, LOWER LIMB, MANDIBLE, MAXILLA, "
    "MEDIASTINUM, MOUTH, NECK, NECKCHEST, NECKCHESTABDOMEN, NECKCHESTABDPELV, NOSE, ORBIT, OVARY, PANCREAS, "
    "PAROTID, PATELLA, PELVIS, PENIS, PHARYNX, PROSTATE, RADIUS, RECTUM, RIB, SCALP, SCAPULA, SCLERA, SCROTUM, "
    "SELLA, SHOULDER, SKULL, SPINE, SPLEEN, SSPINE, STERNUM, STOMACH, SUBMANDIBULAR, TESTIS, THIGH, THORAX, THUMB, "
    "THYMUS, THYROID, TIBIA, TOE, TONGUE, TRACHEA, TSPINE, TLSPINE, ULNA, UPPER LIMB, URETER, URETHRA, UTERUS, "
    "VAGINA, VULVA, WHOLEBODY, WHOLE BODY, WRIST, ZYGOMA"
)
_MODALITIES = _words(
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT "
    "IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG "
    "RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA "
    "XA XAPROTOCOL XC"
)
_IMAGE_TYPES = _lines(
    "ORIGINAL, DERIVED, PRIMARY, SECONDARY, MIXED, AXIAL, LOCALIZER, REFORMATTED, OTHER, NONE, VOLUME, MPR, MIP, "
    "MINIP, AVERAGE, PROJECTION IMAGE, PROJECTION, M, P, R, I, ND, NORM, DIS2D, DIS3D, MOSAIC, SE, FFE, M_SE, "
    "M_FFE, M_IR, EPI, T1, T2, PD, DIFFUSION, ADC, FA, TRACEW, PERFUSION, RCBF, RCBV, MTT, TTP, TOF, FLAIR, "
    "VELOCITY, MAGNITUDE, PHASE, REAL, IMAGINARY, EMISSION, TRANSMISSION, STATIC, DYNAMIC, GATED, WHOLE BODY, TOMO, "
    "RECON TOMO, SINGLE PLANE, BIPLANE A, BIPLANE B, PORTAL, SIMULATOR, DRR, LABEL, OVERVIEW, THUMBNAIL, RESAMPLED, "
    "WATER, FAT, IN_PHASE, OUT_PHASE, SUBTRACTION, MONOENERGETIC"
)
# Column of the registry -> values that may be shown.
TERMS: dict[str, frozenset[str]] = {
    **EXPLODED_TERMS,
    "Modality": _MODALITIES,
    "BodyPartExamined": _BODY_PARTS,
    "ImageType": _IMAGE_TYPES,
    "PatientSex": _words("M F O"),
    "Laterality": _words("L R B U"),
    "ImageLaterality": _words("L R B U"),
    "PatientPosition": _words("HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL SITTING"),
    "AnatomicalOrientationType": _words("BIPED QUADRUPED"),
    "SmokingStatus": _words("YES NO UNKNOWN"),
    "PatientIdentityRemoved": _YES_NO,
    "BurnedInAnnotation": _YES_NO,
    "RecognizableVisualFeatures": _YES_NO,
    "BreastImplantPresent": _YES_NO,
    "FluoroscopyFlag": _YES_NO,
    "SpecimenLabelInImage": _YES_NO,
    "ExtendedDepthOfField": _YES_NO,
    "LongitudinalTemporalInformationModified": _words("UNMODIFIED MODIFIED REMOVED"),
    "CompletionFlag": _words("PARTIAL COMPLETE"),
    "VerificationFlag": _words("UNVERIFIED VERIFIED"),
    "LossyImageCompression": _words("00 01"),
    "LossyImageCompressionMethod": _words(
        "ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15 ISO_18181_1 ISO_13818_2 ISO_14496_10 ISO_23008_2"
    ),
    "PhotometricInterpretation": _lines(
        "MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB, HSV, ARGB, CMYK, YBR_FULL, YBR_FULL_422, YBR_PARTIAL_422, "
        "YBR_PARTIAL_420, YBR_ICT, YBR_RCT, XYB"
    ),
    "SpecificCharacterSet": _lines(
        "ISO_IR 6, ISO_IR 13, ISO_IR 100, ISO_IR 101, ISO_IR 109, ISO_IR 110, ISO_IR 126, ISO_IR 127, ISO_IR 138, "
        "ISO_IR 144, ISO_IR 148, ISO_IR 166, ISO_IR 192, ISO_IR 203, GB18030, GBK, ISO 2022 IR 6, ISO 2022 IR 13, "
        "ISO 2022 IR 58, ISO 2022 IR 87, ISO 2022 IR 100, ISO 2022 IR 101, ISO 2022 IR 109, ISO 2022 IR 110, "
        "ISO 2022 IR 126, ISO 2022 IR 127, ISO 2022 IR 138, ISO 2022 IR 144, ISO 2022 IR 148, ISO 2022 IR 149, "
        "ISO 2022 IR 159, ISO 2022 IR 166, ISO 2022 IR 203"
    ),
    "ContrastBolusIngredient": _lines("IODINE, GADOLINIUM, CARBON DIOXIDE, BARIUM, XENON"),
    "AcquisitionType": _words("SEQUENCED SPIRAL CONSTANT_ANGLE STATIONARY FREE CINE"),
    "ExposureModulationType": _words("NONE ANGULAR XY Z XYZ CARDIAC ORGAN"),
    "ScanningSequence": _words("SE IR GR EP RM"),
    "SequenceVariant": _words("SK MTC SS TRSS SP MP OSP NONE"),
    "ScanOptions": _lines(
        "PER, RG, CG, PPG, FC, PFF, PFP, SP, FS, CT, NONE, AXIAL MODE, HELICAL MODE, SCOUT MODE, CINE MODE, HELIX, "
        "AXIAL, SPIRAL, SURVIEW"
    ),
    "MRAcquisitionType": _words("1D 2D 3D"),
    "InPlanePhaseEncodingDirection": _words("ROW COL ROTATING OTHER"),
    "ImagedNucleus": _words("1H 3HE 7LI 13C 19F 23NA 31P 129XE"),
    "Units": _words(
        "CNTS NONE CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG 1CM UMOLML PROPCNTS PROPCPS MLMINML GML"
    ),
    "SeriesType": _lines("STATIC, DYNAMIC, GATED, WHOLE BODY, IMAGE, REPROJECTION"),
    "DecayCorrection": _words("NONE START ADMIN"),
    "CorrectedImage": _words("DECY ATTN SCAT DTIM MOTN PMOT CLN RAN RADL DCAL NORM COUN LIN UNIF NRGY"),
    "RandomsCorrectionMethod": _words("NONE DLYD SING"),
    "ViewPosition": _words("AP PA LL RL RLD LLD RLO LLO CC MLO ML LM LMO XCC XCCL XCCM FB ISO SIO CV AT"),
    "AnodeTargetMaterial": _words("TUNGSTEN MOLYBDENUM RHODIUM"),
    "FilterMaterial": _words("MOLYBDENUM ALUMINUM COPPER RHODIUM NIOBIUM EUROPIUM LEAD SILVER TIN"),
    "PresentationIntentType": frozenset({"FOR PRESENTATION", "FOR PROCESSING"}),
    "DetectorType": _words("DIRECT SCINTILLATOR STORAGE FILM"),
    "RadiationSetting": _words("SC GR"),
    "TransducerType": _lines(
        "SECTOR_PHASED, SECTOR_MECH, SECTOR_ANNULAR, LINEAR, CURVED LINEAR, SINGLE CRYSTAL, SPLIT XTAL CWD, IV_PHASED, "
        "IV_ROT XTAL, IV_ROT MIRROR, ENDOCAV_PA, ENDOCAV_MECH, ENDOCAV_CLA, ENDOCAV_AA, ENDOCAV_LINEAR, VECTOR_PHASED"
    ),
    "FocusMethod": _words("AUTO MANUAL"),
    "body_part_normalised": BODY_PARTS,
    "manufacturer_normalised": MANUFACTURERS,
    "sop_class_name": frozenset(SOP_CLASSES.values()),
    "RescaleType": _words("HU OD US MGML Z_EFF ED EDW HU_MOD PCT PTHREE MRR"),
    "level": _words("patient study series instance"),
    "plane": _words("axial coronal sagittal"),
    "vr": _words(
        "AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV"
    ),
}

# Words in the meaning of a code under which a number is somebody's, or tells a birth.
_NAMING = re.compile(
    r"\b(birth(date|day)?|born|dob|identifiers?|identification|identity|ids?|login|location|number(?! of)|mrn|ssn|"
    r"accession|serial|name|uid|person|record|licen[cs]e|address|e-?mail|"
    r"telephone|phone|fax|account|insurance|postal|zip|code)\b"
    r"|^(patient|subject|study|series|order|specimen|.*(patient|study|order|procedure) record)$",
    re.IGNORECASE,
)
# The same of a day or a moment. Most of the standard's times are durations: a moment is "Time" alone, or says whose.
_MOMENT = re.compile(
    r"\b(date(time)?s?|edd|lmp|timecode)\b|^time$|\btime of day\b|\bprocedure time base\b"
    r"|\b(beginning|middle|end) of time period\b"
    r"|\b(study|series|content|(?<!total )acquisition|measurement|start|stop|end|finish) time\b",
    re.IGNORECASE,
)
# Between the words of PatientID and patient_id.
_JOINT = re.compile(r"(?<=[a-z])(?=[A-Z])|_")
_AGE = re.compile(r"\bages?\b", re.IGNORECASE)
# Of the unborn; it is no age of the patient.
_GESTATION = re.compile(r"\b(gestational|ultrasound|menstrual) age\b( by .*)?", re.IGNORECASE)


@cache
def standard_uids() -> frozenset[str]:
    """UIDs that the standard defines: SOP classes, transfer syntaxes, well-known instances (PS3.6 annex A)."""
    from pydicom._uid_dict import UID_dictionary

    return frozenset(UID_dictionary) | frozenset(SOP_CLASSES)


def is_identifying(meaning: str) -> bool:
    """Whether a number under a concept of this meaning can be a day or an identifier."""
    rest = _GESTATION.sub("", meaning)
    return bool(_MOMENT.search(rest)) or is_naming(rest)


def is_naming(meaning: str) -> bool:
    """Whether what stands under a concept of this meaning, maybe a sender's own, can be an identifier or a birth."""
    return bool(_NAMING.search(meaning) or _NAMING.search(_JOINT.sub(" ", meaning)))


def is_age(meaning: str) -> bool:
    """Whether a number under a concept of this meaning is an age of the patient."""
    return bool(_AGE.search(_GESTATION.sub("", meaning)))


@cache
def meanings() -> dict[tuple[str, str], str]:
    """Meaning of each code of the standard's context groups, by coding scheme and code.

    SRT, SNM3 and 99SDM are older names of SNOMED; their codes are shown as they are.
    """
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    listed: Any = concepts
    known = {
        (scheme, code): meaning
        for scheme, keywords in listed.items()
        for codes in keywords.values()
        for code, (meaning, _) in codes.items()
    }
    for old, new in mapping["SRT"].items():
        if meaning := known.get(("SCT", new)):
            known.update({(scheme, old): meaning for scheme in ("SRT", "SNM3", "99SDM")})
    return known


@cache
def keywords() -> frozenset[str]:
    """Keywords of the data dictionary."""
    from pydicom._dicom_dict import DicomDictionary

    return frozenset(entry[4] for entry in DicomDictionary.values() if entry[4])


@cache
def private_creators() -> frozenset[str]:
    """Private creators that pydicom's dictionary of private elements knows."""
    from pydicom._private_dict import private_dictionaries

    return frozenset(private_dictionaries)


@cache
def private_names() -> frozenset[str]:
    """Names of private elements in that dictionary."""
    from pydicom._private_dict import private_dictionaries

    return frozenset(entry[2] for entries in private_dictionaries.values() for entry in entries.values())
