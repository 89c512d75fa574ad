"""What every run needs, imported once by the run launcher's fork server.

Importing this module is its work, and nobody else imports it. It belongs here what leaves no thread, socket or open
file behind, since each run is a fork of the process that imports it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import logging
import os
import tempfile

from ahi.aws import load_service_models
from ahi.index.parquet import keep_spare
from dagster_project.storage import read_migrations_once

# A process with threads is not safe to fork. numpy's BLAS starts one for each core, and pyarrow's allocator one more.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")

MODULES = (
    # Only where it is installed: pyarrow and DuckDB import it then at their first table, which took a run 0.3 s.
    *(["pandas"] if importlib.util.find_spec("pandas") else []),
    "boto3",
    "dagster",
    "dagster._cli.api",
    "dagster._core.storage.legacy_storage",
    "dagster._core.workspace.autodiscovery",
    "boto3.s3.inject",
    "duckdb",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "pydicom",
    "ahi.settings",
    "sqlalchemy.dialects.sqlite",
    "dagster_project.launcher",
    "dagster_project.definitions",
)


def warm_up() -> None:
    """Import what runs use, what Dagster only imports on its first run included.

    A module that cannot be imported is left to the run, which then fails with the error in its own log.
    """
    for module in MODULES:
        try:
            importlib.import_module(module)
        except Exception:
            logging.getLogger(__name__).exception("The fork server goes on without %s", module)
    load_service_models()
    keep_spare()
    read_migrations_once()
    _execute_one_run()
    # What is here stays: collecting it in each fork would copy its pages into every run.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or the extension modules' own checks report the frozen objects as leaks


def _execute_one_run() -> None:
    import dagster as dg

    @dg.asset
    def warm() -> None: ...

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with tempfile.TemporaryDirectory(prefix="warm-") as folder, dg.DagsterInstance.local_temp(folder) as instance:
        dg.materialize([warm], instance=instance, run_config=quiet)


warm_up()
