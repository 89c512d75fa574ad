"""DICOM attributes of the modalities' side tables. Belongs here: one line for each keyword, and how a series shows it.

Does not belong here: finding the values in a document (`ahi.documents_side`).
A value that is the same in every instance is shown as it is. One that differs by design has a smallest and a largest
value (`RANGE`), or all its values in order (`DISTINCT`). One that differs by error is null and named in `mixed_attrs`;
a value that did not fit its column differs from those that did, and is no end and none of all values.
Enhanced objects have the same keywords in their functional groups (PS3.3 C.7.6.16.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from ahi.index.columns import Column, Table, Tier, derived, dicom, image_set_table

_I, _L, _D = Tier.IDENTIFIED, Tier.LIMITED, Tier.DEIDENTIFIED


class Rule(Enum):
    """How a series shows values of its instances."""

    SAME = "same"
    RANGE = "range"
    DISTINCT = "distinct"


SAME, RANGE, DISTINCT = Rule


@dataclass(frozen=True)
class Side:
    """An attribute of a side table: as the dictionary has it, how the series shows it, and a keyword that may stand in.

    `also` is the keyword of enhanced objects where it has another name and the same unit.
    """

    attribute: Column
    rule: Rule
    also: str = ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the table."""
        one = self.attribute
        if self.rule is RANGE:
            ends = (("min", "Smallest"), ("max", "Largest"))
            return tuple(
                replace(one, name=f"{one.name}_{end}", description=f"{one.description} {word} of the series.")
                for end, word in ends
            )
        if self.rule is DISTINCT and not (one.is_list and one.vm == "1-n"):
            return (replace(one, duckdb_type=f"{one.duckdb_type}[]"),)
        return (one,)


def _side(
    keyword: str, tag: int, vr: str, vm: str, tier: Tier, description: str, rule: Rule = SAME, also: str = ""
) -> Side:
    return Side(replace(dicom("Series", keyword, tag, vr, vm, tier, description), since="2"), rule, also)


