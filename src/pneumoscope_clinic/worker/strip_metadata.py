"""Metadata removal from JPEG, PNG, TIFF and BMP: the same pixels and orientation, nothing else.

JPEG and PNG keep what is needed to decode them; TIFF and BMP are written anew without loss.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import TYPE_CHECKING

from pneumoscope.imaging.decoding import collected_warnings

if TYPE_CHECKING:
    from PIL import Image

# Markers of ITU-T T.81 table B.1.
_SOI, _EOI, _SOS, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF
_JFIF = struct.Struct(">5sHBHHBB")
"""Identifier, version, units, density twice, and the size of a thumbnail (ITU-T T.871 section 10.1)."""
_ADOBE_BYTES = 12
"""Of an Adobe segment, which says how colours are to be read (ITU-T T.872 section 6.5.3)."""
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""In compressed data a marker that is neither a stuffed byte, a fill byte nor a restart (T.81 B.1.1)."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"sRGB", b"cHRM", b"sBIT"})
_ORIENTATION = 0x0112
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0 section 8
_ON_DEEP_GREY = "I;16"
"""Mode of which Pillow leaves WhiteIsZero to whoever reads; of 8 bits and less it inverts itself."""


def clean_raster(content: bytes, kind: str) -> bytes:
    """An image of ``kind`` JPEG, PNG, TIFF or BMP without metadata.

    Raises:
        ValueError, OSError: the bytes are no such image.
    """
    try:
        if kind in ("JPEG", "PNG"):
            return _jpeg(content) if kind == "JPEG" else _png(content)
    except (ValueError, struct.error):  # decoders forgive more than the formats allow
        return _rewritten(content)
    return _rewritten(content)


def clean_jpeg_segments(content: bytes, exif: bytes = b"") -> bytes:
    """A JPEG without comments and application segments, those between its scans, too, and nothing after its
    end; one that was cut off within a scan, which decoders forgive, gets an end.

    Args:
        content: of the file.
        exif: what an APP1 segment shall hold; none when it is empty.

    Raises:
        ValueError: the markers do not follow each other as they should, or it ends before its first scan.
    """
    if content[:2] != bytes((0xFF, _SOI)):
        raise ValueError("not a JPEG")
    kept = [content[:2], _segment(_APP1, exif) if exif else b""]
    position, scans = 2, 0
    while True:
        while content[position + 1 : position + 2] == b"\xff":  # fill bytes
            position += 1
        marker = content[position + 1] if position + 4 <= len(content) else _EOI
        if marker == _EOI and scans:
            return b"".join(kept) + bytes((0xFF, _EOI))
        if marker == _EOI or content[position] != 0xFF:
            raise ValueError("the JPEG's segments are damaged")
        end = position + 2 + struct.unpack_from(">H", content, position + 2)[0]
        kept.append(_cleaned(marker, content[position + 4 : end]))
        position = end
        if marker == _SOS:
            scans += 1
            found = _NEXT_MARKER.search(content, end)
            position = len(content) if found is None else found.start()
            kept.append(content[end:position])


def _cleaned(marker: int, body: bytes) -> bytes:
    """A segment as it stays; empty when it goes."""
    if marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= _JFIF.size:
        return _segment(marker, body[: _JFIF.size - 2] + b"\0\0")  # without its thumbnail
    if marker == _APP14 and body.startswith(b"Adobe"):
        return _segment(marker, body[:_ADOBE_BYTES])
    return b"" if marker == _COMMENT or _APP0 <= marker <= _APP15 else _segment(marker, body)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _jpeg(content: bytes) -> bytes:
    turn = _orientation(content)
    return clean_jpeg_segments(content, b"" if turn == 1 else b"Exif\0\0" + _exif(turn))


def _png(content: bytes) -> bytes:
    turn = _orientation(content)
    kept, position = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    names: list[bytes] = []
    while position + 12 <= len(content):
        length = struct.unpack_from(">I", content, position)[0]
        name, end = content[position + 4 : position + 8], position + 12 + length
        if name in _PNG_KEPT:
            kept.append(content[position:end])
            names.append(name)
        if name == b"IHDR" and turn != 1:
            kept.append(_chunk(b"eXIf", _exif(turn)))
        position = end
        if name == b"IEND":
            break
    _check_order(names)
    return b"".join(kept)


def _check_order(names: list[bytes]) -> None:
    """Check that chunks follow each other as they should (PNG 3rd ed. 5.6), those that are kept."""
    data = names.count(b"IDAT")
    head, tail = names[: -data - 1], names[-data - 1 :]
    once = names[:1] == [b"IHDR"] and names.count(b"IHDR") == 1 and names.count(b"PLTE") <= 1
    if not (data and once and tail == [b"IDAT"] * data + [b"IEND"] and b"IDAT" not in head):
        raise ValueError("the PNG's chunks are out of order")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _orientation(content: bytes) -> int:
    """How the picture must be turned (Exif 2.32, 4.6.4), 1 when it is upright or says nothing of use."""
    from PIL import Image

    with collected_warnings(), Image.open(io.BytesIO(content)) as picture:
        picture.load()  # a PNG may say it after its pixels
        turn = picture.getexif().get(_ORIENTATION, 1)
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _exif(turn: int) -> bytes:
    """An image file directory with one entry, the orientation as one SHORT (TIFF 6.0 section 2)."""
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, _ORIENTATION, 3, 1, turn, 0, 0)


def _rewritten(content: bytes) -> bytes:
    """The picture upright, its values as they were, as PNG, or as TIFF where PNG has no such values."""
    from PIL import Image, ImageOps

    with collected_warnings(), Image.open(io.BytesIO(content)) as picture:
        is_white_zero = _is_white_zero(picture)
        mode = picture.mode
        upright = ImageOps.exif_transpose(picture)
    if mode == "P" and max(upright.tobytes(), default=0) >= len(upright.getpalette() or ()) // 3:
        # Indices beyond the palette are black, and PNG has no room for them.
        with collected_warnings():
            upright = upright.convert("RGBA" if "transparency" in upright.info else "RGB")
        mode = upright.mode
    transparency = upright.info.get("transparency")
    upright.info.clear()
    if transparency is not None:
        upright.info["transparency"] = transparency
    if mode.startswith(_ON_DEEP_GREY) and is_white_zero:
        return _saved(upright, "TIFF", tiffinfo={_PHOTOMETRIC: _WHITE_IS_ZERO})
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        return _saved(upright, "PNG", compress_level=1)
    return _saved(upright, "TIFF")


def _is_white_zero(picture: Image.Image) -> bool:
    tags = getattr(picture, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
