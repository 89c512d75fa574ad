"""The embedded AWS in a process that tests fork. Belongs here: what that process imports before, and then runs."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.forked import ForkServer, become

# Not ministack itself, which reads its variables when it is imported.
SERVERS = ForkServer(
    *("local_aws.__main__", "local_aws.assembly", "botocore.loaders", "botocore.regions", "hypercorn.typing", "yaml"),
    *("requests", "uvloop", "uvicorn.lifespan.on", "uvicorn.protocols.http.httptools_impl", "uvicorn.loops.auto"),
    *("numpy", "pydicom.charset", "pydicom.datadict"),
)


def serve_aws(arguments: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
    """Become `python -m local_aws` with these arguments, until it is stopped."""
    become(arguments, environment, folder, stdin=None, stdout=log, stderr=log)
    from local_aws.__main__ import main

    sys.exit(main())
