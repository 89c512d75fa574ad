"""Why an object or an item did not go through. Belongs here: the closed list of codes, each with what to do.

Does not belong here: deciding which one applies.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Code of a failure or quarantine; `ADVICE` says what a person does about it."""

    NOT_DICOM = "NOT_DICOM"
    EMPTY = "EMPTY"
    BROKEN = "BROKEN"
    NO_IDENTITY = "NO_IDENTITY"
    NOT_AN_INSTANCE = "NOT_AN_INSTANCE"
    BROKEN_PIXELS = "BROKEN_PIXELS"
    OBJECT_GONE = "OBJECT_GONE"
    ACCESS_DENIED = "ACCESS_DENIED"
    UNREADABLE = "UNREADABLE"
    TOO_LARGE = "TOO_LARGE"
    ARCHIVED = "ARCHIVED"
    SUPERSEDED = "SUPERSEDED"
    DELETED_BEFORE_IMPORT = "DELETED_BEFORE_IMPORT"
    WITHDRAWN = "WITHDRAWN"
    IMPORT_REJECTED = "IMPORT_REJECTED"
    IMPORT_SERVER_ERROR = "IMPORT_SERVER_ERROR"
    JOB_FAILED = "JOB_FAILED"
    NOT_REPORTED = "NOT_REPORTED"
    MESSAGE_NOT_JSON = "MESSAGE_NOT_JSON"
    MESSAGE_NOT_UNDERSTOOD = "MESSAGE_NOT_UNDERSTOOD"
    MANIFEST_NOT_UNDERSTOOD = "MANIFEST_NOT_UNDERSTOOD"
    UNKNOWN_BUCKET = "UNKNOWN_BUCKET"
    RESULT_NOT_UNDERSTOOD = "RESULT_NOT_UNDERSTOOD"
    RESULT_OF_UNKNOWN_FILE = "RESULT_OF_UNKNOWN_FILE"
    DOCUMENT_NOT_UNDERSTOOD = "DOCUMENT_NOT_UNDERSTOOD"
    DOCUMENT_GONE = "DOCUMENT_GONE"
    RESOURCE_INVALID = "RESOURCE_INVALID"


ADVICE: dict[Reason, str] = {
    Reason.NOT_DICOM: "The object is not DICOM. Nothing to do, unless the sender meant it to be.",
    Reason.EMPTY: "The object has no bytes. Ask the sender to send it again.",
    Reason.BROKEN: "The header ends early or cannot be read. Ask the sender to send it again.",
    Reason.NO_IDENTITY: "A Study, Series or SOP Instance UID or the SOP Class is missing or invalid. Correct it.",
    Reason.NOT_AN_INSTANCE: "A directory (DICOMDIR), not an image or report. Nothing to do.",
    Reason.BROKEN_PIXELS: "The header is complete but the pixel data ends early. Ask the sender to send it again.",
    Reason.OBJECT_GONE: "The object was gone when it was read. Send it again.",
    Reason.ACCESS_DENIED: "The pipeline may not read it. Check the bucket and key policy, then send it again.",
    Reason.UNREADABLE: "S3 would not give the object; the code says why (archived, other key). Send it again.",
    Reason.TOO_LARGE: "Larger than HealthImaging takes in one job. Split it or ask for a higher quota.",
    Reason.ARCHIVED: "In a storage class that S3 reads only after a restore. Restore it and copy it to another class.",
    Reason.SUPERSEDED: "Its sender overwrote it before it was imported. The newer version has its own line.",
    Reason.DELETED_BEFORE_IMPORT: "Its sender deleted it before it was imported.",
    Reason.WITHDRAWN: "Its archive was removed before it was imported. Add the archive again to import it.",
    Reason.IMPORT_REJECTED: "HealthImaging refused the file; its own words are in the reason text. Correct and resend.",
    Reason.IMPORT_SERVER_ERROR: "HealthImaging failed on it in every attempt. Send it again later or open a case.",
    Reason.JOB_FAILED: "The import jobs that held it failed in every attempt. See `import_jobs` for their messages.",
    Reason.NOT_REPORTED: "No job's results mention it after every attempt. Send it again.",
    Reason.MESSAGE_NOT_JSON: "A message on the queue is not JSON. Its bytes are kept; find who sends to the queue.",
    Reason.MESSAGE_NOT_UNDERSTOOD: "A message is JSON of no known form. Its bytes are kept; find who sends it.",
    Reason.MANIFEST_NOT_UNDERSTOOD: "An association manifest lacks what it needs. Correct it and send it again.",
    Reason.UNKNOWN_BUCKET: "The event is of another bucket than the landing bucket. Check the notification settings.",
    Reason.RESULT_NOT_UNDERSTOOD: "A line of a job's results is not JSON. Its file goes into another job by itself.",
    Reason.RESULT_OF_UNKNOWN_FILE: "A job took a file that came into its folder meanwhile. Plan the archive again.",
    Reason.DOCUMENT_NOT_UNDERSTOOD: "HealthImaging's document has an unknown form. It is kept; re-index later.",
    Reason.DOCUMENT_GONE: "The lake lost a document. A sweep has it read from HealthImaging again: nothing to do.",
    Reason.RESOURCE_INVALID: "FHIR lines that are not valid were not sent. Correct them: `ahi fhir failures --export`.",
}
