"""What DICOM and raster decoding share: size limits, luminance of colour images, warnings of libraries."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import FloatArray

# The largest detector, 43 x 43 cm at 0.1 mm, has 18 million pixels (PS3.3 C.8.11.4 sets no limit); five
# times that is no image but a decompression bomb.
MAX_PIXELS = 100_000_000
# Rows and columns of DICOM are 16-bit numbers (PS3.3 C.7.6.3.1.1).
MAX_SIDE = 65_535
# The smallest image that conformance suites hold is 16 x 16.
MIN_SIDE = 16
# Three uncompressed samples of 16 bits for each of MAX_PIXELS, and as much room again for the header.
MAX_FILE_BYTES = 12 * MAX_PIXELS


def check_image_size(rows: int, columns: int, where: Path | None) -> None:
    """Refuse an image that is too small to show anything or too large to be true.

    Raises:
        UnreadableFileError: a side is under :data:`MIN_SIDE` or over :data:`MAX_SIDE`, or rows x columns
            is over :data:`MAX_PIXELS`.
    """
    if min(rows, columns) < MIN_SIDE:
        raise UnreadableFileError.of("image-too-small", where, rows=rows, columns=columns, limit=MIN_SIDE)
    if rows * columns > MAX_PIXELS or max(rows, columns) > MAX_SIDE:
        raise UnreadableFileError.of(
            "image-too-large", where, rows=rows, columns=columns, limit=MAX_PIXELS, side=MAX_SIDE
        )


def check_file_bytes(length: int, where: Path | None) -> None:
    """Refuse an empty file and one that is longer than any image.

    Raises:
        UnreadableFileError: the file is empty, or longer than :data:`MAX_FILE_BYTES`.
    """
    if length == 0:
        raise UnreadableFileError.of("file-empty", where)
    if length > MAX_FILE_BYTES:
        raise UnreadableFileError.of("file-too-long", where, length=length, limit=MAX_FILE_BYTES)


# ITU-R BT.601-7 section 2.5.1: luminance of R, G and B.
_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# JPEG rounds chroma: grey images saved as RGB come back with channels a few of 255 levels apart.
_CHANNEL_DIFFERENCE = 24 / 255
# Burned-in coloured letters cover less than this share of an image.
_COLORED_SHARE = 0.01


def luminance(colors: FloatArray) -> FloatArray:
    """RGB (H, W, 3) in [0, 1] to grey (H, W) float32 in [0, 1]."""
    grey: FloatArray = np.clip(colors @ _WEIGHTS, 0, 1)
    return grey


def colour_findings(colors: FloatArray) -> list[Finding]:
    """A refusal when more than one pixel in a hundred of an RGB image (H, W, 3) in [0, 1] is not grey."""
    spread = np.ptp(colors[::4, ::4], axis=-1)
    is_colored = (spread > _CHANNEL_DIFFERENCE).mean() > _COLORED_SHARE
    return [Finding.refusal("colour")] if is_colored else []


# warnings.catch_warnings swaps process-wide state; two threads inside it at once would leave it swapped.
_lock = threading.RLock()


def library_findings(library: str, texts: Iterable[str]) -> list[Finding]:
    """What ``library`` warned of."""
    return [Finding.note("library-warning", library=library, text=text) for text in texts]


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the Python warnings of a block; the list is filled when the block ends."""
    messages: list[str] = []
    with _lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield messages
        finally:
            messages.extend(dict.fromkeys(str(warning.message) for warning in caught))
