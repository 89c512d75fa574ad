"""`python -m dagster_project.daemon run ...`: Dagster's daemon, with the fork server for runs started first.

Dagster makes its launcher when the first run is due, and that run would then wait for all the imports. Belongs here:
that one head start. Everything else is Dagster's own `dagster-daemon`, which works as well.
"""

from __future__ import annotations

import sys
from typing import Final

LOOP_SECONDS: Final = 1
"""How often due sensors are started. Dagster's 5 s, which it has no setting for, leave a queue unheard meanwhile."""


def warm_up() -> None:
    """Start the fork server if `dagster.yaml` asks for warm runs. Runs inherit the environment of this moment."""
    from dagster import DagsterInstance

    from dagster_project.launcher import WarmRunLauncher, start_fork_server

    with DagsterInstance.get() as instance:
        if isinstance(instance.run_launcher, WarmRunLauncher):
            start_fork_server(instance.run_launcher.preload)


def main() -> None:
    """Start the fork server unless it runs, then be the daemon."""
    from dagster._daemon import sensor
    from dagster._daemon.cli import main as dagster_daemon

    warm_up()
    sensor.MIN_INTERVAL_LOOP_TIME = LOOP_SECONDS
    sys.argv[0] = "dagster-daemon"
    dagster_daemon()


if __name__ == "__main__":
    main()
