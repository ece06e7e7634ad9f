"""Header checks of compressed frames (JPEG, JPEG-LS, JPEG 2000) before a decoder sees them.

Decoders repair what they can: a JPEG cut in half comes back as a picture with a grey lower half, and a
frame of another size as noise. An image must not be repaired by guessing, so a frame that breaks its own
standard is refused here.

Sources: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000); PS3.5 A.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_END = b"\xff\xd9"  # EOI of T.81 table B.1, EOC of T.800 table A.2
_SEQUENTIAL = (0xC0, 0xC1)  # SOF0 and SOF1, T.81 table B.1
_NOT_A_FRAME = (0xC4, 0xC8, 0xCC)  # DHT, JPG, DAC lie among the SOF codes, T.81 table B.1
_SOF55 = 0xF7  # JPEG-LS, T.87 table C.1
_SOS = 0xDA


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """Size of a compressed frame in pixels, samples per pixel, and bits per sample."""

    rows: int
    columns: int
    samples: int
    precision: int


def read_jpeg_header(frame: bytes) -> FrameHeader:
    """The header of a JPEG or JPEG-LS frame.

    Raises:
        ValueError: the frame is cut off, is no JPEG, or has scan parameters that its process forbids.
    """
    _check_end(frame)
    if frame[:2] != b"\xff\xd8":
        raise ValueError("the compressed frame does not start as JPEG does")
    header: FrameHeader | None = None
    process, position = 0, 2
    while position + 4 <= len(frame):
        if frame[position] != 0xFF:
            raise ValueError("the JPEG header is damaged")
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte, T.81 B.1.1.2
            position += 1
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        segment = frame[position + 4 : position + 2 + length]
        if _starts_frame(marker):
            header, process = _frame_segment(segment), marker
        elif marker == _SOS:
            if header is None:
                break
            _check_scan(segment, process)
            return header
        position += 2 + length
    raise ValueError("the JPEG header is incomplete")


def read_j2k_header(frame: bytes) -> FrameHeader:
    """The header of a JPEG 2000 frame (codestream, or a JP2 file round it).

    Raises:
        ValueError: the frame is cut off or is no JPEG 2000.
    """
    _check_end(frame)
    start = frame.find(b"\xff\x4f\xff\x51")  # SOC then SIZ, T.800 A.4.1 and A.5.1
    if start < 0 or len(frame) < start + 43:
        raise ValueError("the compressed frame does not start as JPEG 2000 does")
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    (samples,) = struct.unpack_from(">H", frame, start + 40)
    return FrameHeader(bottom - top, right - left, samples, (frame[start + 42] & 0x7F) + 1)


def _check_end(frame: bytes) -> None:
    # PS3.5 A.4: a fragment is padded to even length, with zero as a rule and sometimes with 0xFF.
    if not frame.rstrip(b"\x00\xff").endswith(_END):
        raise ValueError("the compressed frame is cut off (no end marker)")


def _starts_frame(marker: int) -> bool:
    return (0xC0 <= marker <= 0xCF and marker not in _NOT_A_FRAME) or marker == _SOF55


def _frame_segment(segment: bytes) -> FrameHeader:
    if len(segment) < 6:
        raise ValueError("the JPEG header is damaged")
    precision, rows, columns, samples = struct.unpack_from(">BHHB", segment)
    return FrameHeader(rows, columns, samples, precision)


def _check_scan(segment: bytes, process: int) -> None:
    """T.81 table B.3: a sequential scan covers coefficients 0 to 63 at full precision."""
    if len(segment) < 4:
        raise ValueError("the JPEG scan header is damaged")
    first, last, approximation = segment[-3:]
    if process in _SEQUENTIAL and (first, last, approximation) != (0, 63, 0):
        raise ValueError(
            f"the JPEG scan header is not conformant (spectral selection {first} to {last} in a sequential "
            "process; T.81 table B.3 allows 0 to 63 only)"
        )
