"""Headers of DICOM objects: from ranged reads to typed values. Start at `ahi.dicom.headers`."""
