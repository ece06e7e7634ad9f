"""Message framing between worker and sandbox process: JSON and named bytes, never pickles."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

_LENGTH = struct.Struct(">I")
_LARGEST_HEADER = 64 * 2**20
_LARGEST_BLOBS = 2 * 2**30
"""Bytes of all parts of a message: more than an image of the greatest size and what is made of it."""


def write_frame(stream: IO[bytes], values: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
    """Write one message and flush."""
    sizes = {name: len(content) for name, content in blobs.items()}
    header = json.dumps({"values": values, "blobs": sizes}, allow_nan=False).encode()
    stream.write(_LENGTH.pack(len(header)) + header)
    for content in blobs.values():
        stream.write(content)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read one message.

    Raises:
        EOFError: the other side has ended, within a message or between two.
        ValueError: it does not speak this protocol.
    """
    length = _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0]
    if length > _LARGEST_HEADER:
        raise ValueError("a message's header is too long")
    try:
        header = json.loads(_exactly(stream, length))
        sizes = {str(name): int(size) for name, size in header["blobs"].items()}
        values = dict(header["values"])
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("a message is malformed") from error
    if min(sizes.values(), default=0) < 0 or sum(sizes.values()) > _LARGEST_BLOBS:
        raise ValueError("a message's parts are too long")
    return values, {name: _exactly(stream, size) for name, size in sizes.items()}


def _exactly(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) != length:
        raise EOFError
    return content
