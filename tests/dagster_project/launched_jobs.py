"""Jobs that the launcher's test launches."""

import threading

import dagster as dg


@dg.op
def nothing(context: dg.OpExecutionContext) -> None:
    context.log.info("ran")


@dg.op
def endless() -> None:
    threading.Event().wait(300)


@dg.job(executor_def=dg.in_process_executor)
def trivial() -> None:
    nothing()


@dg.job(executor_def=dg.in_process_executor)
def hanging() -> None:
    endless()


@dg.job(executor_def=dg.in_process_executor)
def stepping_back() -> None:
    endless()