CT = (
    _side("KVP", 0x00180060, "DS", "1", _D, "Peak voltage of the X-ray tube in kV."),
    _side("XRayTubeCurrent", 0x00181151, "IS", "1", _D, "X-ray tube current in mA.", RANGE),
    _side("XRayTubeCurrentInmA", 0x00189330, "FD", "1", _D, "X-ray tube current in mA, of enhanced objects.", RANGE),
    _side("ExposureTime", 0x00181150, "IS", "1", _D, "Time of exposure in ms.", RANGE),
    _side("ExposureTimeInms", 0x00189328, "FD", "1", _D, "Time of exposure in ms, of enhanced objects.", RANGE),
    _side("Exposure", 0x00181152, "IS", "1", _D, "Exposure in mAs.", RANGE),
    _side("ExposureInmAs", 0x00189332, "FD", "1", _D, "Exposure in mAs, of enhanced objects.", RANGE),
    _side("CTDIvol", 0x00189345, "FD", "1", _D, "Volume computed tomography dose index in mGy.", RANGE),
    _side("SpiralPitchFactor", 0x00189311, "FD", "1", _D, "Table feed of a rotation, divided by the collimation."),
    _side("TableSpeed", 0x00189309, "FD", "1", _D, "Speed of the table in mm/s."),
    _side("TableFeedPerRotation", 0x00189310, "FD", "1", _D, "Way of the table in a rotation in mm."),
    _side("RevolutionTime", 0x00189305, "FD", "1", _D, "Time of a rotation in s."),
    _side("SingleCollimationWidth", 0x00189306, "FD", "1", _D, "Width of one detector row in mm."),
    _side("TotalCollimationWidth", 0x00189307, "FD", "1", _D, "Width of all detector rows used in mm."),
    _side("ConvolutionKernel", 0x00181210, "SH", "1-n", _D, "Kernel of the reconstruction."),
    _side("FilterType", 0x00181160, "SH", "1", _D, "Filter in the X-ray beam."),
    _side("ReconstructionDiameter", 0x00181100, "DS", "1", _D, "Diameter of the region reconstructed in mm."),
    _side("DataCollectionDiameter", 0x00180090, "DS", "1", _D, "Diameter of the region scanned in mm."),
    _side("GantryDetectorTilt", 0x00181120, "DS", "1", _D, "Tilt of the gantry in degrees."),
    _side("ScanOptions", 0x00180022, "CS", "1-n", _D, "Scan options."),
    _side("AcquisitionType", 0x00189302, "CS", "1", _D, "Way of scanning, such as SPIRAL."),
    _side("ExposureModulationType", 0x00189323, "CS", "1-n", _D, "Ways in which the exposure was modulated."),
    _side("EstimatedDoseSaving", 0x00189324, "FD", "1", _D, "Dose saved by modulation in per cent.", RANGE),
)
MR = (
    _side("MagneticFieldStrength", 0x00180087, "DS", "1", _D, "Field strength in T."),
    _side("ImagingFrequency", 0x00180084, "DS", "1", _D, "Precession frequency in MHz."),
    _side("ImagedNucleus", 0x00180085, "SH", "1", _D, "Nucleus, such as 1H."),
    _side("ScanningSequence", 0x00180020, "CS", "1-n", _D, "Kinds of sequence, such as SE or GR."),
    _side("SequenceVariant", 0x00180021, "CS", "1-n", _D, "Variants of the sequence."),
    _side("ScanOptions", 0x00180022, "CS", "1-n", _D, "Scan options."),
    _side("MRAcquisitionType", 0x00180023, "CS", "1", _D, "2D or 3D."),
    _side("SequenceName", 0x00180024, "SH", "1", _D, "Name that the manufacturer gave the sequence."),
    _side("PulseSequenceName", 0x00189005, "SH", "1", _D, "Name of the sequence, of enhanced objects."),
    _side("EchoTime", 0x00180081, "DS", "1", _D, "Echo times in ms.", DISTINCT, also="EffectiveEchoTime"),
    _side("EchoNumbers", 0x00180086, "IS", "1-n", _D, "Numbers of the echoes.", DISTINCT),
    _side("RepetitionTime", 0x00180080, "DS", "1", _D, "Repetition times in ms.", DISTINCT),
    _side("InversionTime", 0x00180082, "DS", "1", _D, "Inversion times in ms.", DISTINCT, also="InversionTimes"),
    _side("FlipAngle", 0x00181314, "DS", "1", _D, "Flip angles in degrees.", DISTINCT),
    _side("EchoTrainLength", 0x00180091, "IS", "1", _D, "Lines acquired for each excitation."),
    _side("PixelBandwidth", 0x00180095, "DS", "1", _D, "Bandwidth of a pixel in Hz."),
    _side("NumberOfAverages", 0x00180083, "DS", "1", _D, "Times that data were acquired and averaged."),
    _side("ReceiveCoilName", 0x00181250, "SH", "1", _D, "Name of the receiving coil."),
    _side("TransmitCoilName", 0x00181251, "SH", "1", _D, "Name of the transmitting coil."),
    _side("InPlanePhaseEncodingDirection", 0x00181312, "CS", "1", _D, "ROW or COL; COLUMN in enhanced objects."),
    _side("AcquisitionMatrix", 0x00181310, "US", "4", _D, "Frequency rows and columns, phase rows and columns."),
    _side("PercentSampling", 0x00180093, "DS", "1", _D, "Part of the acquisition matrix acquired in per cent."),
    _side("DiffusionBValue", 0x00189087, "FD", "1", _D, "Diffusion b-values in s/mm2.", DISTINCT),
    _side("DiffusionGradientOrientation", 0x00189089, "FD", "3", _D, "Directions of the gradients.", DISTINCT),
    _side("SAR", 0x00181316, "DS", "1", _D, "Specific absorption rate in W/kg.", RANGE),
    _side("TriggerTime", 0x00181060, "DS", "1", _D, "Time from the trigger in ms.", RANGE),
    _side("TemporalPositionIdentifier", 0x00200100, "IS", "1", _D, "Number of the time point.", RANGE),
)
PT = (
    _side("Units", 0x00541001, "CS", "1", _D, "Unit of the pixel values, such as BQML."),
    _side("SeriesType", 0x00541000, "CS", "2", _D, "Kind of series, such as WHOLE BODY and IMAGE."),
    _side("DecayCorrection", 0x00541102, "CS", "1", _D, "Moment to which decay is corrected: NONE, START or ADMIN."),
    _side("CorrectedImage", 0x00280051, "CS", "1-n", _D, "Corrections applied."),
    _side("RandomsCorrectionMethod", 0x00541100, "CS", "1", _D, "How randoms were corrected."),
    _side("ScatterCorrectionMethod", 0x00541105, "LO", "1", _D, "How scatter was corrected."),
    _side("AttenuationCorrectionMethod", 0x00541101, "LO", "1", _D, "How attenuation was corrected."),
    _side("ReconstructionMethod", 0x00541103, "LO", "1", _D, "How images were reconstructed."),
    _side("ActualFrameDuration", 0x00181242, "IS", "1", _D, "Durations of the frames in ms.", DISTINCT),
    _side("NumberOfSlices", 0x00540081, "US", "1", _D, "Slices of a volume."),
    _side("NumberOfTimeSlices", 0x00540101, "US", "1", _D, "Time points."),
    _side("Radiopharmaceutical", 0x00180031, "LO", "1", _D, "Name of the radiopharmaceutical."),
    _side("RadiopharmaceuticalCodeSequence", 0x00540304, "SQ", "1", _D, "Coded radiopharmaceutical."),
    _side("RadionuclideCodeSequence", 0x00540300, "SQ", "1", _D, "Coded radionuclide."),
    _side("RadionuclideTotalDose", 0x00181074, "DS", "1", _D, "Activity injected in Bq."),
    _side("RadionuclideHalfLife", 0x00181075, "DS", "1", _D, "Half life in s."),
    _side("RadiopharmaceuticalStartDateTime", 0x00181078, "DT", "1", _L, "Start of injection; null without offset."),
    _side("RadiopharmaceuticalStartTime", 0x00181072, "TM", "1", _L, "Local time of the start of the injection."),
)
PROJECTION = (
    _side("ViewPosition", 0x00185101, "CS", "1", _D, "Views, such as CC, MLO, AP or LL.", DISTINCT),
    _side("ImageLaterality", 0x00200062, "CS", "1", _D, "Sides of the body: R, L, U or B.", DISTINCT),
    _side("BodyPartThickness", 0x001811A0, "DS", "1", _D, "Thickness of the body part in mm.", RANGE),
    _side("CompressionForce", 0x001811A2, "DS", "1", _D, "Force of the compression in N.", RANGE),
    _side("EntranceDoseInmGy", 0x00408302, "DS", "1", _D, "Dose at the entrance in mGy.", RANGE),
    _side("OrganDose", 0x00400316, "DS", "1", _D, "Dose of the organ in dGy.", RANGE),
    _side("AnodeTargetMaterial", 0x00181191, "CS", "1", _D, "Materials of the anode.", DISTINCT),
    _side("FilterMaterial", 0x00187050, "CS", "1-n", _D, "Materials of the filters.", DISTINCT),
    _side("PresentationIntentType", 0x00080068, "CS", "1", _D, "FOR PRESENTATION or FOR PROCESSING."),
    _side("BreastImplantPresent", 0x00281300, "CS", "1", _D, "Whether a breast implant is there.", DISTINCT),
    _side("DetectorType", 0x00187004, "CS", "1", _D, "Kind of detector."),
    _side("ImagerPixelSpacing", 0x00181164, "DS", "2", _D, "Distance of rows and of columns in mm, at the detector."),
    _side("EstimatedRadiographicMagnificationFactor", 0x00181114, "DS", "1", _D, "Magnification.", RANGE),
    _side("KVP", 0x00180060, "DS", "1", _D, "Peak voltage of the X-ray tube in kV.", RANGE),
    _side("ExposureInuAs", 0x00181153, "IS", "1", _D, "Exposure in uAs.", RANGE),
    _side("ExposureIndex", 0x00181411, "DS", "1", _D, "Exposure index.", RANGE),
    _side("DeviationIndex", 0x00181413, "DS", "1", _D, "Deviation of the exposure index from its target.", RANGE),
    _side("TargetExposureIndex", 0x00181412, "DS", "1", _D, "Target of the exposure index.", RANGE),
    _side("FieldOfViewDimensions", 0x00181149, "IS", "1-2", _D, "Size of the field of view in mm."),
)
US = (
    _side("TransducerData", 0x00185010, "LO", "1-n", _L, "Description of the transducer."),
    _side("TransducerType", 0x00186031, "CS", "1", _D, "Kind of transducer."),
    _side("ProcessingFunction", 0x00185020, "LO", "1", _D, "Processing used."),
    _side("FrameTime", 0x00181063, "DS", "1", _D, "Time between frames in ms.", RANGE),
    _side("CineRate", 0x00180040, "IS", "1", _D, "Frames a second at which to show.", RANGE),
    _side("HeartRate", 0x00181088, "IS", "1", _D, "Beats a minute.", RANGE),
    _side("StageName", 0x00082120, "SH", "1", _L, "Stages of the examination.", DISTINCT),
    _side("ViewName", 0x00082127, "SH", "1", _L, "Views of the examination.", DISTINCT),
    _side("MechanicalIndex", 0x00185022, "DS", "1", _D, "Mechanical index.", RANGE),
    _side("BoneThermalIndex", 0x00185024, "DS", "1", _D, "Thermal index of bone.", RANGE),
    _side("SoftTissueThermalIndex", 0x00185027, "DS", "1", _D, "Thermal index of soft tissue.", RANGE),
)
XA = (
    _side("PositionerPrimaryAngle", 0x00181510, "DS", "1", _D, "Angle about the patient in degrees.", RANGE),
    _side("PositionerSecondaryAngle", 0x00181511, "DS", "1", _D, "Angle towards the head in degrees.", RANGE),
    _side("DistanceSourceToDetector", 0x00181110, "DS", "1", _D, "Distance of source and detector in mm.", RANGE),
    _side("DistanceSourceToPatient", 0x00181111, "DS", "1", _D, "Distance of source and patient in mm.", RANGE),
    _side("FluoroscopyFlag", 0x00189334, "CS", "1", _D, "Whether fluoroscopy was used.", DISTINCT),
    _side("ImageAndFluoroscopyAreaDoseProduct", 0x0018115E, "DS", "1", _D, "Dose area product in dGy*cm2.", RANGE),
    _side("AveragePulseWidth", 0x00181154, "DS", "1", _D, "Mean width of a pulse in ms.", RANGE),
    _side("RadiationSetting", 0x00181155, "CS", "1", _D, "Radiation settings: SC or GR.", DISTINCT),
)
SM = (
    _side("ContainerIdentifier", 0x00400512, "LO", "1", _I, "Identifier of the slide."),
    _side("TotalPixelMatrixColumns", 0x00480006, "UL", "1", _D, "Columns of the whole image.", RANGE),
    _side("TotalPixelMatrixRows", 0x00480007, "UL", "1", _D, "Rows of the whole image.", RANGE),
    _side("ImagedVolumeWidth", 0x00480001, "FL", "1", _D, "Width of the region in mm.", RANGE),
    _side("ImagedVolumeHeight", 0x00480002, "FL", "1", _D, "Height of the region in mm.", RANGE),
    _side("NumberOfOpticalPaths", 0x00480302, "UL", "1", _D, "Optical paths."),
    _side("ObjectiveLensPower", 0x00480112, "DS", "1", _D, "Powers of the objective.", DISTINCT),
    _side("SpecimenLabelInImage", 0x00480010, "CS", "1", _D, "Whether the label is in the image.", DISTINCT),
    _side("FocusMethod", 0x00480011, "CS", "1", _D, "AUTO or MANUAL."),
    _side("ExtendedDepthOfField", 0x00480012, "CS", "1", _D, "Whether planes were merged."),
)

