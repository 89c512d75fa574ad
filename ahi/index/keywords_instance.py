"""DICOM attributes of the instance level that the index keeps. Belongs here: one line for each keyword.

Does not belong here: derived columns, and which table takes which column: `ahi.index.registry`.
"""

from __future__ import annotations

from functools import partial

from ahi.index.columns import Column, Tier, dicom

_col = partial(dicom, "Instance")
_I, _L, _D = Tier.IDENTIFIED, Tier.LIMITED, Tier.DEIDENTIFIED

INSTANCE: tuple[Column, ...] = (
    _col("MediaStorageSOPInstanceUID", 0x00020003, "UI", "1", _L, "UID of the file meta; should equal SOPInstanceUID."),
    _col("TransferSyntaxUID", 0x00020010, "UI", "1", _D, "Encoding in which the object was received."),
    _col("ImplementationClassUID", 0x00020012, "UI", "1", _D, "Software that wrote the file."),
    _col("ImplementationVersionName", 0x00020013, "SH", "1", _D, "Version of the software that wrote the file."),
    _col("SourceApplicationEntityTitle", 0x00020016, "AE", "1", _L, "Application entity that sent or wrote the file."),
    _col("SOPInstanceUID", 0x00080018, "UI", "1", _L, "Unique identifier of the instance."),
    _col("SOPClassUID", 0x00080016, "UI", "1", _D, "Kind of object, such as CT Image Storage."),
    _col("SpecificCharacterSet", 0x00080005, "CS", "1-n", _D, "Character sets of the text, as sent."),
    _col("InstanceNumber", 0x00200013, "IS", "1", _D, "Number of the instance in its series."),
    _col("AcquisitionNumber", 0x00200012, "IS", "1", _D, "Number of the acquisition in its series."),
    _col("InstanceCreationDate", 0x00080012, "DA", "1", _L, "Date on which the instance was made."),
    _col("InstanceCreationTime", 0x00080013, "TM", "1", _L, "Local time at which the instance was made."),
    _col("ContentDate", 0x00080023, "DA", "1", _L, "Date on which the content was made."),
    _col("ContentTime", 0x00080033, "TM", "1", _L, "Local time at which the content was made."),
    _col("AcquisitionDate", 0x00080022, "DA", "1", _L, "Date on which the acquisition started."),
    _col("AcquisitionTime", 0x00080032, "TM", "1", _L, "Local time at which the acquisition started."),
    _col("AcquisitionDateTime", 0x0008002A, "DT", "1", _L, "Start of the acquisition; null if the offset is unknown."),
    _col("ImageType", 0x00080008, "CS", "2-n", _D, "Origin, examination and more, such as ORIGINAL, PRIMARY, AXIAL."),
    _col("NumberOfFrames", 0x00280008, "IS", "1", _D, "Number of frames."),
    _col("Rows", 0x00280010, "US", "1", _D, "Rows of pixels."),
    _col("Columns", 0x00280011, "US", "1", _D, "Columns of pixels."),
    _col("SamplesPerPixel", 0x00280002, "US", "1", _D, "1 for grey, 3 for colour."),
    _col("PhotometricInterpretation", 0x00280004, "CS", "1", _D, "Meaning of pixel values, such as RGB."),
    _col("BitsAllocated", 0x00280100, "US", "1", _D, "Bits that a sample takes."),
    _col("BitsStored", 0x00280101, "US", "1", _D, "Bits of a sample that carry the value."),
    _col("HighBit", 0x00280102, "US", "1", _D, "Position of the highest bit of the value."),
    _col("PixelRepresentation", 0x00280103, "US", "1", _D, "0 for unsigned, 1 for signed samples."),
    _col("PlanarConfiguration", 0x00280006, "US", "1", _D, "0 for colour by pixel, 1 for colour by plane."),
    _col("PixelAspectRatio", 0x00280034, "IS", "2", _D, "Vertical and horizontal size of a pixel, as a ratio."),
    _col("PixelSpacing", 0x00280030, "DS", "2", _D, "Distance of rows and of columns in mm, in the patient."),
    _col("ImagerPixelSpacing", 0x00181164, "DS", "2", _D, "Distance of rows and of columns in mm, at the detector."),
    _col("SliceThickness", 0x00180050, "DS", "1", _D, "Thickness of the slice in mm."),
    _col("SpacingBetweenSlices", 0x00180088, "DS", "1", _D, "Distance between slices in mm."),
    _col("SliceLocation", 0x00201041, "DS", "1", _D, "Position of the slice in mm; relative."),
    _col("ImagePositionPatient", 0x00200032, "DS", "3", _D, "Position of the first pixel in mm: x, y, z."),
    _col("ImageOrientationPatient", 0x00200037, "DS", "6", _D, "Direction cosines of the rows and of the columns."),
    _col("NumberOfTemporalPositions", 0x00200105, "IS", "1", _D, "Number of time points in the series."),
    _col("ContrastBolusAgent", 0x00180010, "LO", "1", _D, "Contrast agent as sent."),
    _col("ContrastBolusRoute", 0x00181040, "LO", "1", _D, "Route of the contrast agent."),
    _col("ContrastBolusIngredient", 0x00181048, "CS", "1", _D, "Active ingredient of the contrast agent."),
    _col("WindowCenter", 0x00281050, "DS", "1-n", _D, "Centres of the suggested windows."),
    _col("WindowWidth", 0x00281051, "DS", "1-n", _D, "Widths of the suggested windows."),
    _col("RescaleIntercept", 0x00281052, "DS", "1", _D, "b in value = m * stored + b."),
    _col("RescaleSlope", 0x00281053, "DS", "1", _D, "m in value = m * stored + b."),
    _col("RescaleType", 0x00281054, "LO", "1", _D, "Unit of the rescaled value, such as HU."),
    _col("SmallestImagePixelValue", 0x00280106, "US or SS", "1", _D, "Smallest stored pixel value as sent."),
    _col("LargestImagePixelValue", 0x00280107, "US or SS", "1", _D, "Largest stored pixel value as sent."),
    _col("LossyImageCompression", 0x00282110, "CS", "1", _D, "01 after a lossy compression, else 00."),
    _col("LossyImageCompressionRatio", 0x00282112, "DS", "1-n", _D, "Ratios of the lossy compressions, in order."),
    _col("LossyImageCompressionMethod", 0x00282114, "CS", "1-n", _D, "Methods of the lossy compressions, in order."),
    _col("BurnedInAnnotation", 0x00280301, "CS", "1", _D, "YES when the pixels may identify the patient, else NO."),
    _col("RecognizableVisualFeatures", 0x00280302, "CS", "1", _D, "YES when a face can be recognised."),
    _col("ContentLabel", 0x00700080, "CS", "1", _D, "Label of the content of a presentation or segmentation."),
    _col("ContentDescription", 0x00700081, "LO", "1", _L, "Description of the content; free text."),
    _col("CompletionFlag", 0x0040A491, "CS", "1", _D, "PARTIAL or COMPLETE, for reports."),
    _col("VerificationFlag", 0x0040A493, "CS", "1", _D, "UNVERIFIED or VERIFIED, for reports."),
    _col("ConceptNameCodeSequence", 0x0040A043, "SQ", "1", _D, "Coded title of a report."),
)
