"""Unpack a ZIP file that came from the network without trusting it.

In: an archive. Out: a folder with its files, made completely or not at all. Refused: paths that leave the
folder, links, more data than an archive of films can hold. macOS leftovers are skipped.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pneumoscope.core.errors import DownloadError
from pneumoscope.core.records import Progress

_MOST_BYTES = 20 * 2**30
_MOST_FILES = 200_000
# DEFLATE cannot exceed about 1032:1 (zlib's technical notes); films, being JPEG, hardly shrink at all.
_MOST_RATIO = 100
_PIECE = 1 << 20


def unpack_zip(archive: Path, folder: Path, *, progress: Progress | None = None) -> Path:
    """Unpack ``archive`` into ``folder`` and return where its content begins.

    That is ``folder`` itself, or the one folder in it when the archive holds a single one. ``folder`` is
    replaced when it exists. ``progress`` counts files.

    Raises:
        DownloadError: not a ZIP file, damaged, unsafe or absurdly large.
    """
    archive, folder = Path(archive), Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as content:
            members = _safe_members(archive, content)
            for done, (member, path) in enumerate(members, start=1):
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as source, open(target, "xb") as sink:
                    shutil.copyfileobj(source, sink, _PIECE)
                if progress:
                    progress(done, len(members))
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        FileExistsError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise DownloadError(
            f"the archive cannot be unpacked ({error})",
            where=archive,
            remedy="delete it and download it again",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return content_root(folder)


def content_root(folder: Path) -> Path:
    """The one folder in ``folder``, or ``folder`` itself when it holds anything else."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _safe_members(archive: Path, content: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files to unpack and where; sizes in the headers bind, because reading stops there."""
    members = []
    for member in content.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if member.is_dir() or "__MACOSX" in path.parts or path.name == ".DS_Store":
            continue
        drive = path.parts and path.parts[0].endswith(":")
        if path.is_absolute() or ".." in path.parts or drive or "\0" in member.filename:
            raise _unsafe(archive, f"the path '{member.filename}' leaves the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _unsafe(archive, f"'{member.filename}' is a link")
        members.append((member, path))
    size = sum(member.file_size for member, _ in members)
    packed = sum(member.compress_size for member, _ in members)
    if len(members) > _MOST_FILES or size > _MOST_BYTES or size > _MOST_RATIO * max(packed, _PIECE):
        raise _unsafe(archive, f"it would unpack to {len(members):,} files of {size:,} bytes")
    return members


def _unsafe(archive: Path, problem: str) -> DownloadError:
    return DownloadError(
        f"the archive is not safe to unpack: {problem}",
        where=archive,
        expected="plain files of chest films",
        remedy="delete it; it is not what the publisher offers",
    )
