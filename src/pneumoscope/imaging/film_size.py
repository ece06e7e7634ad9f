"""What size a film can have, decided from the header before a pixel is decoded.

In: rows and columns as the file declares them. Out: nothing, or an error that names the limit.
"""

from __future__ import annotations

from pathlib import Path

from pneumoscope.core.errors import UnreadableFileError

# The largest detector, 43 x 43 cm at 0.1 mm, has 18 million pixels (PS3.3 C.8.11.4 sets no limit); five
# times that is no film but a decompression bomb.
MAX_PIXELS = 100_000_000
# Rows and columns of DICOM are 16-bit numbers (PS3.3 C.7.6.3.1.1).
MAX_SIDE = 65_535
# The smallest film that conformance suites hold is 16 x 16.
MIN_SIDE = 16
# Three uncompressed samples of 16 bits for each of MAX_PIXELS, and as much room again for the header.
MAX_FILE_BYTES = 12 * MAX_PIXELS


def check_film_size(rows: int, columns: int, where: Path | None) -> None:
    """Refuse a film that is too small to show anything or too large to be true.

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
    """Refuse an empty file and one that is longer than any film.

    Raises:
        UnreadableFileError: the file is empty, or longer than :data:`MAX_FILE_BYTES`.
    """
    if length == 0:
        raise UnreadableFileError.of("file-empty", where)
    if length > MAX_FILE_BYTES:
        raise UnreadableFileError.of("file-too-long", where, length=length, limit=MAX_FILE_BYTES)
