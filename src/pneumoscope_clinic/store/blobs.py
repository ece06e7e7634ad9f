"""Encrypted files beside the database; a write is atomic and durable.

Kinds: ``received`` (as sent, until the image is examined), ``films`` (de-identified images), ``maps`` (heat
maps), ``pictures`` (for the screen).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pneumoscope_clinic.store.encryption import Cipher

KINDS = ("received", "films", "maps", "pictures")
_NAME = re.compile(r"[0-9a-f]{32}")


class Blobs:
    """Encrypted files under ``root``, one for each kind and image.

    Args:
        root: folder; made, for its owner alone, when it is missing.
        cipher: encrypts.
    """

    def __init__(self, root: Path, cipher: Cipher) -> None:
        self.root = root
        self._cipher = cipher

    def put(self, kind: str, film_id: str, content: bytes) -> None:
        """Keep ``content``; when this returns it survives a power cut. An earlier one is replaced."""
        file = self._file(kind, film_id)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(self._cipher.encrypt(content, f"{kind}/{film_id}"))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(file.parent)

    def get(self, kind: str, film_id: str) -> bytes | None:
        """What was kept, or None.

        Raises:
            PneumoscopeError: the file was altered, or was written with another key.
        """
        try:
            sealed = self._file(kind, film_id).read_bytes()
        except FileNotFoundError:
            return None
        return self._cipher.decrypt(sealed, f"{kind}/{film_id}")

    def delete(self, kind: str, film_id: str) -> None:
        """Remove a blob; one that is not there is no error."""
        self._file(kind, film_id).unlink(missing_ok=True)

    def names(self, kind: str) -> Iterator[tuple[str, float]]:
        """Name (image id) and time of change, in seconds since 1970, of all files of a kind."""
        for file in (self.root / kind).glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                yield file.name, file.stat().st_mtime

    def discard(self, kind: str, name: str) -> None:
        """Remove what :meth:`names` listed."""
        (self.root / kind / name[:2] / Path(name).name).unlink(missing_ok=True)

    def _file(self, kind: str, film_id: str) -> Path:
        if kind not in KINDS or not _NAME.fullmatch(film_id):
            raise ValueError(f"no blob is called {kind}/{film_id}")
        return self.root / kind / film_id[:2] / film_id


def _sync(folder: Path) -> None:
    """Make a rename in ``folder`` durable (fsync(2): the directory has to be synchronised, too)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
