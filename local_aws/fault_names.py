"""Names that faults may use: services, errors, operations, detail-types.

Belongs here: the names. Does not belong here: the faults (`fault_kinds.py`).
"""

from __future__ import annotations

SERVICES = ("medical-imaging", "healthlake")
# Status of the errors that a call can be made to fail with: those of the model, then those of every AWS service.
ERRORS = {
    "ValidationException": 400,
    "BadRequestException": 400,
    "ServiceQuotaExceededException": 402,
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "NotAcceptableException": 406,
    "ConflictException": 409,
    "FailedDependencyException": 424,
    "ThrottlingException": 429,
    "InternalServerException": 500,
    "UnrecognizedClientException": 403,
    "InvalidSignatureException": 403,
    "ExpiredTokenException": 403,
    "MissingAuthenticationTokenException": 403,
    "ServiceUnavailableException": 503,
}
ERROR_TEXTS = {
    "AccessDeniedException": "User is not authorized to perform this action.",
    "ExpiredTokenException": "The security token included in the request is expired",
    "InternalServerException": "Internal server error",
    "ThrottlingException": "Rate exceeded",
    "UnrecognizedClientException": "The security token included in the request is invalid.",
}
# What a call can be named in a fault: the operations of the models, the actions of DICOMweb (developer guide), and
# those of FHIR REST as CloudTrail names them.
OPERATIONS = (
    *("CopyImageSet", "CreateDatastore", "DeleteDatastore", "DeleteImageSet", "GetDICOMImportJob", "GetDatastore"),
    *("GetImageFrame", "GetImageSet", "GetImageSetMetadata", "ListDICOMImportJobs", "ListDatastores"),
    *("ListImageSetVersions", "ListTagsForResource", "SearchImageSets", "StartDICOMImportJob", "TagResource"),
    *("UntagResource", "UpdateImageSetMetadata"),
    *("GetDICOMBulkdata", "GetDICOMInstance", "GetDICOMInstanceFrames", "GetDICOMInstanceMetadata"),
    *("GetDICOMSeriesMetadata", "SearchDICOMAllInstances", "SearchDICOMAllSeries", "SearchDICOMInstances"),
    *("SearchDICOMSeries", "SearchDICOMStudies", "SearchDICOMStudyInstances", "StoreDICOM", "StoreDICOMStudy"),
    *("CreateFHIRDatastore", "DescribeFHIRDatastore", "ListFHIRDatastores", "UpdateFHIRDatastore"),
    *("DeleteFHIRDatastore", "StartFHIRImportJob", "DescribeFHIRImportJob", "ListFHIRImportJobs"),
    *("StartFHIRExportJob", "DescribeFHIRExportJob", "ListFHIRExportJobs", "GetCapabilities"),
    *("CreateResource", "ReadResource", "VersionReadResource", "UpdateResource", "DeleteResource", "SearchWithGet"),
    *("SearchWithPost", "GetHistory"),
)


# Developer guide, "Using Amazon EventBridge with HealthImaging"; EventBridge events reference, "AWS HealthLake events".
DETAIL_TYPES = (
    *("Data Store Creating", "Data Store Creation Failed", "Data Store Created", "Data Store Deleting"),
    *("Data Store Deleted", "Import Job Submitted", "Import Job In Progress", "Import Job Completed"),
    *("Import Job Failed", "Image Set Created", "Image Set Copying", "Image Set Copying With Read Only Access"),
    *("Image Set Copied", "Image Set Copy Failed", "Image Set Updating", "Image Set Updated"),
    *("Image Set Update Failed", "Image Set Deleting", "Image Set Deleted"),
    *("Data Store Active", "Import Job Queued", "Import Job Completed With Errors"),
    *("Export Job Submitted", "Export Job Queued", "Export Job In Progress", "Export Job Completed"),
    *("Export Job Completed With Errors", "Export Job Failed", "AWS API Call via CloudTrail"),
)
