"""uvicorn processes that share one port (SO_REUSEPORT, socket(7))."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.settings import ClinicSettings
from pneumoscope_clinic.worker.processes import Role, stop_requested

_LOOK_S = 0.25
_LEAVE_S = 5
"""Requests in progress may take this long when the server is asked to stop."""


def web_role(settings: ClinicSettings) -> Role:
    """The web servers of an installation."""
    return Role("web", serve, settings.server.processes)


def reserve_port(settings: ClinicSettings) -> socket.socket:
    """A bound socket that does not listen: it keeps the port for this installation while it is open.

    Raises:
        ConfigError: another program has the port, or the address is not this machine's.
    """
    server = settings.server
    try:
        if server.port:
            _bound(server.host, server.port, shared=False).close()  # another installation would share it
        return _bound(server.host, server.port)
    except OSError as error:
        raise ConfigError(
            f"the server cannot listen: {error.strerror}",
            where=f"{server.host}:{server.port}",
            remedy="choose another with --port, or 0 for any that is free",
        ) from error


def serve(settings: ClinicSettings) -> None:
    """Serve until this process is asked to stop."""
    import uvicorn

    from pneumoscope_clinic.store.database import open_store
    from pneumoscope_clinic.web.app import create_app
    from pneumoscope_clinic.web.limits import timed_protocol

    stop = stop_requested()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    store = open_store(settings)
    config = uvicorn.Config(
        create_app(store),
        http=timed_protocol(settings.server.header_seconds),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=list(settings.server.trusted_proxies),
        limit_concurrency=settings.server.max_connections,
        timeout_graceful_shutdown=_LEAVE_S,
    )
    server = uvicorn.Server(config)

    def watch() -> None:  # uvicorn sees signals itself, but not that its parent is gone
        while not stop():
            time.sleep(_LOOK_S)
        server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    with _bound(settings.server.host, settings.server.port) as listening:
        server.run(sockets=[listening])
    store.close()


def _bound(host: str, port: int, *, shared: bool = True) -> socket.socket:
    family = socket.AF_INET6 if _is_v6(host) else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
