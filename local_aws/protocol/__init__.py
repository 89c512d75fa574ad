"""The server half of AWS's rest-json protocol, read from botocore's service model. Knows no service."""