SIDES: dict[str, tuple[Side, ...]] = {
    "series_ct": CT,
    "series_mr": MR,
    "series_pt": PT,
    "series_projection": PROJECTION,
    "series_us": US,
    "series_xa": XA,
    "series_sm": SM,
}
TABLE_OF_MODALITY = {
    "CT": "series_ct",
    "MR": "series_mr",
    "PT": "series_pt",
    **dict.fromkeys(("MG", "DX", "CR"), "series_projection"),
    "US": "series_us",
    **dict.fromkeys(("XA", "RF"), "series_xa"),
    "SM": "series_sm",
}
_WHAT = {
    "series_ct": "CT series",
    "series_mr": "MR series",
    "series_pt": "PET series",
    "series_projection": "series of projections (MG, DX, CR)",
    "series_us": "ultrasound series",
    "series_xa": "series of angiography or fluoroscopy (XA, RF)",
    "series_sm": "series of whole slides",
}
_MIXED = derived(
    "mixed_attrs",
    "VARCHAR[]",
    _D,
    "Columns left null: values differ, those that did not fit included. An only value is in cast_failures alone.",
)


def side_tables(keys: tuple[Column, ...]) -> tuple[Table, ...]:
    """The side tables, with the columns that name the series first."""
    return tuple(
        image_set_table(
            name,
            f"One row for each version of an image set of {_WHAT[name]}: what its instances say of the acquisition.",
            (*keys, *(column for side in sides for column in side.columns), _MIXED),
            ("SeriesInstanceUID",),
        )
        for name, sides in SIDES.items()
    )
