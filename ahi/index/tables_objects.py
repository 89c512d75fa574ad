"""Tables of one kind of object each. Belongs here: columns for segmentations, radiotherapy and enhanced images.

Does not belong here: reports (`tables_reports`), tables that any object may have rows in (`tables_exploded`).
Attributes by PS3.3: segmentation C.8.20, structure set C.8.8.5, dose C.8.8.3, plan C.8.8.9, functional groups C.7.6.16.
"""

from __future__ import annotations

from functools import partial

from ahi.index.columns import Column, Table, Tier, derived, dicom, image_set_table
from ahi.index.keywords_instance import INSTANCE
from ahi.index.keywords_series import SERIES
from ahi.index.keywords_study import STUDY

_col = partial(dicom, "Instance")
_I, _L, _D = Tier.IDENTIFIED, Tier.LIMITED, Tier.DEIDENTIFIED
_KNOWN = {column.name: column for column in (*STUDY, *SERIES, *INSTANCE)}
_IDS: tuple[Column, ...] = tuple(_KNOWN[name] for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
_SORT = ("SeriesInstanceUID", "SOPInstanceUID")
_REGION = _col("AnatomicRegionSequence", 0x00082218, "SQ", "1", _D, "Coded region of the body.")

SEGMENTS = image_set_table(
    "segments",
    "One row for each segment of a segmentation.",
    (
        *_IDS,
        _col("SegmentNumber", 0x00620004, "US", "1", _D, "Number of the segment in its object."),
        _col("SegmentLabel", 0x00620005, "LO", "1", _L, "Label; free text."),
        _col("SegmentDescription", 0x00620006, "ST", "1", _I, "Description; free text."),
        _col("SegmentationType", 0x00620001, "CS", "1", _D, "BINARY, FRACTIONAL or LABELMAP, of the whole object."),
        _col("SegmentAlgorithmType", 0x00620008, "CS", "1", _D, "AUTOMATIC, SEMIAUTOMATIC or MANUAL."),
        _col("SegmentAlgorithmName", 0x00620009, "LO", "1-n", _L, "Algorithms that made the segment; free text."),
        _col("SegmentedPropertyCategoryCodeSequence", 0x00620003, "SQ", "1", _D, "Coded category, such as Tissue."),
        _col("SegmentedPropertyTypeCodeSequence", 0x0062000F, "SQ", "1", _D, "What is segmented, such as Liver."),
        _col("SegmentedPropertyTypeModifierCodeSequence", 0x00620011, "SQ", "1", _D, "Modifiers, such as Left."),
        _REGION,
        _col("AnatomicRegionModifierSequence", 0x00082220, "SQ", "1", _D, "Modifiers of the region, such as Left."),
        _col("TrackingID", 0x00620020, "UT", "1", _L, "Name by which the finding is followed; free text."),
        _col("TrackingUID", 0x00620021, "UI", "1", _L, "Unique identifier by which the finding is followed."),
        derived("referenced_series_uid", "VARCHAR", _L, "Series that was segmented; null if several: see references."),
        derived("n_frames", "INTEGER", _D, "Frames of the segment; null for a label map, or if not told."),
    ),
    (*_SORT, "SegmentNumber"),
)

RT_ROIS = image_set_table(
    "rt_rois",
    "One row for each region of interest of a structure set.",
    (
        *_IDS,
        _col("StructureSetLabel", 0x30060002, "SH", "1", _L, "Label of the structure set; free text."),
        _col("ROINumber", 0x30060022, "IS", "1", _D, "Number of the region in its structure set."),
        _col("ROIName", 0x30060026, "LO", "1", _L, "Name of the region; free text, by TG-263 at best."),
        _col("ROIDescription", 0x30060028, "ST", "1", _I, "Description; free text."),
        _col("ROIGenerationAlgorithm", 0x30060036, "CS", "1", _D, "AUTOMATIC, SEMIAUTOMATIC or MANUAL."),
        _col("ROIVolume", 0x3006002C, "DS", "1", _D, "Volume in cubic centimetres, as the sender states it."),
        _col("ROIObservationLabel", 0x30060085, "SH", "1", _L, "Label of the observation; free text."),
        _col("RTROIInterpretedType", 0x300600A4, "CS", "1", _D, "Role in planning, such as PTV, ORGAN, EXTERNAL."),
        _col("RTROIIdentificationCodeSequence", 0x30060086, "SQ", "1", _D, "What the region is, as codes."),
        _col("ROIDisplayColor", 0x3006002A, "IS", "3", _D, "Colour: red, green, blue."),
        derived("n_contours", "INTEGER", _D, "Contours of the region."),
        derived("n_contour_points", "INTEGER", _D, "Points of all of them, as NumberOfContourPoints states."),
        derived("contour_types", "VARCHAR[]", _D, "Distinct geometric types of the contours, sorted."),
        _col("ReferencedFrameOfReferenceUID", 0x30060024, "UI", "1", _L, "Frame of reference of the contours."),
        derived("referenced_series_uid", "VARCHAR", _L, "Series that was contoured; null when there are several."),
    ),
    (*_SORT, "ROINumber"),
)

RT_DOSES = image_set_table(
    "rt_doses",
    "One row for each dose object.",
    (
        *_IDS,
        _col("DoseUnits", 0x30040002, "CS", "1", _D, "GY or RELATIVE."),
        _col("DoseType", 0x30040004, "CS", "1", _D, "PHYSICAL, EFFECTIVE or ERROR."),
        _col("DoseSummationType", 0x3004000A, "CS", "1", _D, "What the dose sums, such as PLAN, BEAM, FRACTION."),
        _col("DoseComment", 0x30040006, "LO", "1", _I, "Comment; free text."),
        _col("DoseGridScaling", 0x3004000E, "DS", "1", _D, "Factor from stored pixel values to DoseUnits."),
        _col("TissueHeterogeneityCorrection", 0x30040014, "CS", "1-3", _D, "Corrections for tissue."),
        _col("NormalizationPoint", 0x30040008, "DS", "3", _D, "Point to which the dose is normalised, in mm."),
        derived("n_dose_planes", "INTEGER", _D, "Planes of the grid, as GridFrameOffsetVector counts them."),
        derived("plane_spacing_mm", "DOUBLE", _D, "Distance of the planes; null when it varies by more than 0.01 mm."),
        derived("n_dvhs", "INTEGER", _D, "Dose-volume histograms in the object."),
        derived("referenced_plan_uids", "VARCHAR[]", _L, "Plans that the dose belongs to."),
        derived("referenced_structure_set_uids", "VARCHAR[]", _L, "Structure sets that its histograms are of."),
    ),
    _SORT,
)

BEAM_TYPE = (
    "STRUCT(number INTEGER, beam_type VARCHAR, radiation VARCHAR, "
    "delivery VARCHAR, n_control_points INTEGER, energy DOUBLE, meterset DOUBLE)[]"
)
RT_PLANS = image_set_table(
    "rt_plans",
    "One row for each radiotherapy plan, with photons, ions or sources.",
    (
        *_IDS,
        _col("RTPlanLabel", 0x300A0002, "SH", "1", _L, "Label; free text."),
        _col("RTPlanName", 0x300A0003, "LO", "1", _L, "Name; free text."),
        _col("RTPlanDescription", 0x300A0004, "ST", "1", _I, "Description; free text."),
        _col("RTPlanDate", 0x300A0006, "DA", "1", _L, "Date of the plan."),
        _col("RTPlanTime", 0x300A0007, "TM", "1", _L, "Local time of the plan."),
        _col("RTPlanGeometry", 0x300A000C, "CS", "1", _D, "PATIENT or TREATMENT_DEVICE."),
        _col("PlanIntent", 0x300A000A, "CS", "1", _D, "CURATIVE, PALLIATIVE and so on."),
        _col("ApprovalStatus", 0x300E0002, "CS", "1", _D, "APPROVED, UNAPPROVED or REJECTED."),
        derived("n_fraction_groups", "INTEGER", _D, "Fraction groups."),
        derived("n_fractions_planned", "INTEGER", _D, "Fractions planned, of all groups together."),
        derived("n_beams", "INTEGER", _D, "Beams, of photons, electrons or ions."),
        derived("n_brachy_setups", "INTEGER", _D, "Brachytherapy application setups."),
        derived("beams", BEAM_TYPE, _D, "Each beam; energy is that of its first control point."),
        derived("beam_names", "VARCHAR[]", _L, "Names of the beams in the same order; free text."),
        derived("treatment_machines", "VARCHAR[]", _L, "Distinct names of machines, sorted."),
        derived("target_prescription_doses_gy", "DOUBLE[]", _D, "Prescribed doses of the targets, in their order."),
        derived("referenced_structure_set_uids", "VARCHAR[]", _L, "Structure sets that the plan is made on."),
        derived("referenced_dose_uids", "VARCHAR[]", _L, "Dose objects of the plan."),
        derived("referenced_plan_uids", "VARCHAR[]", _L, "Plans that it follows or replaces."),
    ),
    _SORT,
)

FRAMES_FUNCTIONAL = image_set_table(
    "frames_functional",
    "One row for each frame of an enhanced multi-frame object, with shared values and what the order of tiles tells.",
    (
        *_IDS,
        derived("frame_number", "INTEGER", _D, "Number of the frame in its instance, from 1, as in `frames`."),
        *(_KNOWN[name] for name in ("ImagePositionPatient", "ImageOrientationPatient")),
        derived("slice_position_mm", "DOUBLE", _D, "Position along the normal of the image plane, in mm."),
        *(_KNOWN[name] for name in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")),
        _col("DimensionIndexValues", 0x00209157, "UL", "1-n", _D, "Place of the frame in the object's dimensions."),
        _col("StackID", 0x00209056, "SH", "1", _D, "Stack of slices that it belongs to."),
        _col("InStackPositionNumber", 0x00209057, "UL", "1", _D, "Place in that stack."),
        _col("TemporalPositionIndex", 0x00209128, "UL", "1", _D, "Time point, from 1."),
        _col("TemporalPositionTimeOffset", 0x0020930D, "FD", "1", _D, "Seconds since the first time point."),
        _col("FrameAcquisitionNumber", 0x00209156, "US", "1", _D, "Acquisition that the frame belongs to."),
        _col("FrameAcquisitionDateTime", 0x00189074, "DT", "1", _L, "Start; null if the offset is unknown."),
        _col("FrameReferenceDateTime", 0x00189151, "DT", "1", _L, "Time the frame stands for; null likewise."),
        _col("FrameAcquisitionDuration", 0x00189220, "FD", "1", _D, "Milliseconds that the frame took."),
        _col("NominalCardiacTriggerDelayTime", 0x00209153, "FD", "1", _D, "Milliseconds since the R wave."),
        _col("FrameType", 0x00089007, "CS", "4-5", _D, "Like ImageType, of the frame."),
        _col("DiffusionBValue", 0x00189087, "FD", "1", _D, "b-value in s/mm2."),
        _col("DiffusionDirectionality", 0x00189075, "CS", "1", _D, "DIRECTIONAL, BMATRIX, ISOTROPIC or NONE."),
        _col("DiffusionGradientOrientation", 0x00189089, "FD", "3", _D, "Direction of the diffusion gradient."),
        _col("EffectiveEchoTime", 0x00189082, "FD", "1", _D, "Echo time in ms."),
        _col("RepetitionTime", 0x00180080, "DS", "1", _D, "Repetition time in ms."),
        _col("FlipAngle", 0x00181314, "DS", "1", _D, "Flip angle in degrees."),
        _col("InversionTimes", 0x00189079, "FD", "1-n", _D, "Inversion times in ms."),
        _col("KVP", 0x00180060, "DS", "1", _D, "Peak voltage of the tube in kV."),
        _col("XRayTubeCurrentInmA", 0x00189330, "FD", "1", _D, "Tube current in mA."),
        _col("ExposureTimeInms", 0x00189328, "FD", "1", _D, "Exposure time in ms."),
        _col("ExposureInmAs", 0x00189332, "FD", "1", _D, "Exposure in mAs."),
        _col("CTDIvol", 0x00189345, "FD", "1", _D, "CT dose index in mGy."),
        _col("FrameLaterality", 0x00209072, "CS", "1", _D, "R, L, U or B."),
        *(_KNOWN[name] for name in ("RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth")),
        _col("ReferencedSegmentNumber", 0x0062000B, "US", "1-n", _D, "Segment that a frame of a segmentation shows."),
        _col("ColumnPositionInTotalImagePixelMatrix", 0x0048021E, "SL", "1", _D, "First column of a tile of a slide."),
        _col("RowPositionInTotalImagePixelMatrix", 0x0048021F, "SL", "1", _D, "First row of a tile of a slide."),
        _col(
            "XOffsetInSlideCoordinateSystem", 0x0040072A, "DS", "1", _D, "Place of a tile on the slide in mm, if sent."
        ),
        _col(
            "YOffsetInSlideCoordinateSystem", 0x0040073A, "DS", "1", _D, "Place of a tile on the slide in mm, if sent."
        ),
        _col("OpticalPathIdentifier", 0x00480106, "SH", "1", _D, "Optical path of a tile."),
    ),
    (*_SORT, "frame_number"),
)

OBJECTS: tuple[Table, ...] = (SEGMENTS, RT_ROIS, RT_DOSES, RT_PLANS, FRAMES_FUNCTIONAL)
