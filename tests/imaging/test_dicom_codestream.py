"""Headers of compressed frames, and the frames that must be refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pneumoscope.imaging.dicom_codestream import FrameHeader, read_j2k_header, read_jpeg_header


def encoded(kind, shape=(40, 24), **options):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def scan_parameters(frame):
    """Where the last three bytes of the first scan header lie."""
    position = frame.index(b"\xff\xda")
    (length,) = struct.unpack_from(">H", frame, position + 2)
    return position + 2 + length - 3


def test_jpeg_size_and_precision():
    assert read_jpeg_header(encoded("JPEG")) == FrameHeader(40, 24, 1, 8)
    assert read_jpeg_header(encoded("JPEG", (16, 20, 3))) == FrameHeader(16, 20, 3, 8)
    assert read_jpeg_header(encoded("JPEG", progressive=True)).rows == 40


def test_j2k_size_and_precision():
    assert read_j2k_header(encoded("JPEG2000", no_jp2=True)) == FrameHeader(40, 24, 1, 8)
    assert read_j2k_header(encoded("JPEG2000")) == FrameHeader(40, 24, 1, 8)  # inside a JP2 file


@pytest.mark.parametrize("padding", [b"\x00", b"\xff", b"\x00\x00\x00"])
def test_padding_after_the_end_is_allowed(padding):
    assert read_jpeg_header(encoded("JPEG") + padding).columns == 24


def test_fill_bytes_before_a_marker_are_allowed():
    frame = encoded("JPEG")
    assert read_jpeg_header(frame[:2] + b"\xff\xff" + frame[2:]).rows == 40


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_frames_that_are_cut_off(share):
    for frame, read in ((encoded("JPEG"), read_jpeg_header), (encoded("JPEG2000"), read_j2k_header)):
        with pytest.raises(ValueError, match="cut off"):
            read(frame[: int(share * len(frame))])


@pytest.mark.parametrize("parameters", [(0, 0, 0), (1, 63, 0), (0, 63, 1)])
def test_sequential_scan_with_forbidden_parameters(parameters):
    frame = bytearray(encoded("JPEG"))
    position = scan_parameters(frame)
    frame[position : position + 3] = bytes(parameters)
    with pytest.raises(ValueError, match="not conformant"):
        read_jpeg_header(bytes(frame))


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xd9",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\x00\x00\x00\x00\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x04\x08\x00\xff\xd9",  # frame header too short
        b"\xff\xd8\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\xff\xd9",  # scan before frame
        b"GIF89a\xff\xd9",
    ],
)
def test_damaged_headers(frame):
    with pytest.raises(ValueError, match="JPEG"):
        read_jpeg_header(frame)
    with pytest.raises(ValueError, match="JPEG 2000"):
        read_j2k_header(frame)
