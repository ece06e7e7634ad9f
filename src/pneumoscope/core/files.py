"""Atomic file writes and file hashes."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing itself can meet; the system names no file then."""


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of ``content`` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    The parent folder is made when it is missing. When the block raises, ``path`` is as it was.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; it names the folder or ``path``.
    """
    path = Path(path)
    try:
        with _temporary(path) as temporary:
            yield temporary
    except OSError as error:
        is_ours = str(error.filename).startswith(str(path.parent / f".{path.name}."))
        if is_ours or (error.filename is None and error.errno in _NO_ROOM):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """As :func:`atomic_path`; an error may name the temporary file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; give it the permissions of an ordinary new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` atomically, indented, keys in the order given; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rows`` (at least one; the keys of the first are the columns) to ``file`` as CSV, atomically.

    None becomes an empty cell.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def read_json(path: Path) -> Any:
    """The content of a UTF-8 JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
