"""Bells that wake the workers of this machine when work comes, and the web server when work is done.

In: the data directory, with one datagram socket for each who waits (unix(7)). Out: a wait that ends early. A
bell that nobody hears loses nothing: the queue is in the database, and who waits looks there now and then.
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

Rung = Literal["work", "done"]
"""What a bell says: a job waits, or a job is settled."""

_FOLDER = "bells"


class Bell:
    """Hears :func:`ring`; a context manager.

    Args:
        directory: of the installation.
        rung: for what.
    """

    def __init__(self, directory: Path, rung: Rung) -> None:
        folder = directory / _FOLDER / rung
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = folder / f"{_host()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with _short(folder) as name:
            self._socket.bind(f"{name}/{self._file.name}")

    def __enter__(self) -> Bell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._file.unlink(missing_ok=True)

    def fileno(self) -> int:
        """For an event loop: readable when it rang."""
        return self._socket.fileno()

    def wait(self, seconds: float) -> bool:
        """Wait for the bell, at most so long (0: look only); whether it rang. Earlier rings count."""
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(1)
        except (TimeoutError, BlockingIOError):
            return False
        with contextlib.suppress(BlockingIOError):  # rings since then are one
            self._socket.setblocking(False)
            while True:
                self._socket.recv(1)
        return True


def ring(directory: Path, rung: Rung) -> None:
    """Wake everyone on this machine who waits for that in the installation of ``directory``.

    Who died is forgotten. What goes wrong is no error: those who wait look now and then anyway.
    """
    folder = directory / _FOLDER / rung
    with contextlib.suppress(OSError):
        _ring(folder)


def _ring(folder: Path) -> None:
    if not folder.is_dir():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, _short(folder) as name:
        sender.setblocking(False)
        for file in folder.glob(f"{_host()}-*"):
            try:
                sender.sendto(b"!", f"{name}/{file.name}")
            except BlockingIOError:  # it has more rings than it can hold, and will wake
                continue
            except (ConnectionRefusedError, FileNotFoundError):
                file.unlink(missing_ok=True)


def _host() -> str:
    """Of this machine: a data directory may be shared, and nobody hears a bell of another."""
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40]


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A short name of a folder: the path of a socket has 107 bytes at most."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
