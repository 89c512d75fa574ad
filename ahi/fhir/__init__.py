"""FHIR R4 without a server: judging lines before HealthLake sees them, and making resources from the index.

Belongs here: what FHIR says, as data and pure functions. Does not belong here: S3, import jobs, the catalog.
"""
