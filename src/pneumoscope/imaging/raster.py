"""JPEG, PNG, TIFF and BMP images, read upright and bright = dense.

Bright is taken to be dense: nothing in these formats says so, except TIFF's WhiteIsZero, which is honoured.

Full scale of an integer picture of 16 bits or more: a detector's 10 to 14 bits are commonly stored in a
16-bit file without any tag, and would be near-black as a share of 65,535. So the full scale is the smallest
2**b - 1 (b at least 8) that holds the largest value, and a warning says when it is not the container's own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import FloatArray, Radiograph, freeze
from pneumoscope.imaging.decoding import (
    check_image_size,
    collected_warnings,
    colour_findings,
    library_findings,
    luminance,
)

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
# What Pillow calls a JPEG file that carries further pictures (previews of phones and cameras).
_MULTI_PICTURE_JPEG = "MPO"
_TRANSPOSED = (5, 6, 7, 8)  # Exif 2.32 table 4.6.4, Orientation: rows and columns change places
_ORIENTATION = 0x0112
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0 section 8
# Decode at least this many times finer than asked, so that the resize that follows still averages.
_OVERSAMPLING = 2


def read_raster(content: bytes, where: Path | None = None, *, min_size: int | None = None) -> Radiograph:
    """Read a JPEG, PNG, TIFF or BMP image.

    Args:
        content: of the file.
        where: the file, for messages.
        min_size: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides stay at least
            this long (pixels); None decodes at full size.

    Returns:
        Pixels (h, w) float32 in [0, 1]; ``original_size`` is that of the full image after EXIF rotation.
        ``source`` has format, photometric_interpretation (Pillow's mode) and bits_stored. Transparent parts
        are black; a picture that is transparent everywhere is read as opaque.

    Raises:
        UnreadableFileError: another format, truncated, damaged, several pages, or of an absurd size.
    """
    with _decoding_errors(where), io.BytesIO(content) as stream:
        # Through a stream: given a name, Pillow (13.0) maps uncompressed TIFFs into memory with rows and
        # columns exchanged when their orientation tag says so, and returns a scrambled picture. From memory:
        # a file would be asked for as many bytes as a strip claims, and room for them be made.
        with collected_warnings() as library:
            picture = Image.open(stream, formats=_FORMATS)
        check_image_size(picture.height, picture.width, where)
        size = _prepare(picture, min_size, where)
        pixels, facts, notes = _to_pixels(picture)
    return _radiograph(pixels, facts, [*notes, *library_findings("Pillow", library)], size)


def read_pixels(source: Image.Image | npt.NDArray[Any]) -> Radiograph:
    """A PIL image, or an array (H, W) grey or (H, W, 3) RGB, bright = dense.

    Raises:
        UnreadableFileError: another shape or type, or of an absurd size.
    """
    with _decoding_errors(None):
        if isinstance(source, Image.Image):
            check_image_size(source.height, source.width, None)
            return _radiograph(*_to_pixels(source.copy()))
        values = np.asarray(source)
        if values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)) or values.dtype.kind not in "uif":
            shape = f"is {values.dtype} of shape {values.shape}"
            raise UnreadableFileError.of("array-unusable", reason=shape)
        check_image_size(values.shape[0], values.shape[1], None)
        facts = {"format": "array", "photometric_interpretation": "RGB" if values.ndim == 3 else "L"}
        notes: list[Finding] = []
        if values.dtype == np.uint8:
            pixels, bits, notes = values.astype(np.float32) / np.float32(255), 8, notes
        else:
            pixels, bits, notes = _scale(values)
        if pixels.ndim == 3:
            notes = [*notes, *colour_findings(pixels)]
            pixels = luminance(pixels)
        return _radiograph(pixels, {**facts, "bits_stored": str(bits)}, notes)


def _radiograph(
    pixels: FloatArray, facts: dict[str, str], notes: list[Finding], size: tuple[int, int] | None = None
) -> Radiograph:
    return Radiograph(
        pixels=freeze(pixels),
        original_size=size or (pixels.shape[0], pixels.shape[1]),
        source=MappingProxyType(facts),
        findings=tuple(notes),
    )


@contextmanager
def _decoding_errors(where: Path | None) -> Iterator[None]:
    """Pillow's codecs raise OSError, SyntaxError, ValueError, struct.error, zlib.error ... on damage."""
    try:
        yield
    except (UnreadableFileError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableFileError.of("image-unidentified", where) from error
    except Exception as error:
        raise UnreadableFileError.of("image-undecodable", where, reason=str(error)) from error


def _prepare(picture: ImageFile, min_size: int | None, where: Path | None) -> tuple[int, int] | None:
    """Refuse several pages; ask a JPEG for a reduced size, and return its full upright (rows, columns)."""
    with collected_warnings():  # damaged EXIF; said once more, and kept, when the picture is turned upright
        if picture.format == "TIFF":
            _check_single_page(picture, where)
        if picture.format not in ("JPEG", _MULTI_PICTURE_JPEG):
            return None
        orientation = picture.getexif().get(_ORIENTATION)
    columns, rows = picture.size
    if min_size is not None:
        side = _OVERSAMPLING * min_size
        picture.draft(None, (side, side))
    return (columns, rows) if orientation in _TRANSPOSED else (rows, columns)


def _format(picture: Image.Image) -> str:
    return "JPEG" if picture.format == _MULTI_PICTURE_JPEG else str(picture.format or "PIL")


def _check_single_page(picture: Image.Image, where: Path | None) -> None:
    pages = int(getattr(picture, "n_frames", 1))
    if pages > 1:
        raise UnreadableFileError.of("tiff-pages", where, pages=pages)


def _to_pixels(picture: Image.Image) -> tuple[FloatArray, dict[str, str], list[Finding]]:
    """Decode, turn upright, drop colour and alpha, scale to [0, 1]; with the facts of the source."""
    mode = picture.mode
    facts = {"format": _format(picture), "photometric_interpretation": mode}
    tile = getattr(picture, "tile", None)
    raw_mode = str(tile[0][3]) if tile else ""
    white_is_zero = mode.startswith("I;16") and _is_white_is_zero(picture)
    picture.load()
    with collected_warnings() as library:
        upright = ImageOps.exif_transpose(picture)
    pixels, notes = _convert(upright, facts)
    # 16-bit colour reaches us as its upper 8 bits.
    if ";16" in raw_mode and not mode.startswith("I"):
        notes.append(Finding.note("colour-16-bit"))
    return (1 - pixels if white_is_zero else pixels), facts, notes + library_findings("Pillow", library)


def _convert(upright: Image.Image, facts: dict[str, str]) -> tuple[FloatArray, list[Finding]]:
    mode = upright.mode
    if mode.startswith("I") or mode == "F":
        pixels, bits, notes = _scale(np.asarray(upright))
        facts["bits_stored"] = str(bits)
        return pixels, notes
    facts["bits_stored"] = "1" if mode == "1" else "8"
    if mode in ("1", "L"):
        return np.asarray(upright.convert("L"), dtype=np.float32) / np.float32(255), []
    return _flatten(upright)


def _is_white_is_zero(picture: Image.Image) -> bool:
    """Pillow inverts WhiteIsZero images of 1 and 8 bits itself, those of 16 bits not."""
    tags: Any = getattr(picture, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _flatten(picture: Image.Image) -> tuple[FloatArray, list[Finding]]:
    """Grey values of a colour, palette or transparent picture over black, and whether it has colour."""
    transparent = "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    rgb = np.asarray(picture.convert("RGBA" if transparent else "RGB"))
    colors, alpha = rgb[..., :3], rgb[..., 3:]
    findings: list[Finding] = []
    if np.array_equal(colors[..., 0], colors[..., 1]) and np.array_equal(colors[..., 1], colors[..., 2]):
        grey = colors[..., 0].astype(np.float32) / np.float32(255)
    else:
        unit = colors.astype(np.float32) / np.float32(255)
        grey, findings = luminance(unit), colour_findings(unit)
    if transparent and alpha.any():
        grey = grey * (alpha[..., 0].astype(np.float32) / np.float32(255))
    return grey, findings


def _scale(values: npt.NDArray[Any]) -> tuple[FloatArray, int, list[Finding]]:
    """Values of more than 8 bits to [0, 1], the bits in use, and what was assumed.

    Raises:
        ValueError: a value is not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("the picture holds values that are not finite")
    if np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= 1:
        return values.astype(np.float32), 32, []
    if low < 0 or np.issubdtype(values.dtype, np.floating):
        note = Finding.note("full-scale-unknown", low=low, high=high)
        span = (high - low) or 1.0
        return ((values.astype(np.float64) - low) / span).astype(np.float32), 32, [note]
    bits = max(8, int(high).bit_length())
    full_scale = 2**bits - 1
    notes = [Finding.note("bits-in-use", bits=bits, full_scale=full_scale)] if bits < 16 else []
    return (values / np.float64(full_scale)).astype(np.float32), bits, notes
