"""`python -m local_aws`: serve the embedded AWS in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from local_aws.server import StartError, serve
from local_aws.settings import SettingsError, load

EPILOG = """\
When it is ready it prints the variables to export, and writes them to HOME/stack.env.
Ctrl-C or SIGTERM stops it; its state stays in HOME.

First steps, in another shell:
  set -a; . .ahi/stack.env; set +a
  aws s3 mb s3://mine; aws s3 cp --recursive dicom/ s3://mine/in/
  aws medical-imaging start-dicom-import-job --datastore-id $AHI_DATASTORE_ID \\
      --data-access-role-arn arn:aws:iam::123456789012:role/any \\
      --input-s3-uri s3://mine/in/ --output-s3-uri s3://mine/out/
  aws medical-imaging search-image-sets --datastore-id $AHI_DATASTORE_ID
  aws healthlake start-fhir-import-job --datastore-id $AHI_FHIR_DATASTORE_ID \\
      --input-data-config S3Uri=s3://mine/fhir/ --data-access-role-arn arn:aws:iam::123456789012:role/any \\
      --job-output-data-config 'S3Configuration={S3Uri=s3://mine/out/,KmsKeyId=alias/any}'

Switches, as variables (all of them: docs/emulator*.md, or GET /_local_aws/ of a running server):
  LOCAL_AWS_RATE_LIMITS=off     no ThrottlingException
  LOCAL_AWS_IMPORT_SECONDS=30   how long an import job takes
  LOCAL_AWS_FAULTS='[{"kind": "fail_call", "operation": "GetImageFrame", "n": 3}]'

Trouble and time, while it runs:
  curl localhost:4566/_local_aws/                                            what there is
  curl localhost:4566/_local_aws/faults -d '{"kind": "drop_events", "times": 1}'
  curl localhost:4566/_local_aws/clock -d '{"advance": 86400}'

In pytest: pytest_plugins = ["local_aws.pytest_plugin"], then the fixtures health_imaging and health_lake.
"""


def main() -> int:
    """Parse the arguments and serve. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m local_aws",
        description="Serve AWS HealthImaging, HealthLake, S3, SQS, EventBridge and more on one port of 127.0.0.1.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--home", type=Path, default=Path(".ahi"), help="state folder (default: .ahi)")
    parser.add_argument("--port", type=int, default=4566, help="loopback port, 0 for a free one (default: 4566)")
    parser.add_argument(
        "--template",
        help="CloudFormation template to apply at start, or none (default: infra/template.yaml of this checkout, if "
        "there is one); its outputs become variables STACK_<Output>",
    )
    arguments = parser.parse_args()
    try:
        serve(load(arguments.home, arguments.port, arguments.template))
    except (StartError, SettingsError) as error:
        sys.stderr.write(f"local_aws: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
