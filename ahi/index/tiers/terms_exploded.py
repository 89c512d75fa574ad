"""Values of the exploded tables that identify nobody. Belongs here: lists beside those of `terms`, by column.

Does not belong here: which column has which list (`rules`). Sources: PS3.3 C.8.20 (segmentation), C.8.8 (radiotherapy),
C.7.6.16 (functional groups), C.17.3 (content items), C.18.6 and C.18.9 (coordinates).
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXPLODED_TERMS: dict[str, frozenset[str]] = {
    "SegmentationType": _words("BINARY FRACTIONAL LABELMAP"),
    "SegmentAlgorithmType": _words("AUTOMATIC SEMIAUTOMATIC MANUAL"),
    "ROIGenerationAlgorithm": _words("AUTOMATIC SEMIAUTOMATIC MANUAL"),
    "RTROIInterpretedType": _words(
        "EXTERNAL PTV CTV GTV TREATED_VOLUME IRRAD_VOLUME OAR BOLUS AVOIDANCE ORGAN MARKER REGISTRATION ISOCENTER "
        "CONTRAST_AGENT CAVITY BRACHY_CHANNEL BRACHY_ACCESSORY BRACHY_SRC_APP BRACHY_CHNL_SHLD SUPPORT FIXATION "
        "DOSE_REGION CONTROL DOSE_MEASUREMENT"
    ),
    "contour_types": _words("POINT OPEN_PLANAR OPEN_NONPLANAR CLOSED_PLANAR CLOSEDPLANAR_XOR"),
    "DoseUnits": _words("GY RELATIVE"),
    "DoseType": _words("PHYSICAL EFFECTIVE ERROR"),
    "DoseSummationType": _words(
        "PLAN MULTI_PLAN PLAN_OVERVIEW FRACTION BEAM BRACHY FRACTION_SESSION BEAM_SESSION BRACHY_SESSION CONTROL_POINT "
        "RECORD"
    ),
    "TissueHeterogeneityCorrection": _words("IMAGE ROI_OVERRIDE WATER"),
    "RTPlanGeometry": _words("PATIENT TREATMENT_DEVICE"),
    "PlanIntent": _words("CURATIVE PALLIATIVE PROPHYLACTIC VERIFICATION MACHINE_QA RESEARCH SERVICE"),
    "ApprovalStatus": _words("APPROVED UNAPPROVED REJECTED"),
    "DiffusionDirectionality": _words("DIRECTIONAL BMATRIX ISOTROPIC NONE"),
    "FrameLaterality": _words("R L U B"),
    "RelationshipType": frozenset(
        (
            "CONTAINS",
            "HAS OBS CONTEXT",
            "HAS ACQ CONTEXT",
            "HAS CONCEPT MOD",
            "HAS PROPERTIES",
            "INFERRED FROM",
            "SELECTED FROM",
        )
    ),
    "ValueType": _words(
        "TEXT NUM CODE DATETIME DATE TIME UIDREF PNAME COMPOSITE IMAGE WAVEFORM SCOORD SCOORD3D TCOORD CONTAINER TABLE"
    ),
    "graphic_type": _words("POINT MULTIPOINT POLYLINE POLYGON CIRCLE ELLIPSE ELLIPSOID"),
    "TemplateIdentifier": _words(
        "300 320 1000 1001 1002 1204 1400 1401 1402 1404 1406 1407 1410 1411 1419 1420 1500 1501 1502 1600 1601 1602 "
        "2000 2005 2006 2010 3001 3100 3200 3300 3500 3602 3700 3750 3800 3802 3900 4000 4003 4006 4010 4017 4018 4019 "
        "4020 4021 4100 5000 5001 5100 5200 5220 5300 5301 5302 7000 7001 8101 8201 10001 10002 10003 10011 10012 "
        "10013 10014 10015 10021 10022 10023 10024 10030 10040 10100 11001 11020 12000 15100 15101"
    ),
    "kind": _words("ct projection quantitative qualitative"),
}
