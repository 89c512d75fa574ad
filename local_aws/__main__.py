"""`python -m local_aws`: serve the embedded AWS in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from local_aws.server import StartError, serve
from local_aws.settings import SettingsError, load


def main() -> int:
    """Parse the arguments and serve. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m local_aws",
        description="Serve S3, SQS, EventBridge and AWS HealthImaging on 127.0.0.1, with infra/template.yaml applied.",
        epilog="When it is ready it prints the environment to export and writes it to HOME/stack.env. "
        "Settings LOCAL_AWS_*: see docs/emulator.md. Ctrl-C or SIGTERM stops it and keeps its state.",
    )
    parser.add_argument("--home", type=Path, default=Path(".ahi"), help="state folder (default: .ahi)")
    parser.add_argument("--port", type=int, default=4566, help="loopback port, 0 for a free one (default: 4566)")
    arguments = parser.parse_args()
    try:
        serve(load(arguments.home, arguments.port))
    except (StartError, SettingsError) as error:
        sys.stderr.write(f"local_aws: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
