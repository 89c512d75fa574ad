"""An AWS for one machine: ministack for S3, SQS and EventBridge, and an emulator of AWS HealthImaging beside it.

Belongs here: everything that stands in for AWS in development and tests. Does not belong here: anything the pipeline
needs on real AWS. Nothing imports this package except its own tests and whoever starts it.
"""
