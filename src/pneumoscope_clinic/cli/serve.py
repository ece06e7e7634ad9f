"""``pneumoscope serve``: web pages and REST interface, with the processes that examine images.

Works without configuration: a data directory in the user's home, SQLite, this machine alone, an administrator
whose secret is shown once.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Annotated

import typer

from pneumoscope_clinic.cli.clinic_settings import (
    ConfigFile,
    DataDir,
    clinic_settings,
    first_secret,
    wait_for_signal,
)

_START_S = 30.0


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="serve")(serve)


def serve(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="8765; 0 is any that is free.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that examine images; 2.")] = None,
    bundle: Annotated[str | None, typer.Option(help="Bundle of a new installation; reference.")] = None,
    shadow: Annotated[
        bool | None, typer.Option("--shadow/--no-shadow", help="Store results, show them to nobody.")
    ] = None,
) -> None:
    """Serve the web page and the REST interface until Ctrl-C."""
    settings = clinic_settings(
        config,
        data_dir=data_dir,
        server__host=host,
        server__port=port,
        workers=workers,
        bundle=bundle,
        shadow=shadow,
    )
    from pneumoscope_clinic.roles import roles
    from pneumoscope_clinic.store import audit_log
    from pneumoscope_clinic.store.bundles import open_active
    from pneumoscope_clinic.store.database import open_store
    from pneumoscope_clinic.web.server import reserve_port, web_role
    from pneumoscope_clinic.worker.processes import Processes

    store = open_store(settings)
    with reserve_port(settings) as reserved:
        settings = settings.model_copy(
            update={"server": settings.server.model_copy(update={"port": reserved.getsockname()[1]})}
        )
        audit_log.check_key(store)
        bundle_id = open_active(store).id
        first_secret(store)
        store.close()
        with Processes(settings, [web_role(settings), *roles(settings)]):
            _await_server(settings.server.host, settings.server.port)
            where = settings.server.public_url or f"http://{settings.server.host}:{settings.server.port}/"
            print(f"pneumoscope serves at {where} with {bundle_id}; data in {_short(settings.directory)}.")
            print("Research and decision support, not a medical device. Ctrl-C stops.")
            wait_for_signal()


def _await_server(host: str, port: int) -> None:
    """Return when the port answers, or after a while: whoever reads the log then sees why it does not."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


def _short(directory: Path) -> str:
    """A directory with ``~`` for the user's home."""
    home = Path.home()
    return f"~/{directory.relative_to(home)}" if directory.is_relative_to(home) else str(directory)
