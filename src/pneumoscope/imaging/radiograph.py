"""Reading an image of any supported kind as a radiograph; the content decides what it is, not the name.

A file is read once, and sniffed, hashed and decoded from those bytes. The libraries that decode are imported
when an image needs them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.files import sha256_bytes
from pneumoscope.core.records import Radiograph
from pneumoscope.imaging.decoding import check_file_bytes

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydicom.dataset import Dataset

    Source = Path | str | bytes | Image | Dataset | npt.NDArray[Any]

# First bytes: T.81 B.1.1.3 (SOI and the next marker), PNG 3rd ed. 5.2, TIFF 6.0 section 2 (and BigTIFF),
# and the Windows bitmap file header.
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
)
_HEAD_BYTES = 132  # PS3.10 7.1: preamble and prefix of a DICOM file


def image_format(source: Path | bytes) -> str | None:
    """``DICOM``, ``JPEG``, ``PNG``, ``TIFF`` or ``BMP`` by the first bytes, else None.

    Raises:
        UnreadableFileError: there is no such file, it is a folder, empty, or may not be read.
    """
    if isinstance(source, bytes):
        return _format_of(source[:_HEAD_BYTES])
    return _format_of(_read(source, _HEAD_BYTES))


def _format_of(head: bytes) -> str | None:
    if head[128:] == b"DICM":
        return "DICOM"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    from pneumoscope.imaging.dicom import looks_like_bare_dataset

    return "DICOM" if looks_like_bare_dataset(head) else None


def _read(path: Path, count: int | None = None) -> bytes:
    """The first ``count`` bytes of a file, or all of them where they may be an image."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD_BYTES if count is None else count)
            if not head:
                raise UnreadableFileError.of("file-empty", path)
            if count is not None or _format_of(head) is None:
                return head
            check_file_bytes(os.fstat(stream.fileno()).st_size, path)
            stream.seek(0)
            return stream.read()
    except FileNotFoundError as error:
        raise UnreadableFileError.of("file-missing", path) from error
    except IsADirectoryError as error:
        raise UnreadableFileError.of("file-is-folder", path) from error
    except OSError as error:
        raise UnreadableFileError.of("file-unopenable", path, reason=str(error.strerror)) from error


def read_radiograph(source: Source, *, min_size: int | None = None) -> Radiograph:
    """Read an image of any supported kind.

    Args:
        source: a path or the content (bytes) of a DICOM, JPEG, PNG, TIFF or BMP file; a
            ``pydicom.Dataset``; a PIL image; or an array, (H, W) grey or (H, W, 3) RGB, bright = dense.
        min_size: lets a JPEG be decoded at reduced size as long as both sides stay at least this long, in
            pixels; None decodes at full size.

    Returns:
        Pixels (h, w) float32 in [0, 1], bright = dense, read-only; ``original_size`` is always the full
        grid; ``sha256`` of the content of a file. A polarity that contradicts the picture is a finding; the
        picture is not changed for it.

    Raises:
        UnreadableFileError: missing, empty, truncated, damaged, of another type or of an absurd size.
    """
    from pneumoscope.imaging.polarity import check_polarity

    if isinstance(source, str | Path):
        radiograph = _decode(_read(Path(source)), Path(source), min_size)
    elif isinstance(source, bytes):
        radiograph = _decode(source, None, min_size)
    elif "pydicom" in sys.modules and isinstance(source, sys.modules["pydicom"].Dataset):
        from pneumoscope.imaging.dicom import read_dataset

        radiograph = read_dataset(source)
    else:
        from pneumoscope.imaging.raster import read_pixels

        radiograph = read_pixels(cast("Image | npt.NDArray[Any]", source))
    return check_polarity(radiograph)


def _decode(content: bytes, where: Path | None, min_size: int | None) -> Radiograph:
    check_file_bytes(len(content), where)
    kind = image_format(content)
    if kind is None:
        raise UnreadableFileError.of("not-an-image", where)
    if kind == "DICOM":
        from pneumoscope.imaging.dicom import read_dicom

        radiograph = read_dicom(content, where)
    else:
        from pneumoscope.imaging.raster import read_raster

        radiograph = read_raster(content, where, min_size=min_size)
    return replace(radiograph, sha256=sha256_bytes(content))
