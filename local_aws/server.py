"""The server process: one loopback port, one event loop, state under the home.

Belongs here: start, ready, stop. Does not belong here: what is served.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from local_aws import bootstrap
from local_aws.app import CallLog, LocalAws
from local_aws.settings import LocalSettings, prepare_ministack

if TYPE_CHECKING:
    from collections.abc import Iterator


class StartError(Exception):
    """The server cannot start; the text says why and what to do."""


@contextmanager
def _home_lock(settings: LocalSettings) -> Iterator[None]:
    """Keep a second server from writing the same state."""
    settings.aws_dir.mkdir(parents=True, exist_ok=True)
    handle = os.open(settings.aws_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(
                f"Another local AWS runs on {settings.home}. Stop it, or choose another --home."
            ) from error
        yield
    finally:
        os.close(handle)


def _bind(port: int) -> socket.socket:
    """Listen on the loopback address only."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as error:
        sock.close()
        raise StartError(
            f"Port {port} of 127.0.0.1 is taken. Stop what listens there, or choose another --port."
        ) from error
    sock.set_inheritable(False)
    return sock


def serve(settings: LocalSettings) -> None:
    """Serve in the foreground until SIGTERM or SIGINT.

    Raises:
        StartError: The port or the home is taken, or the template cannot be applied.
    """
    import uvloop

    with _home_lock(settings):
        sock = _bind(settings.port)
        port = sock.getsockname()[1]
        prepare_ministack(LocalSettings(**{**settings.__dict__, "port": port}))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, sock, port))


async def _serve(settings: LocalSettings, sock: socket.socket, port: int) -> None:
    import uvicorn

    from local_aws.ministack_bridge import application, save_state

    app = LocalAws(application(), CallLog(), settings)
    # A long poll may be open for 20 s; a stop does not wait for it.
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        lifespan="on",
        server_header=False,
        ws="none",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if serving.done():
        await serving
        raise StartError("The HTTP server ended while it was starting.")
    parts: Any = None
    try:
        from local_aws.assembly import Parts

        parts = Parts(settings, app, asyncio.get_running_loop())
        variables = await asyncio.to_thread(parts.bootstrap, port)
        save_state()
        bootstrap.write_env_file(settings.env_file, variables)
        sys.stdout.write("".join(f"export {name}={value}\n" for name, value in variables.items()))
        sys.stdout.flush()
        threading.Thread(target=parts.warm_up, daemon=True).start()
    except BaseException as error:
        server.should_exit = True
        await serving
        if isinstance(error, bootstrap.BootstrapError):
            raise StartError(str(error)) from error
        raise
    await serving
    parts.close()
