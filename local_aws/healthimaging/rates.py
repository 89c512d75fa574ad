"""Documented call rates of HealthImaging. How they are kept is in `local_aws/limits.py`."""

from __future__ import annotations

# Operation: (calls a second, burst). Developer guide, "Throttling limits".
RATES: dict[str, tuple[float, float]] = {
    "CreateDatastore": (0.085, 1),
    "DeleteDatastore": (0.085, 1),
    "GetDatastore": (10, 20),
    "ListDatastores": (5, 10),
    "StartDICOMImportJob": (1, 2),
    "GetDICOMImportJob": (25, 50),
    "ListDICOMImportJobs": (10, 20),
    "SearchImageSets": (25, 50),
    "GetImageSet": (25, 50),
    "ListImageSetVersions": (25, 50),
    "GetImageSetMetadata": (50, 100),
    "GetImageFrame": (1000, 2000),
    **dict.fromkeys(
        ("GetDICOMInstance", "GetDICOMInstanceMetadata", "GetDICOMInstanceFrames", "GetDICOMSeriesMetadata"), (50, 100)
    ),
    "UpdateImageSetMetadata": (0.25, 1),
    "CopyImageSet": (0.25, 1),
    "DeleteImageSet": (0.25, 1),
    "TagResource": (10, 20),
    "UntagResource": (10, 20),
    "ListTagsForResource": (10, 20),
}
