"""Any film file to a radiograph; the content decides what it is, not the name.

In: a path. Out: a :class:`Radiograph`, bright = dense, with everything that a reader should be warned about.
The libraries that decode are imported when a file needs them.
"""

from __future__ import annotations

from pathlib import Path

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.records import Radiograph

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


def film_format(path: Path) -> str | None:
    """``DICOM``, ``JPEG``, ``PNG``, ``TIFF`` or ``BMP`` by the first bytes of ``path``, else None.

    Raises:
        UnreadableFileError: there is no such file, it is a folder, empty, or may not be read.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise UnreadableFileError.of("file-missing", path) from error
    except IsADirectoryError as error:
        raise UnreadableFileError.of("file-is-folder", path) from error
    except OSError as error:
        raise UnreadableFileError.of("file-unopenable", path, reason=str(error.strerror)) from error
    if not head:
        raise UnreadableFileError.of("file-empty", path)
    if head[128:] == b"DICM":
        return "DICOM"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    from pneumoscope.imaging.dicom_decoding import looks_like_bare_dataset

    return "DICOM" if looks_like_bare_dataset(head) else None


def read_radiograph(path: Path | str, *, min_size: int | None = None) -> Radiograph:
    """Read a film of any supported format.

    Args:
        path: DICOM, JPEG, PNG, TIFF or BMP; the content decides, not the name.
        min_size: lets a JPEG be decoded at reduced size as long as both sides stay at least this long, in
            pixels; None decodes at full size.

    Returns:
        Pixels (h, w) float32 in [0, 1], bright = dense, read-only; ``original_size`` is always the full
        grid. A polarity that contradicts the picture is a warning; the picture is not changed for it.

    Raises:
        UnreadableFileError: missing, empty, truncated, damaged, of another type or of an absurd size.
    """
    path = Path(path)
    kind = film_format(path)
    if kind is None:
        raise UnreadableFileError.of("not-an-image", path)
    if kind == "DICOM":
        from pneumoscope.imaging.dicom import read_dicom

        radiograph = read_dicom(path)
    else:
        from pneumoscope.imaging.raster import read_raster

        radiograph = read_raster(path, min_size=min_size)
    from pneumoscope.imaging.polarity import check_polarity

    return check_polarity(radiograph)
