"""The server process: one loopback port, one event loop, state under the home.

Belongs here: start, ready, stop. Does not belong here: what is served.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from local_aws import bootstrap
from local_aws.app import LocalAws
from local_aws.asgi import CallLog
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
        settings = replace(settings, port=port)
        prepare_ministack(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, sock, port))


def _http_server(app: LocalAws) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Leave signals to `_serve`: uvicorn would raise them again once it has stopped, before anything else."""
            yield

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
    return Server(config)


async def _serve(settings: LocalSettings, sock: socket.socket, port: int) -> None:
    from local_aws.ministack_bridge import application, save_state

    # SIGTERM and SIGINT are an order to stop, not an error: the process ends with 0.
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    app = LocalAws(application(), CallLog(), settings)
    server = _http_server(app)
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
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
    except bootstrap.BootstrapError as error:
        raise StartError(str(error)) from error
    finally:
        # The order matters: what works calls ministack on this very loop, so it ends first, and elsewhere.
        if parts:
            await asyncio.to_thread(parts.stop)
        server.should_exit = True
        await serving
        if parts:
            parts.close()
