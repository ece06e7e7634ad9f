"""Photographs of a film on a light box: told by their EXIF, made grey and cropped to the film.

The light box is brighter than any part of the film, the room is dark or coloured; what lies between is the
film. The perspective is left as it is.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.records import FloatArray
from pneumoscope.imaging.decoding import check_image_size, collected_warnings

# EXIF 3.0, tables 4 to 6: written by cameras, not by scanners or viewers.
_EXPOSURE_TIME, _F_NUMBER, _FOCAL_LENGTH = 0x829A, 0x829D, 0x920A
_EXIF_DIRECTORY = 0x8769

_SIDE = 256
"""Pixels of the longer side of the copy on which the film is looked for."""
_BRIGHT, _MIDDLE, _EVEN = 0.65, 0.85, 0.22
"""A line across the light box is bright and even: its 15th percentile and its median are at least these
shares of the brightest grey (the picture's 99.5th percentile), its 85th percentile no more than the third
share above the 15th. A line across a chest has lungs."""
_RIM, _REACH = 0.08, 0.3
"""The light box begins within the outer share of the picture, and reaches no deeper than the second."""
_SIDES = 3
"""A light box is seen at so many sides of the film; a bright strip at one side is part of the film."""
_ROUNDS = 3
"""Rows and columns are cut in turn, since a frame's corners belong to both."""


def is_photograph(content: bytes) -> bool:
    """Whether the file says that a camera took it (exposure time, aperture or focal length in its EXIF)."""
    from PIL import Image

    try:
        with collected_warnings(), Image.open(io.BytesIO(content)) as picture:
            details = picture.getexif().get_ifd(_EXIF_DIRECTORY)
    except Exception:  # what Pillow cannot open is told where the film is read
        return False
    return any(tag in details for tag in (_EXPOSURE_TIME, _F_NUMBER, _FOCAL_LENGTH))


def photographed_film(content: bytes) -> bytes:
    """The film on a photograph, as 8-bit grey PNG without metadata.

    Raises:
        UnreadableFileError: the file is no picture, or one of an absurd size.
    """
    from PIL import Image, ImageOps

    try:
        with collected_warnings(), Image.open(io.BytesIO(content)) as picture:
            check_image_size(picture.height, picture.width, None)
            grey = ImageOps.exif_transpose(picture).convert("L")
    except UnreadableFileError:
        raise
    except Exception as error:
        raise UnreadableFileError.of("photograph-undecodable") from error
    rows, columns = film_area(np.asarray(grey))
    out = io.BytesIO()
    grey.crop((columns.start, rows.start, columns.stop, rows.stop)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def film_area(pixels: npt.NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of the film on a photograph; all of them where no light box is seen round it.

    Args:
        pixels: (H, W) uint8.
    """
    from PIL import Image

    height, width = pixels.shape
    scale = min(1.0, _SIDE / max(height, width))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    small = np.asarray(Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.BOX), np.float32)
    brightest = float(np.percentile(small, 99.5))
    rows, columns = slice(0, shape[0]), slice(0, shape[1])
    sides = [0, 0, 0, 0]
    for _ in range(_ROUNDS):
        top, bottom = _frame(small[rows, columns], brightest)
        rows = slice(rows.start + top, rows.stop - bottom)
        left, right = _frame(small[rows, columns].T, brightest)
        columns = slice(columns.start + left, columns.stop - right)
        sides = [sum(both) for both in zip(sides, (top, bottom, left, right), strict=True)]
    if np.count_nonzero(sides) < _SIDES:
        return slice(0, height), slice(0, width)
    return _enlarged(rows, shape[0], height), _enlarged(columns, shape[1], width)


def _frame(lines: FloatArray, brightest: float) -> tuple[int, int]:
    """How many of the lines (N, M) at the beginning, and at the end, show light box and the room beyond."""
    low, middle, high = np.percentile(lines, (15, 50, 85), axis=1) / max(brightest, 1.0)
    is_box = (low >= _BRIGHT) & (middle >= _MIDDLE) & (high - low <= _EVEN)
    return _thickness(is_box), _thickness(is_box[::-1])


def _thickness(is_box: npt.NDArray[np.bool_]) -> int:
    """Lines up to the end of the first run of light box, if it begins at the edge and ends soon enough."""
    found = np.flatnonzero(is_box[: max(1, round(_RIM * len(is_box)))])
    if not found.size:
        return 0
    beyond = np.flatnonzero(~is_box[found[0] :])
    thickness = int(found[0] + beyond[0]) if beyond.size else len(is_box)
    return thickness if thickness <= _REACH * len(is_box) else 0


def _enlarged(part: slice, small: int, full: int) -> slice:
    """A slice of the small copy on the photograph's own grid, without the pixels that are half light box."""
    start = part.start + (part.start > 0)
    stop = part.stop - (part.stop < small)
    return slice(-(-start * full // small), stop * full // small)
