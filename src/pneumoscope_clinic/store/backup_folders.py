"""Whose a backup's folder is, and the folder that a running backup holds in the data directory.

In: a store and a folder. Out: a folder that a backup may change: new, empty, or marked by an earlier backup
of the same installation. The mark, ``installation.json``, is written before anything else; a folder without
it is nobody's backup, whatever it looks like. Installations are told apart by their keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json, write_json
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import new_id

OWNER = "installation.json"
_HELD = ".backup-"
_LEFTOVER_S = 86_400.0
"""A backup that was killed is left alone for a day."""


def take_folder(store: Store, folder: Path) -> None:
    """See that the folder is, or may become, a backup of this installation, and mark it as such.

    Raises:
        InputError: it belongs to the installation itself, or holds something else or another's backup.
    """
    settings, target = store.settings, folder.resolve()
    data = settings.directory.resolve()
    beside_key = settings.key_file.resolve().parent == target
    if target.is_relative_to(data) or data.is_relative_to(target) or beside_key:
        raise InputError(
            "the folder belongs to the installation itself",
            where=folder,
            expected="a folder that neither holds the data directory or the key nor lies within it",
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    installation = store.cipher.pseudonym("installation", "backup")
    if not any(folder.iterdir()):
        write_json(folder / OWNER, {"installation": installation})
        return
    try:
        owner = read_json(folder / OWNER).get("installation")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            "the folder holds something else", where=folder, remedy="name a new or empty folder"
        ) from error
    if owner != installation:
        raise InputError(
            "the folder holds the backup of another installation",
            where=folder,
            expected="a backup that was made with the same key",
            remedy="name a new or empty folder",
        )


@contextmanager
def held_folder(directory: Path) -> Iterator[Path]:
    """A folder on the file system of the blobs, locked, and gone afterwards."""
    held = directory / f"{_HELD}{new_id()[:8]}"
    held.mkdir(mode=0o700)
    with _opened_folder(held) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield held
        finally:
            shutil.rmtree(held)


def remove_leftovers(store: Store) -> int:
    """Remove what backups that were killed have held in the data directory; how many those were.

    A backup that still runs is not disturbed, however long it takes.
    """
    count = 0
    for held in store.settings.directory.glob(f"{_HELD}*"):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            if time.time() - held.stat().st_mtime > _LEFTOVER_S and not _in_use(held):
                shutil.rmtree(held)
                count += 1
    return count


def _in_use(held: Path) -> bool:
    """Whether the process that made the folder still runs: its lock ends with it."""
    with _opened_folder(held) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)
