"""Notifications between processes of one machine: a job waits, or a job is settled.

Each listener has a Unix datagram socket in the data directory (unix(7)). A lost notification loses nothing:
the queue is in the database, and every listener polls it too.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

Event = Literal["work", "done"]
"""A job waits, or a job is settled."""

_FOLDER = "notifications"


class Listener:
    """Waits for :func:`notify`; a context manager.

    Args:
        directory: of the installation.
        event: what it waits for.
    """

    def __init__(self, directory: Path, event: Event) -> None:
        folder = directory / _FOLDER / event
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = folder / f"{_host()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with _short(folder) as name:
            self._socket.bind(f"{name}/{self._file.name}")

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._file.unlink(missing_ok=True)

    def fileno(self) -> int:
        """For an event loop: readable after a notification."""
        return self._socket.fileno()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` (0: poll); whether a notification came. Earlier ones count."""
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(1)
        except (TimeoutError, BlockingIOError):
            return False
        with contextlib.suppress(BlockingIOError):  # several notifications count as one
            self._socket.setblocking(False)
            while True:
                self._socket.recv(1)
        return True


def notify(directory: Path, event: Event) -> None:
    """Wake all listeners of ``event`` on this machine; removes sockets of dead processes, ignores errors."""
    folder = directory / _FOLDER / event
    with contextlib.suppress(OSError):
        _notify(folder)


def _notify(folder: Path) -> None:
    if not folder.is_dir():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, _short(folder) as name:
        sender.setblocking(False)
        for file in folder.glob(f"{_host()}-*"):
            try:
                sender.sendto(b"!", f"{name}/{file.name}")
            except BlockingIOError:  # its buffer is full: it wakes anyway
                continue
            except (ConnectionRefusedError, FileNotFoundError):
                file.unlink(missing_ok=True)


def _host() -> str:
    """Name of this machine: a data directory may be shared, but sockets work on one machine only."""
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40]


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A short name of a folder: the path of a socket has 107 bytes at most."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
