"""What the daemon's head start relies on in the installed Dagster."""

import inspect

from dagster._daemon import sensor

from dagster_project.daemon import LOOP_SECONDS


def test_dagster_still_starts_due_sensors_by_the_interval_that_is_shortened() -> None:
    # Read from the module at each turn of the loop, so setting it there before the daemon starts is enough.
    assert "MIN_INTERVAL_LOOP_TIME" in inspect.getsource(sensor.execute_sensor_iteration_loop)
    assert LOOP_SECONDS < sensor.MIN_INTERVAL_LOOP_TIME
